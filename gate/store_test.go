package gate_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// broken is a store that cannot decide.
type broken struct{ err error }

func (b broken) Apply(context.Context, *headgate.Batch) error { return b.err }
func (broken) Close() error                                   { return nil }

func TestStoreErrors(t *testing.T) {
	away := fmt.Errorf("redis: %w", &headgate.Error{Code: headgate.Unavailable, Err: errors.New("connection refused")})
	const text = `
version: 1
plans:
  closed: {limits: [{name: daily, algorithm: quota, rate: 10/day}]}
  open: {on_store_error: open, limits: [{name: daily, algorithm: quota, rate: 10/day}]}
applications:
  mixed:
    limits: [{name: all, rate: 1/s, on_store_error: open}]
    rules:
      - {name: unsaid, match: {operation: unsaid}, limits: [{name: w, rate: 1/s}]}
      - {name: local, match: {operation: local}, limits: [{name: w, rate: 1/s, on_store_error: local}]}
      - {name: open, match: {operation: open}, on_store_error: open, limits: [{name: w, rate: 1/s}]}
      - {name: near, match: {operation: near}, on_store_error: open, limits: [{name: w, rate: 1/s, on_store_error: closed}]}
      - {name: shadow, match: {operation: shadow}, mode: shadow, limits: [{name: w, rate: 1/s, on_store_error: closed}]}
      - {name: skip, match: {operation: skip}, skip: "true"}
  wide:
    on_store_error: open
    limits: [{name: all, rate: 1/s}]
    rules: [{name: closed, match: {operation: closed}, on_store_error: closed, limits: [{name: w, rate: 1/s}]}]
  trial:
    mode: shadow
    limits: [{name: all, rate: 1/s, on_store_error: closed}]
  none: {}
`
	for _, c := range []struct {
		application, operation, plan string
		reason                       headgate.Reason
		degraded                     string
		why                          string
	}{
		{"mixed", "open", "", headgate.OK, "open", "every limit of the request is open"},
		{"mixed", "other", "", headgate.NoRule, "open", "the application's limit is open, and no rule is there"},
		{"mixed", "unsaid", "", headgate.StoreUnavailable, "closed", "one limit is not open"},
		{"mixed", "local", "", headgate.StoreUnavailable, "closed", "there is no local share yet: it must not open"},
		{"mixed", "near", "", headgate.StoreUnavailable, "closed", "the limit is nearer than the rule"},
		{"mixed", "open", "closed", headgate.StoreUnavailable, "closed", "the plan's limit is closed"},
		{"mixed", "open", "open", headgate.OK, "open", "the plan is open too"},
		{"mixed", "shadow", "", headgate.OK, "open", "a limit in shadow mode refuses nothing, whatever its failure policy"},
		{"mixed", "skip", "", headgate.Skipped, "", "nothing is asked of the store"},
		{"wide", "other", "", headgate.NoRule, "open", "the application is open"},
		{"wide", "other", "closed", headgate.NoRule, "open", "a plan that says nothing takes the application's mode"},
		{"wide", "closed", "", headgate.StoreUnavailable, "closed", "the rule is nearer than the application"},
		{"trial", "other", "", headgate.NoRule, "open", "an application in shadow mode refuses nothing"},
		{"none", "other", "", headgate.NoRule, "", "no limit applies: the store is not asked"},
	} {
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(text), Store: broken{away}})
		if err != nil {
			t.Fatal(err)
		}
		r := gate.Request{Application: c.application, Operation: c.operation, Subject: "s", Plan: c.plan}
		for op, decide := range map[string]func(context.Context, *gate.Request, *gate.Decision) error{"take": g.Take, "peek": g.Peek} {
			var d gate.Decision
			if err := decide(t.Context(), &r, &d); err != nil {
				t.Errorf("%s %+v: %v", op, c, err)
				continue
			}
			if d.Allowed == (c.reason == headgate.StoreUnavailable) || d.Reason != c.reason || d.Degraded != c.degraded || !d.Retryable {
				t.Errorf("%s %s %s %s: allowed %v, %v, degraded %q, retryable %v; want %v and %q: %s",
					op, c.application, c.operation, c.plan, d.Allowed, d.Reason, d.Degraded, d.Retryable, c.reason, c.degraded, c.why)
			}
			wait := time.Duration(0)
			if !d.Allowed {
				wait = time.Second
			}
			if d.RetryAfter != wait || d.BoundByID() != "" || len(d.Limits()) != 0 || d.Shadow || d.WouldDeny != headgate.NoReason {
				t.Errorf("%s %s %s: retry after %v, want %v; bound by %q, limits %+v", op, c.application, c.operation, d.RetryAfter, wait, d.BoundByID(), d.Limits())
			}
		}
	}
}

