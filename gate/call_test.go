package gate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/store/memstore"
)

// call asks with one descriptor each, "key=value", at a cost.
func call(cost int64, descriptors ...string) []*gate.Request {
	var rs []*gate.Request
	for _, d := range descriptors {
		r := &gate.Request{Application: "a", Cost: cost, CostSaid: true, Now: origin}
		for entry := range strings.SplitSeq(d, ",") {
			key, value, _ := strings.Cut(entry, "=")
			r.Descriptor = append(r.Descriptor, gate.Entry{Key: key, Value: value})
		}
		rs = append(rs, r)
	}
	return rs
}

func takeCall(t testing.TB, g *gate.Gate, rs []*gate.Request) (bool, []*gate.Decision) {
	t.Helper()
	ds := make([]*gate.Decision, len(rs))
	for i := range ds {
		ds[i] = new(gate.Decision)
	}
	allowed, failed, err := g.TakeDescriptors(t.Context(), rs, ds)
	if err != nil || failed != -1 {
		t.Fatalf("%d: %v", failed, err)
	}
	return allowed, ds
}

// say writes an answer down: for each descriptor the reason, and of each limit what is
// used and whether it refuses.
func say(allowed bool, ds []*gate.Decision) string {
	out := []string{fmt.Sprint(allowed)}
	for _, d := range ds {
		var b strings.Builder
		b.WriteString(d.Reason.String())
		if d.Allowed != (d.Reason == headgate.OK || d.Reason == headgate.NoRule || d.Reason == headgate.Skipped || d.Reason == headgate.AllowListed) {
			fmt.Fprintf(&b, "(allowed %v)", d.Allowed)
		}
		if d.Replaced {
			b.WriteString(" replaced")
		}
		for _, l := range d.Limits() {
			fmt.Fprintf(&b, " %s:%d/%d", l.ID, l.Used, l.Outcome.Limit)
			if !l.Allowed {
				b.WriteString("!")
			}
			if l.Shadow {
				b.WriteString(map[gate.ShadowCause]string{gate.ShadowByQuotaMode: "~quota", gate.ShadowByPolicy: "~shadow"}[l.ShadowBy])
			}
		}
		out = append(out, b.String())
	}
	return strings.Join(out, "; ")
}

const calls = `
version: 1
applications:
  a:
    on_no_match: allow
    deny: ["subject:mallory"]
    rules:
      - {name: one, match: {descriptor: [{key: one}]}, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: two, match: {descriptor: [{key: two}]}, limits: [{name: w, algorithm: fixed_window, rate: 2/h}]}
      - {name: all, match: {descriptor: [{key: all, value: "*", share_threshold: true}]}, limits: [{name: w, algorithm: fixed_window, rate: 3/h}]}
      - {name: q1, match: {descriptor: [{key: q1}]}, quota_mode: true, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: q2, match: {descriptor: [{key: q2}]}, quota_mode: true, limits: [{name: w, algorithm: fixed_window, rate: 2/h}]}
      - {name: free, match: {descriptor: [{key: free}]}, quota_mode: true, limits: [{name: w, rate: unlimited}]}
      - {name: dark, match: {descriptor: [{key: dark}]}, mode: shadow, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: boss, match: {descriptor: [{key: boss}]}, replaces: [one, mid], limits: [{name: w, algorithm: fixed_window, rate: 5/h}]}
      - {name: mid, match: {descriptor: [{key: mid}]}, replaces: [two, boss], limits: [{name: w, algorithm: fixed_window, rate: 5/h}]}
      - {name: never, match: {descriptor: [{key: never}]}, limits: [{name: w, algorithm: fixed_window, rate: 0/min}]}
      - {name: pass, match: {descriptor: [{key: pass}]}, skip: "true", quota_mode: true, limits: [{name: w, rate: 1/h}]}
`

