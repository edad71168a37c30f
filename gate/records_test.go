package gate_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

const recordsPolicy = `
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 10/day}, {name: monthly, algorithm: quota, rate: 100/month, anchor: 5}]}
  pro: {limits: [{name: daily, algorithm: quota, rate: 20/day}]}
applications:
  a:
    default_plan: free
    identity: [{header: x-key, known_only: true}, ip]
    allow: ["subject:friend"]
    rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: 3/s}]}]
  strict: {rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: 3/s}]}]}
subjects: {a/filed: {plan: pro, timezone: Asia/Kathmandu}}
`

// peek answers what a subject may do, as text.
func peek(t testing.TB, g *gate.Gate, r gate.Request) string {
	t.Helper()
	r.Operation = "x"
	if r.Now == 0 {
		r.Now = origin
	}
	var d gate.Decision
	if err := g.Peek(t.Context(), &r, &d); err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v %v %s", d.Allowed, d.Reason, d.Plan)
	for _, s := range d.Limits() {
		fmt.Fprintf(&b, " %s=%d", s.ID, s.Outcome.Limit)
	}
	return b.String()
}

func TestRecords(t *testing.T) {
	g := open(t, recordsPolicy)
	records := gate.NewRecords()
	ask := func(application, subject string) string {
		t.Helper()
		return peek(t, g, gate.Request{Application: application, Subject: subject})
	}
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	const free, pro = "true ok free r/w=3 plan/daily=10 plan/monthly=100", "true ok pro r/w=3 plan/daily=20"
	records.Put(&gate.Record{Application: "a", Subject: "alice", Known: true, Plan: "pro"})
	check("before", ask("a", "alice"), free)
	g.SetRecords(records)
	check("a plan", ask("a", "alice"), pro)
	check("another application", ask("strict", "alice"), "true ok  r/w=3")
	records.Put(&gate.Record{Application: "a", Subject: "alice", Known: true})
	check("no plan any more", ask("a", "alice"), free)
	records.Put(&gate.Record{Application: "a", Subject: "filed", Known: true, Plan: "free"})
	check("beats the policy's", ask("a", "filed"), free)
	records.Put(&gate.Record{Application: "a", Subject: "filed"})
	check("deleted", ask("a", "filed"), pro)
	if n := records.Len(); n != 1 {
		t.Errorf("%d records", n)
	}
	records.Put(&gate.Record{Application: "nowhere", Subject: "alice"})
	records.Put(&gate.Record{Application: "nowhere", Subject: "alice", Known: true})

	// A plan that the policy does not have.
	records.Put(&gate.Record{Application: "a", Subject: "gone", Known: true, Plan: "gone"})
	records.Put(&gate.Record{Application: "strict", Subject: "gone", Known: true, Plan: "gone"})
	check("the default one", ask("a", "gone"), free)
	check("none", ask("strict", "gone"), `plan: plan of the record "gone" is not in the policy`)
	if g.UnknownPlans() != 1 {
		t.Errorf("%d unknown plans", g.UnknownPlans())
	}

	// Overrides, one of which does not fit.
	over := func(limit string, count int64, unit headgate.CalendarUnit, period time.Duration) policy.Override {
		return policy.Override{Limit: limit, Count: count, Unit: unit, Period: period}
	}
	records.Put(&gate.Record{Application: "a", Subject: "over", Known: true, Overrides: []policy.Override{
		over("plan/daily", 77, headgate.Day, 24*time.Hour), over("r/w", 5, headgate.NoUnit, time.Second), over("plan/monthly", 5, headgate.Day, 0),
		over("gone/w", 5, headgate.NoUnit, time.Second),
	}})
	check("overrides", ask("a", "over"), "true ok free r/w=5 plan/daily=77 plan/monthly=100")

	// Who must be known.
	for key, want := range map[string]string{"over": "plan/daily=77", "filed": "plan/daily=20", "banned": "plan/daily=10", "stranger": "plan/daily=10"} {
		r := gate.Request{Application: "a", Headers: map[string][]string{"X-Key": {key}}, IP: netip.MustParseAddr("192.0.2.1")}
		if got := peek(t, g, r); !strings.Contains(got, want) {
			t.Errorf("%s: %s", key, got)
		}
	}
}

