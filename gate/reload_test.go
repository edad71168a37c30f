package gate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/store/memstore"
)

// file is a policy file and the gate that reads it.
type file struct {
	*testing.T
	name string
	gate *gate.Gate
}

func openFile(t *testing.T, text string) *file {
	t.Helper()
	f := &file{T: t, name: filepath.Join(t.TempDir(), "policy.yaml")}
	f.write(text)
	var err error
	f.gate, err = gate.Open(t.Context(), gate.Config{PolicyFile: f.name, Store: memstore.New(memstore.Config{Origin: origin})})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *file) write(text string) {
	f.Helper()
	if err := os.WriteFile(f.name, []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
}

// reload puts text in force.
func (f *file) reload(text string) {
	f.Helper()
	f.write(text)
	if err := f.gate.Reload(f.Context()); err != nil {
		f.Fatal(err)
	}
}

// take decides for application a and returns the answer.
func (f *file) take(at time.Duration, cost int64) gatetest.Answer {
	f.Helper()
	a, err := gatetest.Local(f.gate).Decide(f.Context(), gatetest.Call{
		At:      gatetest.Start.Add(at),
		Request: gate.Request{Application: "a", Operation: "x", Subject: "s", Cost: cost, CostSaid: true},
	})
	if err != nil {
		f.Fatal(err)
	}
	return a
}

// rateOf is a policy with one bucket and whatever else.
func rateOf(rate string, burst int, more string) string {
	return fmt.Sprintf("version: 1\napplications:\n  a:\n    limits: [{name: all, rate: %s, burst: %d}%s]\n", rate, burst, more)
}

func TestReloadKeepsLevels(t *testing.T) {
	f := openFile(t, rateOf("60/h", 10, ", {name: daily, algorithm: quota, rate: 10/day}"))
	f.take(0, 8)
	f.reload(rateOf("60/min", 100, ", {name: daily, algorithm: quota, rate: 20/day}"))
	a := f.take(0, 2)
	if !a.Allowed || a.Limits[0].Remaining != 0 || a.Limits[1].Used != 10 || a.Limits[1].Limit != 20 {
		t.Errorf("two tokens of ten were left and eight of the day used; then, with cost 2: %+v", a)
	}
	if a := f.take(0, 1); a.Allowed || a.RetryAfter != time.Second {
		t.Errorf("a higher burst gave tokens away, or the old rate is in force: %+v", a)
	}
	f.reload(rateOf("60/min", 100, ""))
	if a := f.take(0, 0); len(a.Limits) != 1 {
		t.Errorf("the removed limit is charged: %+v", a)
	}
}

// A reload keeps the level of a bucket to the microsecond, fractions of tokens
// included, whether its numbers change or not.
func TestReloadKeepsFractions(t *testing.T) {
	for _, c := range []struct {
		name, next string
		passesAt   time.Duration
	}{
		{"same numbers", rateOf("1/10s", 1, ", {name: more, rate: 5/s}"), 10 * time.Second},
		{"same numbers, written otherwise", rateOf("1/10000ms", 1, ""), 10 * time.Second},
		{"other numbers", rateOf("1/10s", 2, ""), 10 * time.Second},
	} {
		f := openFile(t, rateOf("1/10s", 1, ""))
		f.take(0, 1)
		f.reload(c.next)
		f.take(6*time.Second, 0) // six tenths of a token are there
		if a := f.take(c.passesAt-time.Millisecond, 1); a.Allowed || a.RetryAfter != time.Millisecond {
			t.Errorf("%s: a millisecond before %v: %+v", c.name, c.passesAt, a)
		}
		if a := f.take(c.passesAt, 1); !a.Allowed {
			t.Errorf("%s: at %v: %+v", c.name, c.passesAt, a)
		}
	}
}

// A limit whose numbers stay keeps the very value that the store knows; one whose
// numbers change is another value of the same budget.
func TestReloadKeepsLimits(t *testing.T) {
	f := openFile(t, rateOf("1/s", 1, ""))
	limit := func() *headgate.Prepared {
		var d gate.Decision
		if err := f.gate.Peek(t.Context(), &gate.Request{Application: "a", Operation: "x", Now: origin}, &d); err != nil {
			t.Fatal(err)
		}
		return d.Limits()[0].Limit
	}
	first := limit()
	f.reload(rateOf("1/s", 1, ", {name: more, rate: 5/s}"))
	if same := limit(); same != first {
		t.Error("the numbers stayed: another value")
	}
	f.reload(rateOf("1/s", 2, ""))
	if next := limit(); next == first || next.ID != first.ID {
		t.Errorf("the numbers changed: the same value %v, id %x, want %x", next == first, next.ID, first.ID)
	}
}

func TestReloadChangesRules(t *testing.T) {
	f := openFile(t, rateOf("60/h", 10, ""))
	if a := f.take(0, 1); a.Rule != "" {
		t.Fatalf("rule %q", a.Rule)
	}
	f.reload(rateOf("60/h", 10, "") + "    rules: [{name: new, match: {operation: x}}]\n    trusted_proxies: [10.0.0.0/8]\n  b: {}\n")
	if a := f.take(0, 1); a.Rule != "new" || a.Remaining != 8 {
		t.Errorf("after the reload: %+v", a)
	}
	if trusted, ok := f.gate.TrustedProxies("a"); !ok || len(trusted) != 1 || trusted[0].String() != "10.0.0.0/8" {
		t.Errorf("trusted proxies %v, %v", trusted, ok)
	}
	if trusted, ok := f.gate.TrustedProxies("b"); !ok || len(trusted) != 2 {
		t.Errorf("trusted proxies by default %v, %v", trusted, ok)
	}
	if _, ok := f.gate.TrustedProxies("c"); ok {
		t.Error("an application that does not exist has trusted proxies")
	}
}

func TestReloadRefusesBadFiles(t *testing.T) {
	f := openFile(t, rateOf("60/h", 10, ""))
	first := f.gate.Status()
	if first.Revision != 1 || first.File != f.name || !first.LastReloadOK || first.LoadedAt.IsZero() || !first.LastReloadAt.Equal(first.LoadedAt) {
		t.Errorf("status after Open: %+v", first)
	}

	f.write("version: 1\napplications:\n  a:\n    limits: [{name: all, rate: 5/m}]\n    colour: red\n    rules:\n      - {name: r, match: {operation: x}, skip: nonsense(}\n")
	err := f.gate.Reload(t.Context())
	faults, ok := errors.AsType[policy.Faults](err)
	if !ok || len(faults) != 3 {
		t.Fatalf("%d faults, want 3: %v", len(faults), err)
	}
	for i, line := range []int{4, 5, 7} {
		if faults[i].Line != line || faults[i].File != f.name {
			t.Errorf("fault %d is at %s:%d, want line %d: %v", i, faults[i].File, faults[i].Line, line, faults[i])
		}
	}
	after := f.gate.Status()
	if after.LastReloadOK || after.Revision != 1 || !after.LoadedAt.Equal(first.LoadedAt) || after.LastReloadAt.Before(first.LastReloadAt) {
		t.Errorf("status after a bad file: %+v", after)
	}
	if a := f.take(0, 1); !a.Allowed || a.Limit != 10 {
		t.Errorf("the old policy does not rule: %+v", a)
	}

	if err := os.Remove(f.name); err != nil {
		t.Fatal(err)
	}
	if err := f.gate.Reload(t.Context()); !errors.Is(err, os.ErrNotExist) || f.gate.Status().LastReloadOK {
		t.Errorf("without the file: %v", err)
	}

	f.reload(rateOf("60/h", 10, "")) // the old text: no new revision, but a good reload
	if s := f.gate.Status(); s.Revision != 1 || !s.LastReloadOK || !s.LoadedAt.Equal(first.LoadedAt) {
		t.Errorf("status after the old text came back: %+v", s)
	}
	f.reload(rateOf("60/h", 11, ""))
	if s := f.gate.Status(); s.Revision != 2 || !s.LastReloadOK || !s.LoadedAt.Equal(s.LastReloadAt) {
		t.Errorf("status after another text: %+v", s)
	}
	var d gate.Decision
	if err := f.gate.Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "s", Now: origin}, &d); err != nil || d.Revision != 2 {
		t.Errorf("revision of a decision is %d, %v; want 2", d.Revision, err)
	}
}