func TestTakeDescriptors(t *testing.T) {
	for _, c := range []struct {
		why   string
		steps []string // descriptors and what is said of them
	}{
		{"all are charged or none is, and each tells of itself", []string{
			"one=a two=a", "true; ok one/w:1/1; ok two/w:1/2",
			"one=a two=a", "false; rate_limited one/w:1/1!; batch_refused two/w:1/2",
			"two=a", "true; ok two/w:2/2",
			"one=a", "false; rate_limited one/w:1/1!",
			"one=b", "true; ok one/w:1/1",
		}},
		{"descriptors of one budget come one after the other", []string{
			"two=a two=a", "true; ok two/w:1/2; ok two/w:2/2",
			"all=a all=b", "true; ok all/w:1/3; ok all/w:2/3",
			"all=a one=x all=b", "false; batch_refused all/w:2/3; batch_refused one/w:0/1; rate_limited all/w:2/3!",
			"all=a dark=x dark=x", "true; ok all/w:3/3; ok dark/w:0/1~shadow; ok dark/w:0/1!~shadow",
		}},
		{"what no rule matches passes, and holds nobody up", []string{
			"ghost=a one=a,b=c", "true; no_rule; no_rule",
			"ghost=a one=a", "true; no_rule; ok one/w:1/1",
			"ghost=a one=a", "false; batch_refused; rate_limited one/w:1/1!",
		}},
		{"in quota mode one that passes is enough; what does not pass is not charged", []string{
			"q1=a q2=a", "true; ok q1/w:1/1; ok q2/w:1/2",
			"q1=a q2=a", "true; ok q1/w:1/1!~quota; ok q2/w:2/2",
			"q1=a q2=a", "false; rate_limited q1/w:1/1!; rate_limited q2/w:2/2!",
			"q1=b q2=a", "true; ok q1/w:1/1; ok q2/w:2/2!~quota",
			"q1=b q2=a free=x", "true; ok q1/w:1/1!~quota; ok q2/w:2/2!~quota; ok",
			"q1=b pass=x", "true; ok q1/w:1/1!~quota; skipped",
			"q1=b", "false; rate_limited q1/w:1/1!",
		}},
		{"other limits must pass, whatever those in quota mode say", []string{
			"one=a", "true; ok one/w:1/1",
			"one=a q1=a q2=a", "false; rate_limited one/w:1/1!; batch_refused q1/w:0/1; batch_refused q2/w:0/2",
			"q1=a one=b", "true; ok q1/w:1/1; ok one/w:1/1",
			"q1=a one=c q2=a", "true; ok q1/w:1/1!~quota; ok one/w:1/1; ok q2/w:1/2",
			"q1=a one=d", "false; rate_limited q1/w:1/1!; batch_refused one/w:0/1",
			"one=d", "true; ok one/w:1/1",
		}},
		{"shadow refuses nobody", []string{
			"dark=a one=a", "true; ok dark/w:1/1~shadow; ok one/w:1/1",
			"dark=a two=a", "true; ok dark/w:1/1!~shadow; ok two/w:1/2",
		}},
		{"a rule that another replaces is not charged, also if that one is replaced itself", []string{
			"one=a boss=a", "true; skipped replaced; ok boss/w:1/5",
			"boss=a one=a one=b two=a", "true; ok boss/w:2/5; skipped replaced; skipped replaced; ok two/w:1/2",
			"boss=a mid=a", "true; skipped replaced; skipped replaced",
			"boss=a mid=a two=a one=a", "true; skipped replaced; skipped replaced; skipped replaced; skipped replaced",
			"one=a", "true; ok one/w:1/1",
			"one=mallory boss=b", "true; skipped replaced; ok boss/w:1/5",
			"boss=b one=x q1=x", "true; ok boss/w:2/5; skipped replaced; ok q1/w:1/1",
			"boss=b one=x q1=x", "false; batch_refused boss/w:2/5; skipped replaced; rate_limited q1/w:1/1!",
		}},
		{"a list refuses the call", []string{
			"one=mallory two=a", "false; deny_listed; batch_refused two/w:0/2",
			"two=a", "true; ok two/w:1/2",
		}},
		{"a rate of nothing refuses all that costs anything", []string{
			"never=a two=a", "false; cost_exceeds_limit never/w:0/0!; batch_refused two/w:0/2",
			"never=a", "false; cost_exceeds_limit never/w:0/0!",
		}},
	} {
		g := open(t, calls)
		for i := 0; i < len(c.steps); i += 2 {
			if got := say(takeCall(t, g, call(1, strings.Fields(c.steps[i])...))); got != c.steps[i+1] {
				t.Errorf("%s\n%s:\ngot  %s\nwant %s", c.why, c.steps[i], got, c.steps[i+1])
			}
		}
	}
	g := open(t, calls)
	if got := say(takeCall(t, g, call(0, "never=a", "one=a"))); got != "true; ok never/w:0/0; ok one/w:0/1" {
		t.Errorf("what costs nothing: %s", got)
	}
}

// budgets is what the model of calls knows: what is used by rule and value.
type budgets map[string]int64