func TestBanByHand(t *testing.T) {
	g := open(t, recordsPolicy)
	records := gate.NewRecords()
	g.SetRecords(records)
	until := time.UnixMicro(origin).Add(90 * time.Minute)
	ban := gate.Ban{Until: until, Reason: "spam"}
	for _, subject := range []string{"mallory", "filed", "friend"} {
		records.Put(&gate.Record{Application: "a", Subject: subject, Ban: ban})
	}
	for _, subject := range []string{"mallory", "filed", "friend"} {
		var d gate.Decision
		request := &gate.Request{Application: "a", Operation: "x", Subject: subject, Now: origin}
		if err := g.Take(t.Context(), request, &d); err != nil {
			t.Fatal(err)
		}
		if d.Allowed || d.Reason != headgate.Banned || !d.Retryable || d.RetryAfter != 90*time.Minute || len(d.Limits()) != 0 {
			t.Errorf("%s: %+v", subject, d.Decision)
		}
		var e gate.Explanation
		if err := g.Explain(t.Context(), request, &d, &e); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		text.WriteString(e.Verdict)
		for _, s := range e.Steps {
			text.WriteString("\n" + s.Text)
		}
		for _, want := range []string{"banned by hand until", `for "spam"`, "The ban ends at"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s: no %q in\n%s", subject, want, text.String())
			}
		}
		request.Now = until.UnixMicro()
		if err := g.Take(t.Context(), request, &d); err != nil || !d.Allowed {
			t.Errorf("%s after the ban: %+v, %v", subject, d.Decision, err)
		}
	}
	after := until.UnixMicro()
	if got := peek(t, g, gate.Request{Application: "a", Subject: "filed", Now: after}); !strings.Contains(got, "pro") {
		t.Errorf("a ban has taken the place of the policy's record: %s", got)
	}
	// Who is on record for a ban alone is not known.
	r := gate.Request{Application: "a", Headers: map[string][]string{"X-Key": {"mallory"}}, IP: netip.MustParseAddr("192.0.2.1")}
	if got := peek(t, g, r); !strings.HasPrefix(got, "true") {
		t.Errorf("a ban made its subject known: %s", got)
	}
	records.Put(&gate.Record{Application: "a", Subject: "mallory", Known: true, Plan: "pro", Ban: gate.Ban{Until: time.UnixMicro(origin).Add(gate.MaxBan)}})
	var d gate.Decision
	if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "mallory", Now: origin}, &d); err != nil || d.RetryAfter != gate.MaxBan {
		t.Errorf("the longest ban: %+v, %v", d.Decision, err)
	}
	records.Put(&gate.Record{Application: "a", Subject: "mallory", Known: true, Plan: "pro"})
	if got := peek(t, g, gate.Request{Application: "a", Subject: "mallory"}); !strings.HasPrefix(got, "true ok pro") {
		t.Errorf("forgiven: %s", got)
	}
}

// TestRecordedCalendar gives one subject its own zone and day of the month.
func TestRecordedCalendar(t *testing.T) {
	g := open(t, recordsPolicy)
	records := gate.NewRecords()
	g.SetRecords(records)
	kathmandu, err := time.LoadLocation("Asia/Kathmandu")
	if err != nil {
		t.Fatal(err)
	}
	records.Put(&gate.Record{Application: "a", Subject: "alice", Known: true, Timezone: kathmandu, Anchor: 31})
	now := time.Date(2026, 2, 28, 18, 20, 0, 0, time.UTC) // 00:05 on 1 March in Kathmandu
	for subject, want := range map[string][2]string{
		"alice": {"2026-03-02T00:00:00+05:45", "2026-03-31T00:00:00+05:45"},
		"bob":   {"2026-03-01T00:00:00Z", "2026-03-05T00:00:00Z"},
	} {
		var d gate.Decision
		if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: subject, Now: now.UnixMicro()}, &d); err != nil {
			t.Fatal(err)
		}
		for _, s := range d.Limits() {
			reset := now.Add(s.Outcome.ResetAfter).In(cmp.Or(s.Limit.Calendar.Location, time.UTC)).Format(time.RFC3339)
			switch {
			case s.ID == "plan/daily" && reset != want[0], s.ID == "plan/monthly" && reset != want[1]:
				t.Errorf("%s: %s resets at %s, want %v", subject, s.ID, reset, want)
			}
		}
	}
	// A policy's own record can say the same.
	g = open(t, strings.Replace(recordsPolicy, "plan: pro, timezone: Asia/Kathmandu", "plan: free, anchor: 31", 1))
	var d gate.Decision
	if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "filed", Now: now.UnixMicro()}, &d); err != nil {
		t.Fatal(err)
	}
	for _, s := range d.Limits() {
		if reset := now.Add(s.Outcome.ResetAfter).UTC(); s.ID == "plan/monthly" && reset.Day() != 31 {
			t.Errorf("resets at %v", reset)
		}
	}
}

// TestRecordsChangeUnderWay changes a plan while its subject asks: each answer is by
// one plan, and a reload does not lose records.
func TestRecordsChangeUnderWay(t *testing.T) {
	g := open(t, recordsPolicy)
	records := gate.NewRecords()
	g.SetRecords(records)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				switch got := peek(t, g, gate.Request{Application: "a", Subject: "alice"}); got {
				case "true ok free r/w=3 plan/daily=10 plan/monthly=100", "true ok pro r/w=3 plan/daily=20":
				default:
					t.Errorf("half of a plan: %s", got)
					return
				}
			}
		})
	}
	for i := range 2_000 {
		records.Put(&gate.Record{Application: "a", Subject: "alice", Known: i%3 != 0, Plan: []string{"free", "pro"}[i%2]})
	}
	close(done)
	readers.Wait()
}