func TestOpenRefusesAndValidateAgrees(t *testing.T) {
	const head = "version: 1\nplans:\n  free: {limits: [{name: g, per: global, rate: 10/s}]}\n  pro: {limits: [{name: g, per: global, rate: 10/s}]}\napplications:\n"
	for _, c := range []struct {
		name, text string
		line       int
		message    string // "" if the policy is good
	}{
		{"good", head + "  a: {limits: [{name: g, per: global, rate: 10/s}]}\n  b: {}\n", 0, ""},
		{"global limits of two applications differ", head + "  a: {limits: [{name: h, per: global, rate: 1/s}]}\n  b: {limits: [{name: h, per: global, rate: 2/s}]}\n", 7, `"h" has other numbers`},
		{"global limits of plan and application differ", head + "  a: {limits: [{name: g, per: global, rate: 11/s}]}\n", 6, `"g" has other numbers`},
		{"global limits of two plans differ", strings.Replace(head, "10/s}]}\na", "12/s}]}\na", 1) + "  a: {}\n", 4, `"g" has other numbers`},
		{"numbers by plan of a shared budget", head + "  a:\n    rules:\n      - name: r\n        match: {operation: x}\n        limits: [{name: w, per: application, rate: 1/s, plans: {pro: {rate: 2/s}}}]\n", 10, "numbers by plan"},
		{"numbers by plan of an application's limit", head + "  a:\n    limits: [{name: w, rate: 1/s, plans: {pro: unlimited}}]\n", 7, "numbers by plan"},
		{"an expression that does not compile", head + "  a:\n    rules:\n      - {name: r, match: {operation: x}, cost: request.size}\n", 8, "request.size"},
		{"an expression of another type", head + "  a:\n    rules:\n      - {name: r, match: {operation: x}, cost: request.path}\n", 8, "yields string"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, validateErr := gate.Validate("policy", []byte(c.text))
			_, openErr := gate.Open(t.Context(), gate.Config{Policy: []byte(c.text), Store: memstore.New(memstore.Config{})})
			if c.message == "" {
				if validateErr != nil || openErr != nil {
					t.Fatalf("Validate: %v; Open: %v", validateErr, openErr)
				}
				return
			}
			if validateErr == nil || openErr == nil || validateErr.Error() != openErr.Error() {
				t.Fatalf("Validate: %v; Open: %v", validateErr, openErr)
			}
			faults, ok := errors.AsType[policy.Faults](validateErr)
			if !ok || len(faults) == 0 || faults[0].Line != c.line || faults[0].Column == 0 || !strings.Contains(faults[0].Message, c.message) {
				t.Errorf("want line %d and %q, got: %v", c.line, c.message, validateErr)
			}
		})
	}
	if _, err := gate.Open(t.Context(), gate.Config{}); err == nil {
		t.Error("a gate without a store was opened")
	}
}