type modelRule struct {
	limit         int64 // -1 for unlimited
	quota, shadow bool
	replaces      []int
}

// decide is the contract of TakeDescriptors on fixed windows, as plainly as it can be
// said. It returns what each budget may be told of.
func (b budgets) decide(rules []modelRule, ask []int, values []string, cost int64) (passes bool, replaced []bool, own []bool, used []int64) {
	replaced, own, used = make([]bool, len(ask)), make([]bool, len(ask)), make([]int64, len(ask))
	for _, by := range ask {
		for j, r := range ask {
			for _, name := range rules[by].replaces {
				replaced[j] = replaced[j] || name == r
			}
		}
	}
	key := func(i int) string { return fmt.Sprint(ask[i], values[i]) }
	total := make(budgets)
	for i := range ask {
		if !replaced[i] && rules[ask[i]].limit >= 0 {
			total[key(i)] += cost
		}
	}
	fits := func(i int) bool { return b[key(i)]+total[key(i)] <= rules[ask[i]].limit }
	passes = true
	var quota, enough bool
	for i, r := range ask {
		rule := rules[r]
		switch {
		case replaced[i]:
		case rule.quota:
			quota = true
			enough = enough || rule.limit < 0 || rule.shadow || fits(i)
		case rule.limit >= 0 && !rule.shadow:
			passes = passes && fits(i)
		}
	}
	passes = passes && (!quota || enough)
	so := make(budgets)
	for i, r := range ask {
		if replaced[i] || rules[r].limit < 0 {
			own[i] = true
			continue
		}
		so[key(i)] += cost
		own[i] = b[key(i)]+so[key(i)] <= rules[r].limit
		if used[i] = b[key(i)]; passes && fits(i) {
			used[i] += so[key(i)]
		}
	}
	if passes {
		for i := range ask {
			if n := total[key(i)]; n > 0 && fits(i) {
				b[key(i)] += n
				delete(total, key(i))
			}
		}
	}
	return passes, replaced, own, used
}

func TestCallsEqualModel(t *testing.T) {
	const rules, rounds = 6, 150
	passed, refused, byQuota, replacements := 0, 0, 0, 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(3, seed))
		model := make([]modelRule, rules)
		var b strings.Builder
		b.WriteString("version: 1\napplications:\n  a:\n    rules:\n")
		for i := range model {
			m := modelRule{limit: int64(r.IntN(12)) - 1, quota: r.IntN(2) == 0, shadow: r.IntN(6) == 0}
			var names []string
			for j := range rules {
				if j != i && r.IntN(12) == 0 {
					m.replaces, names = append(m.replaces, j), append(names, fmt.Sprint("r", j))
				}
			}
			model[i] = m
			rate, more := fmt.Sprintf("%d/h", m.limit), ""
			if m.limit < 0 {
				rate = "unlimited"
			}
			if names != nil {
				more += fmt.Sprintf(", replaces: [%s]", strings.Join(names, ", "))
			}
			if m.shadow {
				more += ", mode: shadow"
			}
			fmt.Fprintf(&b, "      - {name: r%d, match: {descriptor: [{key: r%[1]d}]}, quota_mode: %v%s, limits: [{name: w, algorithm: fixed_window, rate: %s}]}\n", i, m.quota, more, rate)
		}
		g := open(t, b.String())
		known := make(budgets)
		for range rounds {
			n, cost := 1+r.IntN(4), int64(r.IntN(4))
			ask, values, descriptors := make([]int, n), make([]string, n), make([]string, n)
			for i := range n {
				ask[i], values[i] = r.IntN(rules), string("xy"[r.IntN(2)])
				descriptors[i] = fmt.Sprintf("r%d=%s", ask[i], values[i])
			}
			allowed, ds := takeCall(t, g, call(cost, descriptors...))
			want, replaced, own, used := known.decide(model, ask, values, cost)
			if allowed != want {
				t.Fatalf("seed %d: %v at %d: allowed %v, want %v\n%s\n%s", seed, descriptors, cost, allowed, want, say(allowed, ds), b.String())
			}
			if allowed {
				passed++
			} else {
				refused++
			}
			for i, d := range ds {
				rule := model[ask[i]]
				if d.Replaced != replaced[i] || d.Replaced && (!d.Allowed || d.Reason != headgate.Skipped || len(d.Limits()) > 0) {
					t.Fatalf("seed %d: %v: replaced %v, want %v", seed, descriptors, d.Replaced, replaced[i])
				}
				if d.Replaced {
					replacements++
					continue
				}
				if d.Allowed != allowed || !allowed && (d.Reason == headgate.BatchRefused) != (own[i] || rule.shadow) {
					t.Fatalf("seed %d: %v at %d: %s: %d is %v for %v, own limits pass: %v\n%s", seed, descriptors, cost, say(allowed, ds), i, d.Allowed, d.Reason, own[i], b.String())
				}
				if rule.limit < 0 {
					continue
				}
				s := d.Limits()[0]
				if s.Allowed != own[i] || s.Used != used[i] || s.Remaining != max(0, rule.limit-used[i]) || s.Cost != cost {
					t.Fatalf("seed %d: %v at %d: %s: %d has used %d, want %d, passes %v\n%s", seed, descriptors, cost, say(allowed, ds), i, s.Used, used[i], own[i], b.String())
				}
				if s.ShadowBy == gate.ShadowByQuotaMode {
					byQuota++
				}
			}
		}
	}
	if passed < 5000 || refused < 5000 || byQuota < 1000 || replacements < 1000 {
		t.Errorf("%d passed, %d refused, %d by quota mode, %d replaced: the test shows little", passed, refused, byQuota, replacements)
	}
}

