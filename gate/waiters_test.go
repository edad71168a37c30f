package gate_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// TestWaitingIsNoDenial: a request that waits and passes was never denied, and counts towards no ban.
func TestWaitingIsNoDenial(t *testing.T) {
	inLine(t, `
version: 1
applications:
  a:
    rules:
      - {name: r, match: {operation: x}, limits: [{name: w, rate: 1/s, burst: 1}], max_wait: 10s, ban: {after: 5, within: 1m, for: 1h}}
`, func(l *line) {
		for i := range 12 {
			var d gate.Decision
			if err := l.gate.Take(l.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "s"}, &d); err != nil || !d.Allowed {
				l.Errorf("request %d, one after the other, each may wait: %v %v %v", i, err, d.Allowed, d.Reason)
				if d.Reason == headgate.Banned {
					return
				}
			}
		}
	})
}

// TestWaitersFollowThePolicy: after a change of the policy nobody passes under the old numbers, waiting or
// not.
func TestWaitersFollowThePolicy(t *testing.T) {
	text := func(rate string) string {
		return `
version: 1
applications:
  a:
    rules:
      - {name: r, match: {operation: x}, limits: [{name: w, rate: ` + rate + `, burst: 1}], max_wait: 1m}
`
	}
	file := filepath.Join(t.TempDir(), "p.yaml")
	write := func(rate string) {
		if err := os.WriteFile(file, []byte(text(rate)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("1/s")
	synctest.Test(t, func(t *testing.T) {
		g, err := gate.Open(t.Context(), gate.Config{PolicyFile: file, Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
		if err != nil {
			t.Fatal(err)
		}
		l := &line{T: t, gate: g, began: time.Now()}
		var all []*answer
		for range 20 {
			all = append(all, l.ask(l.Context(), gate.Request{Application: "a", Operation: "x", Subject: "s"}))
		}
		write("1/h")
		if err := g.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.until(59 * time.Second)
		l.all.Wait()
		passed := 0
		for _, a := range all {
			if a.allowed {
				passed++
			}
		}
		if passed > 2 {
			t.Errorf("%d passed within a minute of 1/h", passed)
		}
	})
}

// TestWaitersHearReleases: a request that waits for a slot, or for what another
// one holds, passes when it is given back, and not only when it expires.
func TestWaitersHearReleases(t *testing.T) {
	inLine(t, `
version: 1
applications:
  a:
    rules:
      - {name: slots, match: {operation: slots}, limits: [{name: c, algorithm: concurrency, max: 1, ttl: 30s}], max_wait: 10s}
      - {name: shared, match: {operation: shared}, limits: [{name: c, algorithm: concurrency, max: 1, ttl: 30s, per: application}], max_wait: 10s}
      - {name: held, match: {operation: held}, limits: [{name: w, rate: 1/s, burst: 5}], max_wait: 10s}
`, func(l *line) {
		for _, operation := range []string{"slots", "shared", "held"} {
			began := l.at()
			first := gate.Request{Application: "a", Operation: operation, Subject: "first", Cost: 1, CostSaid: true, Releases: true}
			second := first
			if operation == "shared" {
				second.Subject = "second"
			}
			if operation == "held" {
				first.Cost, second.Cost = 5, 5
			}
			var d gate.Decision
			if err := l.gate.Reserve(l.Context(), &first, 4*time.Second, &d); err != nil || !d.Allowed {
				l.Fatal(err, d.Reason)
			}
			ticket := string(d.AppendTicket(nil))
			a := l.ask(l.Context(), second)
			l.until(began + 1500*time.Millisecond)
			if err := l.gate.Release(l.Context(), &gate.Claim{Ticket: ticket}, &d); err != nil || !d.Held {
				l.Fatal(err, d.Held)
			}
			l.until(began + 1500*time.Millisecond + time.Microsecond)
			if !a.allowed || a.waited != 1500*time.Millisecond {
				l.Errorf("%s: %+v, want it to pass at the release", operation, *a)
			}
			l.until(began + time.Minute)
		}
	})
}

// TestSlotsGiveUp: who waits for slots that nobody releases is refused at the end
// of his time, and one who could not start anyway at once.
func TestSlotsGiveUp(t *testing.T) {
	inLine(t, `
version: 1
applications:
  a:
    rules:
      - {name: r, match: {operation: x}, limits: [{name: c, algorithm: concurrency, max: 1, ttl: 1min}, {name: day, algorithm: quota, rate: 2/day}], max_wait: 5s}
`, func(l *line) {
		r := gate.Request{Application: "a", Operation: "x", Subject: "s", Cost: 1, CostSaid: true, Releases: true}
		var d gate.Decision
		if err := l.gate.Take(l.Context(), &r, &d); err != nil || !d.Allowed {
			l.Fatal(err, d.Reason)
		}
		a := l.ask(l.Context(), r)
		l.until(10 * time.Second)
		if a.allowed || a.reason != headgate.WaitTimeout || a.waited != 5*time.Second {
			l.Errorf("%+v, want wait_timeout after 5 s", *a)
		}
		l.until(2 * time.Minute)
		if err := l.gate.Take(l.Context(), &r, &d); err != nil || !d.Allowed {
			l.Fatal(err, d.Reason)
		}
		if a := l.ask(l.Context(), r); a.allowed || a.reason != headgate.QuotaExceeded || a.waited != 0 {
			l.Errorf("%+v, want a refusal at once: the quota is used up", *a)
		}
	})
}