// While the policy is reloaded, no instant may mint tokens: what is admitted
// stays within burst and rate of the looser policy.
func TestReloadUnderLoad(t *testing.T) {
	const burst, perSecond, reloads = 200, 100, 1000
	policies := [2]string{
		rateOf(fmt.Sprintf("%d/s", perSecond), burst, ""),
		rateOf(fmt.Sprintf("%d/s", perSecond), burst/2, ", {name: other, rate: 1000000/s}"),
	}
	f := openFile(t, policies[0])
	var clock, admitted atomic.Int64 // clock in milliseconds
	ctx, stop := context.WithCancel(t.Context())
	exhausted := make(chan struct{}, 1) // holds one once a request was refused
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			var d gate.Decision
			r := gate.Request{Application: "a", Operation: "x", Subject: "s"}
			for ctx.Err() == nil {
				r.Now = origin + clock.Load()*1000
				switch err := f.gate.Take(ctx, &r, &d); {
				case err != nil:
					t.Errorf("while reloading: %v", err)
					return
				case d.Degraded != "":
					t.Errorf("while reloading: degraded: %v", d.Reason)
					return
				case d.Allowed:
					admitted.Add(1)
				default:
					select {
					case exhausted <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	for i := range reloads {
		clock.Add(1)
		f.reload(policies[(i+1)%2])
	}
	select {
	case <-exhausted:
	case <-time.After(10 * time.Second):
		t.Error("nothing was refused: the workers did not use up what there is")
	}
	stop()
	workers.Wait()
	most := int64(burst + perSecond*reloads/1000)
	if n := admitted.Load(); n > most || n < burst/2 {
		t.Errorf("%d admitted: at most %d may be in %d ms, and %d at the least", n, most, reloads, burst/2)
	}
	if s := f.gate.Status(); s.Revision != reloads+1 {
		t.Errorf("revision %d after %d reloads", s.Revision, reloads)
	}
}

func TestCloseAndBuiltin(t *testing.T) {
	store := memstore.New(memstore.Config{})
	g, err := gate.Open(t.Context(), gate.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	var d gate.Decision
	r := gate.Request{Application: "default", Operation: "x", Subject: "s"}
	if err := g.Take(t.Context(), &r, &d); err != nil || !d.Allowed || d.Plan != "free" || len(d.Limits()) != 3 {
		t.Errorf("the built-in policy: %+v, %v", d.Decision, err)
	}
	if err := g.Reload(t.Context()); err != nil || g.Status().Revision != 1 {
		t.Errorf("a reload without a file: %v, %+v", err, g.Status())
	}
	if err := g.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	throttle := gate.Throttle{Key: "k", Count: 1, Period: time.Second, Cost: 1}
	for name, err := range map[string]error{
		"Take": g.Take(t.Context(), &r, &d), "Peek": g.Peek(t.Context(), &r, &d), "Throttle": g.Throttle(t.Context(), &throttle, &d), "Ready": g.Ready(),
	} {
		if headgate.CodeOf(err) != headgate.Closed {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	var b headgate.Batch
	if err := store.Apply(t.Context(), &b); err != nil {
		t.Errorf("the store was closed with the gate: %v", err)
	}
}

// TestApply puts policies in force that come with their revisions.
func TestApply(t *testing.T) {
	policy := func(rate string) []byte {
		return []byte("version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: " + rate + "}]}]}}\n")
	}
	g := open(t, string(policy("3/h")))
	if !take(t, g, "alice", 2) {
		t.Fatal("refused")
	}
	for _, c := range []struct {
		rate     string
		revision uint64
		want     uint64
		fault    bool
		states   string
	}{
		{"3/h", 0, 1, false, ": r/w=2/3"},
		{"3/h", 7, 7, false, ": r/w=2/3"},
		{"8/h", 8, 8, false, ": r/w=7/8"},
		{"8/h", 8, 8, false, ": r/w=7/8"},
		{"8/m", 9, 8, true, ": r/w=7/8"},
		{"9/h", 0, 9, false, ": r/w=8/9"},
		{"3/h", 2, 2, false, ": r/w=2/3"},
	} {
		err := g.Apply(gate.Source{Name: "revision", Data: policy(c.rate), Revision: c.revision})
		if (err != nil) != c.fault || g.Status().LastReloadOK == c.fault {
			t.Errorf("%+v: %v", c, err)
		}
		var d gate.Decision
		if err := g.Peek(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "bob"}, &d); err != nil || d.Revision != c.want || g.Status().Revision != c.want {
			t.Errorf("%+v: decided by revision %d, status %d, %v", c, d.Revision, g.Status().Revision, err)
		}
		if got := states(t, g, "a", "alice"); got != c.states {
			t.Errorf("%+v: %s", c, got)
		}
		if !c.fault && string(g.Source().Data) != string(policy(c.rate)) {
			t.Errorf("%+v: the policy in force is said to be %s", c, g.Source().Data)
		}
	}
	if n := len(g.Policy().Applications); n != 1 {
		t.Errorf("%d applications", n)
	}
}