// TestQuotaModeCountsOneDenial: however many are tried, a ban counts a refusal once.
func TestQuotaModeCountsOneDenial(t *testing.T) {
	g := open(t, `
version: 1
applications:
  a:
    rules:
      - {name: one, match: {descriptor: [{key: one}]}, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: q1, match: {descriptor: [{key: q1}]}, quota_mode: true, ban: {after: 2, within: 1h, for: 1h}, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
      - {name: q2, match: {descriptor: [{key: q2}]}, quota_mode: true, ban: {after: 2, within: 1h, for: 1h}, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}
`)
	for _, step := range []struct{ ask, want string }{
		{"q1=a q2=a", "true; ok q1/w:1/1 q1/ban:0/2; ok q2/w:1/1 q2/ban:0/2"},
		{"q1=a q2=a", "false; rate_limited q1/w:1/1! q1/ban:1/2; rate_limited q2/w:1/1! q2/ban:1/2"},
		{"q1=b q2=b one=b", "true; ok q1/w:1/1 q1/ban:0/2; ok q2/w:1/1 q2/ban:0/2; ok one/w:1/1"},
		{"q1=b q2=c one=b", "false; rate_limited q1/w:1/1! q1/ban:1/2; batch_refused q2/w:0/1 q2/ban:0/2; rate_limited one/w:1/1!"},
		{"q1=b q2=c", "true; ok q1/w:1/1!~quota q1/ban:1/2; ok q2/w:1/1 q2/ban:0/2"},
	} {
		if got := say(takeCall(t, g, call(1, strings.Fields(step.ask)...))); got != step.want {
			t.Errorf("%s:\ngot  %s\nwant %s", step.ask, got, step.want)
		}
	}
}

// slowly is a store whose answers take a while, and where others may take what is left
// between two of them.
type slowly struct {
	headgate.Store
	takes    time.Duration
	patience []int64 // of each Apply, in microseconds
	then     func()  // after each
}

func (s *slowly) Apply(ctx context.Context, b *headgate.Batch) error {
	s.patience = append(s.patience, b.Patience)
	<-time.After(min(s.takes, time.Duration(b.Patience)*time.Microsecond)) // of a bubble
	if s.takes > time.Duration(b.Patience)*time.Microsecond {
		return &headgate.Error{Code: headgate.Unavailable, Err: fmt.Errorf("late")}
	}
	err := s.Store.Apply(ctx, b)
	if s.then != nil {
		s.then()
	}
	return err
}

