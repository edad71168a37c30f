package gate_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
)

const twoPlans = `
version: 1
plans:
  free: {limits: [{name: w, rate: 10/h, burst: 10}]}
  fast: {limits: [{name: w, rate: 100/s, burst: 1000}]}
applications:
  a:
    default_plan: free
    rules: [{name: r, match: {operation: x}}]
subjects:
  a/alice: {plan: free}
  a/carol: {plan: fast}
  a/bobby: {plan: free, overrides: [{limit: plan/w, rate: 100/s, burst: 1000}]}
`

// forge replaces text in a ticket by text of the same length.
func forge(t *testing.T, ticket, old, new string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(ticket)
	if err != nil || !strings.Contains(string(raw), old) {
		t.Fatal("no", old, err)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(raw), old, new, 1)))
}

// TestAlteredTicketKeepsNumbers: whoever alters the plan or the subject of his
// ticket does not get the numbers of another's, at which his bucket would refill.
func TestAlteredTicketKeepsNumbers(t *testing.T) {
	for name, alter := range map[string]func(ticket string) string{
		"plan": func(s string) string { return forge(t, s, "\x04free", "\x04fast") },
		"subject": func(s string) string {
			// the owner, which is the subject, stays: said instead of left out
			s = forge(t, s, "\x05alice", "\x05bobby")
			raw, _ := base64.RawURLEncoding.DecodeString(s)
			return base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(raw), "\x01\x00\x01\x00", "\x05alice\x01\x00", 1)))
		},
		"none": func(s string) string { return s },
	} {
		t.Run(name, func(t *testing.T) {
			g := open(t, twoPlans)
			var d gate.Decision
			now, passed := origin, 0
			for range 20 { // 20 s, in which 10/h gives nothing
				r := gate.Request{Application: "a", Operation: "x", Subject: "alice", Now: now}
				if err := g.Reserve(t.Context(), &r, time.Minute, &d); err != nil {
					t.Fatal(err)
				}
				ticket := string(d.AppendTicket(nil))
				open := d.Allowed
				for {
					if err := g.Take(t.Context(), &r, &d); err != nil {
						t.Fatal(err)
					}
					if !d.Allowed {
						break
					}
					passed++
				}
				if open {
					passed++
					if err := g.Settle(t.Context(), &gate.Claim{Ticket: alter(ticket), Cost: 1, CostSaid: true, Now: now}, &d); err != nil {
						t.Fatal(err)
					}
				}
				now += 1_000_000
			}
			if passed > 10 {
				t.Errorf("%d passed within 20 s of 10 an hour", passed)
			}
		})
	}
}

// TestReplayNeedsItsSlot: a slot that was released is not there for a retry of the request.
func TestReplayNeedsItsSlot(t *testing.T) {
	g := open(t, `
version: 1
applications:
  a:
    rules: [{name: r, match: {operation: x}, limits: [{name: slots, algorithm: concurrency, max: 1}]}]
`)
	r := gate.Request{Application: "a", Operation: "x", Subject: "s", Now: origin, IdempotencyKey: "k", Releases: true}
	var d, other gate.Decision
	if err := g.Take(t.Context(), &r, &d); err != nil || !d.Allowed {
		t.Fatal(err, d.Allowed)
	}
	if err := g.Release(t.Context(), &gate.Claim{Ticket: string(d.AppendTicket(nil)), Now: origin}, &d); err != nil || !d.Held {
		t.Fatal(err, d.Held)
	}
	o := gate.Request{Application: "a", Operation: "x", Subject: "s", Now: origin, Releases: true}
	if err := g.Take(t.Context(), &o, &other); err != nil || !other.Allowed {
		t.Fatal(err, other.Allowed)
	}
	if err := g.Take(t.Context(), &r, &d); err != nil || d.Allowed {
		t.Errorf("a second works beside the one slot: %v, replayed %v, used %d of 1", err, d.Replayed, d.Limits()[0].Used)
	}
}
