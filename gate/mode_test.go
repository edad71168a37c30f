package gate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

const twoModes = `
version: 1
applications:
  a:
    rules:
      - {name: live, match: {operation: live}, ban: {after: 1, within: 1m, for: 1h}, limits: [{name: w, algorithm: quota, rate: 1/year}]}
      - {name: trial, match: {operation: trial}, mode: shadow, limits: [{name: w, algorithm: quota, rate: 1/year}], candidate: {limits: [{name: w, algorithm: quota, rate: 1/year}]}}
  b: {deny: ["subject:mallory"], limits: [{name: all, algorithm: quota, rate: 1/year}]}
`

// inBubble plays f on a gate whose clock is the bubble's.
func inBubble(t *testing.T, policy string, f func(t *testing.T, g *gate.Gate)) {
	synctest.Test(t, func(t *testing.T) {
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
		if err != nil {
			t.Fatal(err)
		}
		f(t, g)
	})
}

// refuses asks twice for each operation, the second time beyond the limit.
func refuses(t *testing.T, g *gate.Gate, application, operation string) (refused bool, by gate.ShadowCause) {
	t.Helper()
	var d gate.Decision
	r := gate.Request{Application: application, Operation: operation, Subject: strconv.FormatInt(time.Now().UnixNano(), 10) + operation}
	for range 2 {
		if err := g.Take(t.Context(), &r, &d); err != nil {
			t.Fatal(err)
		}
	}
	s := d.Limits()[0]
	if s.Allowed || d.Allowed == (d.Reason != headgate.OK && d.Reason != headgate.NoRule) {
		t.Errorf("%s %s: %+v", application, operation, d.Decision)
	}
	if d.Shadow != d.Allowed || s.Shadow != (s.ShadowBy != gate.NotShadow) {
		t.Errorf("%s %s: allowed %v, shadow %v, limit in shadow %v by %v", application, operation, d.Allowed, d.Shadow, s.Shadow, s.ShadowBy)
	}
	if operation == "trial" {
		if sum, _, ok := d.Candidate(); !ok || sum.Allowed {
			t.Errorf("the candidate is in shadow: %+v, %v", sum, ok)
		}
	}
	return !d.Allowed, s.ShadowBy
}

// An operator's mode goes before the policy's, the narrowest first, and ends by
// itself to the instant.
func TestModes(t *testing.T) {
	inBubble(t, twoModes, func(t *testing.T, g *gate.Gate) {
		began := time.Now()
		check := func(why string, live, trial, b bool) {
			t.Helper()
			for _, c := range []struct {
				application, operation string
				want                   bool
			}{{"a", "live", live}, {"a", "trial", trial}} {
				if got, _ := refuses(t, g, c.application, c.operation); got != c.want {
					t.Errorf("%s: rule %s refuses: %v, want %v", why, c.operation, got, c.want)
				}
			}
			var d gate.Decision
			if err := g.Peek(t.Context(), &gate.Request{Application: "b", Operation: "x", Cost: 1, CostSaid: true}, &d); err != nil || d.Allowed == b {
				t.Errorf("%s: b refuses: %v, want %v; %v", why, !d.Allowed, b, err)
			}
		}
		set := func(m gate.Mode) {
			t.Helper()
			if err := g.SetMode(m); err != nil {
				t.Fatal(err)
			}
		}
		var d gate.Decision
		if err := g.Take(t.Context(), &gate.Request{Application: "b", Operation: "x"}, &d); err != nil || !d.Allowed {
			t.Fatal(err)
		}
		check("the policy's modes", true, false, true)
		set(gate.Mode{Shadow: true, Until: began.Add(time.Hour)})
		check("all in shadow", false, false, false)
		if _, by := refuses(t, g, "a", "live"); by != gate.ShadowByOperator {
			t.Errorf("in shadow by %v", by)
		}
		set(gate.Mode{Application: "a", Until: began.Add(40 * time.Minute)})
		check("a enforces all", true, true, false)
		set(gate.Mode{Application: "a", Rule: "live", Shadow: true, Until: began.Add(20 * time.Minute)})
		check("but for one rule", false, true, false)
		want := []gate.Mode{
			{Application: "a", Rule: "live", Shadow: true, Until: began.Add(20 * time.Minute)},
			{Application: "a", Until: began.Add(40 * time.Minute)},
			{Shadow: true, Until: began.Add(time.Hour)},
		}
		if got := g.Modes(); !slices.Equal(got, want) {
			t.Errorf("modes %+v, want %+v", got, want)
		}
		<-time.After(20*time.Minute - time.Microsecond)
		check("a microsecond before the rule's ends", false, true, false)
		<-time.After(time.Microsecond)
		check("the rule's has ended", true, true, false)
		if got := g.Modes(); !slices.Equal(got, want[1:]) {
			t.Errorf("modes %+v, want %+v", got, want[1:])
		}
		<-time.After(20 * time.Minute)
		check("a's has ended", false, false, false)
		set(gate.Mode{Until: time.Now()})
		check("all are ended by hand", true, false, true)
		if got := g.Modes(); len(got) != 0 {
			t.Errorf("modes %+v", got)
		}
		set(gate.Mode{Application: "b", Shadow: true, Until: time.Now().Add(time.Hour)})
		set(gate.Mode{Application: "b", Until: time.Now().Add(time.Hour)})
		check("the later of one place replaces the earlier", true, false, true)
		set(gate.Mode{Application: "b"})
		check("and an instant that is zero ends it", true, false, true)
		if got := g.Modes(); len(got) != 0 {
			t.Errorf("modes %+v", got)
		}
	})
}