// TestQuotaModeTries: a call asks the store no more often than it must, and all that it
// asks takes no longer than one decision may.
func TestQuotaModeTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := memstore.New(memstore.Config{Origin: origin})
		store := &slowly{Store: memory}
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(calls), Store: store, Local: memstore.New(memstore.Config{Origin: origin}), Patience: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for i := range 100 {
			names = append(names, fmt.Sprint("q1=", i))
		}
		ask := func(want bool, tries int, names ...string) {
			t.Helper()
			store.patience = nil
			if allowed, ds := takeCall(t, g, call(1, names...)); allowed != want || len(store.patience) != tries {
				t.Errorf("allowed %v after %d tries, want %v after %d: %+v", allowed, len(store.patience), want, tries, ds[0].Decision)
			}
		}
		ask(true, 1, names[:99]...)
		ask(false, 1, names[:99]...)
		ask(true, 2, names...)
		ask(false, 1, names...)

		// What another takes meanwhile is found out a few times, and then the call is refused.
		other, err := gate.Open(t.Context(), gate.Config{Policy: []byte(calls), Store: memory})
		if err != nil {
			t.Fatal(err)
		}
		next := 100
		store.then = func() {
			takeCall(t, other, call(1, fmt.Sprint("q1=", next)))
			next++
		}
		for i := range 10 {
			names[i+1] = fmt.Sprint("q1=", 100+i)
		}
		ask(false, 4, names[:11]...)
		store.then = nil
		ask(true, 2, names[:11]...)

		store.takes = 8 * time.Millisecond
		began := time.Now()
		ask(true, 2, "q1=0", "q2=b")
		if want := []int64{20_000, 12_000}; !slices.Equal(store.patience, want) || time.Since(began) != 16*time.Millisecond {
			t.Errorf("patience %d, took %v", store.patience, time.Since(began))
		}
		store.takes, began = 12*time.Millisecond, time.Now()
		_, ds := takeCall(t, g, call(1, "q1=0", "q2=b"))
		if d := ds[0]; d.Degraded != "local" || time.Since(began) != 20*time.Millisecond {
			t.Errorf("a store that is late: degraded %q, took %v", d.Degraded, time.Since(began))
		}
	})
}

func TestDescriptorFaults(t *testing.T) {
	g := open(t, calls)
	long := strings.Repeat("x", 1025)
	many := strings.TrimSuffix(strings.Repeat("k=v,", 17), ",")
	for _, c := range []struct {
		field  string
		change func(*gate.Request)
	}{
		{"descriptor", func(r *gate.Request) { r.Descriptor = call(1, many)[0].Descriptor }},
		{"descriptor", func(r *gate.Request) { r.Descriptor = []gate.Entry{{Value: "x"}} }},
		{"descriptor", func(r *gate.Request) { r.Descriptor = []gate.Entry{{Key: long}} }},
		{"descriptor", func(r *gate.Request) { r.Descriptor = []gate.Entry{{Key: "k", Value: long}} }},
		{"descriptor", func(r *gate.Request) { r.Descriptor = []gate.Entry{{Key: "k", Value: "\xff"}} }},
		{"descriptor", func(r *gate.Request) { r.Descriptor = []gate.Entry{{Key: "\xff"}} }},
		{"operation", func(r *gate.Request) { r.Descriptor = nil }},
		{"operation", func(r *gate.Request) { r.Operation = "a\nb" }},
		{"limit", func(r *gate.Request) {
			r.Descriptor, r.Operation, r.Said = nil, "x", &gate.SaidLimit{Count: 1, Period: time.Hour}
		}},
		{"limit", func(r *gate.Request) { r.Said = &gate.SaidLimit{Count: -1, Period: time.Hour} }},
		{"limit", func(r *gate.Request) { r.Said = &gate.SaidLimit{Count: headgate.MaxInt + 1, Period: time.Hour} }},
		{"limit", func(r *gate.Request) { r.Said = &gate.SaidLimit{Count: 1, Period: time.Second - 1} }},
		{"limit", func(r *gate.Request) { r.Said = &gate.SaidLimit{Count: 1, Period: time.Second + 1} }},
		{"limit", func(r *gate.Request) { r.Said = &gate.SaidLimit{Count: 1, Period: 3651 * 24 * time.Hour} }},
		{"cost", func(r *gate.Request) { r.Cost = -1 }},
		{"idempotency_key", func(r *gate.Request) { r.IdempotencyKey = "k" }},
		{"max_wait_ms", func(r *gate.Request) { r.MaxWait, r.MaxWaitSaid = 1, true }},
		{"items", func(r *gate.Request) { r.Releases = true }},
		{"application", func(r *gate.Request) { r.Application = "" }},
	} {
		for n := 1; n <= 3; n++ {
			rs := call(1, "two=a", "two=a", "two=a")[:n]
			c.change(rs[n-1])
			ds := []*gate.Decision{new(gate.Decision), new(gate.Decision), new(gate.Decision)}[:n]
			allowed, failed, err := g.TakeDescriptors(t.Context(), rs, ds)
			e, ok := err.(*headgate.Error)
			if !ok || e.Code != headgate.InvalidRequest || e.Field != c.field || failed != n-1 || allowed {
				t.Errorf("%+v: allowed %v, %d of %d failed: %v; want field %s", rs[n-1], allowed, failed, n, err, c.field)
			}
		}
	}
	for _, rs := range [][]*gate.Request{nil, make([]*gate.Request, 101)} {
		if _, failed, err := g.TakeDescriptors(t.Context(), rs, make([]*gate.Decision, len(rs))); headgate.CodeOf(err) != headgate.InvalidRequest || failed != -1 {
			t.Errorf("%d requests: %d, %v", len(rs), failed, err)
		}
	}
	if got := say(takeCall(t, g, call(1, "two=a"))); got != "true; ok two/w:1/2" {
		t.Errorf("a fault was charged: %s", got)
	}
}