func TestStoreErrorCodes(t *testing.T) {
	for code, decided := range map[headgate.Code]bool{
		headgate.Unavailable: true, headgate.Overloaded: true, headgate.Closed: true, headgate.Unknown: true, headgate.InvalidRequest: false,
	} {
		g, err := gate.Open(t.Context(), gate.Config{
			Policy: []byte("version: 1\napplications: {a: {on_store_error: open, limits: [{name: all, rate: 1/s}]}}"),
			Store:  broken{fmt.Errorf("store: %w", &headgate.Error{Code: code, Err: errors.New("no")})},
		})
		if err != nil {
			t.Fatal(err)
		}
		var d gate.Decision
		err = g.Take(t.Context(), &gate.Request{Application: "a", Operation: "x"}, &d)
		// A store that is full is not away, or a flood of keys would open it.
		allowed, degraded, refusal := true, "open", headgate.StoreUnavailable
		if code == headgate.Overloaded {
			allowed, degraded, refusal = false, "closed", headgate.OverloadedReason
		}
		if decided && (err != nil || d.Allowed != allowed || d.Degraded != degraded) || !decided && (headgate.CodeOf(err) != code || d.Allowed) {
			t.Errorf("%v: %v, allowed %v, degraded %q", code, err, d.Allowed, d.Degraded)
		}
		throttle := gate.Throttle{Key: "k", Count: 1, Period: time.Second, Cost: 1}
		err = g.Throttle(t.Context(), &throttle, &d)
		if decided && (err != nil || d.Allowed || d.Reason != refusal || d.Degraded != "closed") || !decided && (headgate.CodeOf(err) != code || d.Allowed) {
			t.Errorf("throttle, %v: %v, allowed %v, %v, degraded %q", code, err, d.Allowed, d.Reason, d.Degraded)
		}
	}
}