// Neither lists nor the lack of a rule are modes: shadow lets nobody pass there.
// A ban in shadow holds nobody, and its count goes on.
func TestModeSpares(t *testing.T) {
	inBubble(t, twoModes, func(t *testing.T, g *gate.Gate) {
		var d gate.Decision
		take := func(application, operation, subject string) *gate.Decision {
			t.Helper()
			if err := g.Take(t.Context(), &gate.Request{Application: application, Operation: operation, Subject: subject}, &d); err != nil {
				t.Fatal(err)
			}
			return &d
		}
		take("a", "live", "s")
		if d := take("a", "live", "s"); d.Reason != headgate.Banned {
			t.Fatalf("%+v", d.Decision)
		}
		if err := g.SetMode(gate.Mode{Shadow: true, Until: time.Now().Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		if d := take("a", "live", "s"); !d.Allowed || d.WouldDeny != headgate.Banned {
			t.Errorf("banned in shadow: %+v, would deny for %v", d.Decision, d.WouldDeny)
		}
		if d := take("b", "x", "mallory"); d.Allowed || d.Reason != headgate.DenyListed {
			t.Errorf("deny-listed in shadow: %+v", d.Decision)
		}
		<-time.After(time.Minute)
		if d := take("a", "live", "s"); d.Reason != headgate.Banned {
			t.Errorf("after the mode: %+v", d.Decision)
		}
	})
}

func TestModeFaults(t *testing.T) {
	g := open(t, twoModes)
	until := time.Now().Add(time.Hour)
	for _, c := range []struct {
		mode  gate.Mode
		code  headgate.Code
		field string
	}{
		{gate.Mode{Application: "c", Until: until}, headgate.NotFound, "application"},
		{gate.Mode{Application: "a", Rule: "x", Until: until}, headgate.NotFound, "rule"},
		{gate.Mode{Rule: "live", Until: until}, headgate.InvalidRequest, "application"},
	} {
		err := g.SetMode(c.mode)
		if e, ok := err.(*headgate.Error); !ok || e.Code != c.code || e.Field != c.field {
			t.Errorf("%+v: %v", c.mode, err)
		}
	}
	if got := g.Modes(); len(got) != 0 {
		t.Errorf("modes %+v", got)
	}
}

// enforced returns for which of so many subjects a second request is refused.
func enforced(t *testing.T, g *gate.Gate, operation string, subjects int) []bool {
	t.Helper()
	refused := make([]bool, subjects)
	var d gate.Decision
	for i := range refused {
		r := gate.Request{Application: "a", Operation: operation, Subject: "user-" + strconv.Itoa(i), Cost: 2, CostSaid: true, Now: origin}
		if err := g.Take(t.Context(), &r, &d); err != nil {
			t.Fatal(err)
		}
		refused[i] = !d.Allowed
		s := d.Limits()[0]
		if d.Allowed && (s.ShadowBy != gate.ShadowByPercent || d.WouldDeny != headgate.CostExceedsLimit) || !d.Allowed && s.Shadow {
			t.Fatalf("%s: %+v would deny for %v, in shadow by %v", r.Subject, d.Decision, d.WouldDeny, s.ShadowBy)
		}
	}
	return refused
}

// enforce_percent refuses for its share of the subjects, always the same; of
// nested shares the smaller rules, and lies within the larger.
func TestEnforcePercent(t *testing.T) {
	const subjects = 10_000
	const policy = `
version: 1
applications:
  a:
    enforce_percent: 50
    rules:
      - {name: ten, match: {operation: ten}, enforce_percent: 10, limits: [{name: w, rate: 1/s, burst: 1}]}
      - {name: half, match: {operation: half}, limits: [{name: w, rate: 1/s, burst: 1}]}
      - {name: most, match: {operation: most}, enforce_percent: 90, limits: [{name: w, rate: 1/s, burst: 1}]}
      - {name: three, match: {operation: three}, enforce_percent: 20, limits: [{name: w, rate: 1/s, burst: 1, enforce_percent: 3}]}
      - {name: one, match: {operation: one}, limits: [{name: w, rate: 1/s, burst: 1, enforce_percent: 1}]}
`
	g := open(t, policy)
	wider := make([]bool, subjects)
	for i := range wider {
		wider[i] = true
	}
	for _, c := range []struct {
		operation string
		percent   int
	}{{"most", 50}, {"half", 50}, {"ten", 10}, {"three", 3}, {"one", 1}} {
		got, n := enforced(t, g, c.operation, subjects), 0
		for i, refused := range got {
			if refused {
				n++
			}
			if refused && !wider[i] {
				t.Fatalf("%s: user-%d is refused here and not by a larger share", c.operation, i)
			}
		}
		if want := subjects * c.percent / 100; n < want-100 || n > want+100 {
			t.Errorf("%s: %d of %d are refused, want %d %%", c.operation, n, subjects, c.percent)
		}
		if again := enforced(t, open(t, policy), c.operation, subjects); !slices.Equal(got, again) {
			t.Errorf("%s: others are refused by another gate", c.operation)
		}
		wider = got
	}
}

// Operators, reloads and requests of all kinds meet.
func TestModesReloadsAndRequestsRace(t *testing.T) {
	name := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(rate int) {
		text := fmt.Sprintf(`
version: 1
applications:
  a:
    ban: {after: 3, within: 1m, for: 1s}
    rules:
      - name: r
        match: {operation: x}
        enforce_percent: 50
        limits: [{name: w, rate: %d/s, burst: 5}, {name: slots, algorithm: concurrency, max: 4}, {name: daily, algorithm: quota, rate: 100000/day}]
        candidate: {limits: [{name: w, rate: 1/s}]}
subjects: {a/s0: {timezone: Asia/Kathmandu, overrides: [{limit: w, rate: %d/s, burst: 9}, {limit: daily, rate: 50000/day}]}}
`, rate, rate+1)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(1)
	g, err := gate.Open(t.Context(), gate.Config{PolicyFile: name, Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for i := range 20 {
			write(2 + i)
			if err := g.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	all.Go(func() {
		for i := range 200 {
			m := gate.Mode{Application: "a", Shadow: i%2 == 0, Until: time.Now().Add(time.Duration(i%3) * time.Millisecond)}
			if i%5 == 0 {
				m.Rule = "r"
			}
			if err := g.SetMode(m); err != nil {
				t.Error(err)
			}
			g.Modes()
		}
	})
	for i := range 4 {
		all.Go(func() {
			var d gate.Decision
			for j := range 300 {
				r := gate.Request{Application: "a", Operation: "x", Subject: "s" + strconv.Itoa(i%2), Releases: true}
				var err error
				switch j % 3 {
				case 0:
					err = g.Take(t.Context(), &r, &d)
				case 1:
					r.IdempotencyKey = strconv.Itoa(j % 7)
					err = g.Reserve(t.Context(), &r, time.Second, &d)
				case 2:
					err = g.Peek(t.Context(), &r, &d)
				}
				if err != nil {
					t.Errorf("request %d: %v", j, err)
					return
				}
				if d.HasTicket() {
					ticket := string(d.AppendTicket(nil))
					if err := g.Settle(t.Context(), &gate.Claim{Ticket: ticket}, &d); err != nil {
						t.Errorf("settle %d: %v", j, err)
					}
				}
			}
		})
	}
	all.Wait()
	var d gate.Decision
	if err := g.Peek(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "s1"}, &d); err != nil || d.Limits()[1].Used != 0 {
		t.Errorf("%v; slots are left: %+v", err, d.Limits())
	}
}