// While the store is away, quota mode counts by this node's share, and a rate of nothing
// stays one.
func TestDescriptorsAway(t *testing.T) {
	away := &network{Store: memstore.New(memstore.Config{Origin: origin}), err: &headgate.Error{Code: headgate.Unavailable, Err: fmt.Errorf("away")}}
	g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(calls), Store: away, Local: memstore.New(memstore.Config{Origin: origin})})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ ask, want string }{
		{"q1=a q2=a", "true; ok q1/w:1/1; ok q2/w:1/2"},
		{"q1=a q2=a", "true; ok q1/w:1/1!~quota; ok q2/w:2/2"},
		{"q1=a q2=a", "false; rate_limited q1/w:1/1!; rate_limited q2/w:2/2!"},
		{"two=a two=a", "true; ok two/w:1/2; ok two/w:2/2"},
		{"boss=a one=a", "true; ok boss/w:1/5; skipped replaced"},
		{"never=a", "false; cost_exceeds_limit never/w:0/0!"},
	} {
		allowed, ds := takeCall(t, g, call(1, strings.Fields(step.ask)...))
		if got := say(allowed, ds); got != step.want || ds[0].Degraded != "local" {
			t.Errorf("%s: degraded %q\ngot  %s\nwant %s", step.ask, ds[0].Degraded, got, step.want)
		}
		if d := ds[0]; d.Reason == headgate.CostExceedsLimit && (d.Retryable || d.Limit != 0 || d.Remaining != 0) {
			t.Errorf("%+v", d.Decision)
		}
	}
	closed, err := gate.Open(context.Background(), gate.Config{Policy: []byte(calls), Store: away})
	if err != nil {
		t.Fatal(err)
	}
	if got := say(takeCall(t, closed, call(1, "boss=a", "one=a", "ghost=a"))); got != "false; store_unavailable; skipped replaced; batch_refused" {
		t.Errorf("closed: %s", got)
	}
}

// BenchmarkTakeDescriptors decides calls of 1, 2 and 4 descriptors by policies of several
// sizes.
func BenchmarkTakeDescriptors(b *testing.B) {
	for _, rules := range []int{10, 1000, 10_000} {
		var p strings.Builder
		p.WriteString("version: 1\napplications: {a: {rules: [")
		for i := range rules {
			fmt.Fprintf(&p, "{name: r%d, match: {descriptor: [{key: path, value: /v1/%[1]d}, {key: remote_address}]}, limits: [{name: w, algorithm: fixed_window, rate: 1000000000/s}]}, ", i)
		}
		g := open(b, p.String()+"]}}")
		for _, n := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("rules%d/descriptors%d", rules, n), func(b *testing.B) {
				var asks []string
				for i := range n {
					asks = append(asks, fmt.Sprintf("path=/v1/%d,remote_address=192.0.2.%d", rules-1-i, i))
				}
				rs := call(1, asks...)
				ds := []*gate.Decision{new(gate.Decision), new(gate.Decision), new(gate.Decision), new(gate.Decision)}[:n]
				b.ReportAllocs()
				for b.Loop() {
					if allowed, _, err := g.TakeDescriptors(b.Context(), rs, ds); err != nil || !allowed {
						b.Fatal(err)
					}
				}
				for i, d := range ds {
					if len(d.Limits()) != 1 || d.Rule != fmt.Sprint("r", rules-1-i) {
						b.Fatalf("met %q", d.Rule)
					}
				}
			})
		}
	}
}

func TestDescriptorContract(t *testing.T) {
	gatetest.RunDescriptors(t, func(t *testing.T, policy string) gatetest.Caller { return gatetest.LocalCaller(open(t, policy)) })
}