// Limits in shadow refuse nobody, also when the store has no room for their state.
func TestShadowInFullStore(t *testing.T) {
	const policy = `
version: 1
applications:
  a:
    rules:
      - {name: trial, match: {operation: trial}, mode: shadow, limits: [{name: all, rate: 1/s}], ban: {after: 9, within: 1m, for: 1m}}
      - {name: both, match: {operation: both}, limits: [{name: some, rate: 1/s, mode: shadow}, {name: all, rate: 1/s, on_store_error: open}]}
`
	full := broken{&headgate.Error{Code: headgate.Overloaded, Err: errors.New("no room")}}
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: full, Local: memstore.New(memstore.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	trial, both := &gate.Request{Application: "a", Operation: "trial", Subject: "s"}, &gate.Request{Application: "a", Operation: "both", Subject: "s"}
	var d, e gate.Decision
	want := func(what string, d *gate.Decision, allowed bool, reason headgate.Reason, degraded string) {
		t.Helper()
		if d.Allowed != allowed || d.Reason != reason || d.Degraded != degraded {
			t.Errorf("%s: allowed %v, %v, degraded %q; want %v, %v, %q", what, d.Allowed, d.Reason, d.Degraded, allowed, reason, degraded)
		}
	}
	for what, decide := range map[string]func(context.Context, *gate.Request, *gate.Decision) error{"take": g.Take, "peek": g.Peek} {
		if err := errors.Join(decide(t.Context(), trial, &d), decide(t.Context(), both, &e)); err != nil {
			t.Fatal(err)
		}
		want(what, &d, true, headgate.OK, "open")
		want(what+" of an enforced limit too", &e, false, headgate.OverloadedReason, "closed")
	}
	if _, err := g.TakeAll(t.Context(), []*gate.Request{trial, trial}, []*gate.Decision{&d, &e}); err != nil {
		t.Fatal(err)
	}
	want("first of two", &d, true, headgate.OK, "open")
	want("second of two", &e, true, headgate.OK, "open")
	if _, err := g.TakeAll(t.Context(), []*gate.Request{trial, both}, []*gate.Decision{&d, &e}); err != nil {
		t.Fatal(err)
	}
	want("with an enforced one", &d, false, headgate.OverloadedReason, "closed")
	want("the enforced one", &e, false, headgate.OverloadedReason, "closed")
}

// A node is ready without the store, unless all that it has are limits that refuse then.
func TestReadyAway(t *testing.T) {
	const quota, rate = "{name: q, algorithm: quota, rate: 9/day}", "{name: w, rate: 1/s}"
	type ready struct{ alone, withLocal bool }
	for policy, want := range map[string]ready{
		"a: {limits: [" + quota + "]}":                                                                                                  {},
		"a: {limits: [" + quota + "], rules: [{name: r, match: {operation: x}}]}":                                                       {},
		"a: {on_store_error: closed, limits: [" + rate + "]}":                                                                           {},
		"a: {limits: [" + quota + "]}, b: {limits: [" + rate + "]}":                                                                     {false, true},
		"a: {limits: [" + quota + "], rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: 1/s, on_store_error: open}]}]}": {true, true},
		"a: {mode: shadow, limits: [" + quota + "]}":                                                                                    {true, true},
		"a: {}": {true, true},
	} {
		for _, local := range []headgate.Store{nil, memstore.New(memstore.Config{})} {
			away := false
			g, err := gate.Open(t.Context(), gate.Config{
				Policy: []byte("version: 1\napplications: {" + policy + "}"), Store: memstore.New(memstore.Config{}), Local: local, Away: func() bool { return away },
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Ready(); err != nil {
				t.Errorf("%s: %v while the store is there", policy, err)
			}
			away = true
			is := want.alone
			if local != nil {
				is = want.withLocal
			}
			if err := g.Ready(); (err == nil) != is || err != nil && headgate.CodeOf(err) != headgate.Unavailable {
				t.Errorf("%s, local %v: %v, want ready %v", policy, local != nil, err, is)
			}
			if err := g.SetMode(gate.Mode{Shadow: true, Until: time.Now().Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
			if err := g.Ready(); err != nil {
				t.Errorf("%s: %v while nothing refuses", policy, err)
			}
		}
	}
}

// watched keeps the charges of the last batch.
type watched struct {
	headgate.Store
	charges []headgate.Charge
}

func (w *watched) Apply(ctx context.Context, b *headgate.Batch) error {
	w.charges = append(w.charges[:0], b.Charges()...)
	return w.Store.Apply(ctx, b)
}

// What a store is asked says whose budgets are not the subject's own: refusals
// by those must not count towards a ban of the subject.
func TestCharges(t *testing.T) {
	store := &watched{Store: memstore.New(memstore.Config{})}
	g, err := gate.Open(t.Context(), gate.Config{Store: store, Policy: []byte(`
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 1/day}]}}
applications:
  a:
    default_plan: free
    limits: [{name: all, rate: 9/h}, {name: world, per: global, rate: 9/h}]
    rules: [{name: r, match: {operation: x}, limits: [{name: org, per: {expr: attributes.org}, rate: 9/h, mode: shadow}, {name: each, rate: 9/h}]}]
`)})
	if err != nil {
		t.Fatal(err)
	}
	var d gate.Decision
	r := gate.Request{Application: "a", Operation: "x", Subject: "s", Attributes: map[string]string{"org": "o"}, Cost: 2, CostSaid: true}
	if err := g.Take(t.Context(), &r, &d); err != nil {
		t.Fatal(err)
	}
	want := []struct {
		scope, name, owner string
		parent, shadow     bool
	}{
		{"a/app", "all", "", true, false},
		{"global", "world", "", true, false},
		{"a/rule/r", "org", "o", true, true},
		{"a/rule/r", "each", "s", false, false},
		{"a/plan", "daily", "s", false, false},
	}
	if len(store.charges) != len(want) {
		t.Fatalf("%d charges, want %d", len(store.charges), len(want))
	}
	for i, c := range store.charges {
		if w := want[i]; c.Limit.Scope != w.scope || c.Limit.Name != w.name || c.Owner != w.owner || c.Parent != w.parent || c.Shadow != w.shadow || c.Cost != 2 {
			t.Errorf("charge %d: %s %s of %q, parent %v, shadow %v, cost %d; want %+v", i, c.Limit.Scope, c.Limit.Name, c.Owner, c.Parent, c.Shadow, c.Cost, w)
		}
	}
}

// Many callers race for budgets that they share: exactly the limits pass.
func TestRaceForSharedBudgets(t *testing.T) {
	g := open(t, `
version: 1
applications:
  a:
    limits: [{name: all, algorithm: quota, rate: 700/day}]
    rules:
      - name: send
        match: {operation: send}
        limits:
          - {name: each, algorithm: quota, rate: 100/day}
          - {name: org, algorithm: quota, per: {expr: attributes.org}, rate: 400/day}
`)
	const callers, tries = 64, 60
	var bySubject, byOrg [16]atomic.Int64 // 16 subjects, 2 organisations
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			subject := c % len(bySubject)
			org := subject % 2
			r := gate.Request{
				Application: "a", Operation: "send", Subject: strconv.Itoa(subject), Now: origin,
				Attributes: map[string]string{"org": "org" + strconv.Itoa(org)},
			}
			var d gate.Decision
			for range tries {
				if err := g.Take(context.Background(), &r, &d); err != nil {
					t.Error(err)
					return
				}
				if d.Allowed {
					bySubject[subject].Add(1)
					byOrg[org].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range bySubject {
		if n := bySubject[i].Load(); n > 100 {
			t.Errorf("subject %d: %d passed of 100", i, n)
		}
	}
	if a, b := byOrg[0].Load(), byOrg[1].Load(); a > 400 || b > 400 || a+b != 700 {
		t.Errorf("organisations %d and %d of 400 each, %d of 700 in all", a, b, a+b)
	}
	var d gate.Decision
	r := gate.Request{Application: "a", Operation: "send", Subject: "0", Now: origin, Attributes: map[string]string{"org": "org0"}}
	if err := g.Peek(t.Context(), &r, &d); err != nil || d.Allowed {
		t.Fatalf("after the race: allowed %v, %v", d.Allowed, err)
	}
	for i, want := range []int64{700, bySubject[0].Load(), byOrg[0].Load()} {
		if s := d.Limits()[i]; s.Used != want {
			t.Errorf("%s says %d used, %d passed", s.ID, s.Used, want)
		}
	}
}

// swapped is a store that can be emptied under a gate, which costs much to open.
type swapped struct{ headgate.Store }

// FuzzRequest puts requests of any shape to a gate with a hard cap. None may
// panic, and what passes stays within the cap.
func FuzzRequest(f *testing.F) {
	const most = 50
	f.Add("a", "send", "alice", "", "POST", "/api/../x?n=1", "h", "key", "org", "acme", "\x7f\x00\x00\x01", int64(3), true, int64(0))
	f.Add("a", "", "", "free", "GET", "/%2e%2E/y", "", "", "n", "7", "", int64(-1), true, int64(1))
	f.Add("", "", "", "", "", "", "", "", "", "", "0123456789abcdef", int64(math.MaxInt64), true, int64(math.MinInt64))
	f.Add("a", "any", "s", "gold", "HEAD", "", "", "sid=1", "n", "-9223372036854775808", "", int64(0), false, int64(math.MaxInt64))
	store := new(swapped)
	g, err := gate.Open(context.Background(), gate.Config{Store: store, Policy: []byte(`
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 1000/day}]}}
applications:
  a:
    default_plan: free
    on_no_subject: shared
    identity: [{header: x-key, known_only: true}, {cookie: sid, known_only: true}, "attribute:org", ip]
    limits: [{name: all, algorithm: quota, rate: 50/year}]
    rules:
      - {name: send, match: {operation: send}, cost: "int(attributes.n)", limits: [{name: org, per: {expr: attributes.org}, rate: 20/h}]}
      - {name: x, match: {path: "/x"}, cost: {GET: 4}, skip: "request.host == 'skip'", limits: [{name: w, algorithm: sliding_window, rate: 30/60s}]}
      - {name: y, match: {path: "/{id}/"}, cost: "size(request.path) + size(request.query)", limits: [{name: w, algorithm: concurrency, max: 9, release: ttl}]}
subjects: {a/key: {plan: free}}
`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, application, operation, subject, plan, method, path, host, header, name, value, ip string, cost int64, said bool, now int64) {
		store.Store = memstore.New(memstore.Config{Origin: origin, MaxBytes: 1 << 20, Shards: 1})
		r := gate.Request{
			Application: application, Operation: operation, Subject: subject, Plan: plan, Cost: cost, CostSaid: said,
			Method: method, Path: path, Host: host, Headers: http.Header{"X-Key": {header}, "Cookie": {header}},
			Attributes: map[string]string{name: value}, Now: origin + now%int64(time.Hour/time.Microsecond),
		}
		r.IP, _ = netip.AddrFromSlice([]byte(ip))
		var passed int64
		var d gate.Decision
		for i := range 3 {
			if err := g.Take(t.Context(), &r, &d); err != nil {
				if code := headgate.CodeOf(err); code != headgate.InvalidRequest && code != headgate.NotFound {
					t.Fatalf("%+v: %v of code %v", r, err, code)
				}
				continue
			}
			if d.Cost < 0 || d.Reason == headgate.NoReason || d.Degraded != "" || len(d.Subject) > gate.MaxSubject {
				t.Fatalf("%+v: decided %+v", r, d.Decision)
			}
			if d.Allowed && d.Reason != headgate.Skipped {
				passed += d.Cost
			}
			if passed > most {
				t.Fatalf("%+v: %d passed of %d", r, passed, most)
			}
			r.Cost, r.CostSaid = cost%most, i == 0 || said
		}
	})
}
