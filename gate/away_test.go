package gate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/guard"
	"github.com/headgate/headgate/store/memstore"
)

// patient keeps how patient the batches were that it was asked.
type patient struct {
	headgate.Store
	all []time.Duration
}

func (p *patient) Apply(ctx context.Context, b *headgate.Batch) error {
	p.all = append(p.all, time.Duration(b.Patience)*time.Microsecond)
	return p.Store.Apply(ctx, b)
}

// A store has 25 ms, 250 ms where a quota is charged, or what the gate's owner
// says, and no longer than the caller can wait.
func TestPatience(t *testing.T) {
	const policy = `
version: 1
plans: {paid: {limits: [{name: daily, algorithm: quota, rate: 9/day}]}}
applications:
  a:
    limits: [{name: all, rate: 9/h}]
    rules:
      - {name: x, match: {operation: x}, candidate: {limits: [{name: q, algorithm: quota, rate: 9/day}]}}
      - {name: held, match: {operation: held}, limits: [{name: slots, algorithm: concurrency, max: 5}]}
`
	const ms = time.Millisecond
	for _, c := range []struct{ set, setQuota, ask, want, wantQuota time.Duration }{
		{0, 0, 0, 25 * ms, 250 * ms},
		{0, 0, 15 * ms, 15 * ms, 15 * ms},
		{0, 0, 40 * ms, 25 * ms, 40 * ms},
		{0, 0, 1, time.Microsecond, time.Microsecond},
		{50 * ms, 0, 0, 50 * ms, 250 * ms},
		{500 * ms, 100 * ms, 0, 500 * ms, 500 * ms},
	} {
		store := &patient{Store: memstore.New(memstore.Config{})}
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: store, Patience: c.set, QuotaPatience: c.setQuota})
		if err != nil {
			t.Fatal(err)
		}
		want := func(what string, patience ...time.Duration) {
			t.Helper()
			if fmt.Sprint(store.all) != fmt.Sprint(patience) {
				t.Errorf("%+v: %s: %v, want %v", c, what, store.all, patience)
			}
			store.all = nil
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		var d, e gate.Decision
		r := gate.Request{Application: "a", Operation: "y", Subject: "s", Patience: c.ask}
		paid := r
		paid.Plan = "paid"
		must(g.Take(t.Context(), &r, &d))
		must(g.Peek(t.Context(), &paid, &d))
		want("a take, and a peek of a quota", c.want, c.wantQuota)
		_, err = g.TakeAll(t.Context(), []*gate.Request{&r, &paid}, []*gate.Decision{&d, &e})
		must(err)
		want("both together", c.wantQuota)
		r.Operation = "x"
		must(g.Take(t.Context(), &r, &d))
		want("with a candidate", c.want, c.want)
		if c.ask != 0 {
			continue // claims and throttles have no request
		}
		must(g.Reserve(t.Context(), &paid, 0, &d))
		must(g.Settle(t.Context(), &gate.Claim{Ticket: string(d.AppendTicket(nil))}, &e))
		want("a reservation of a quota", c.wantQuota, c.wantQuota)
		r.Operation, r.Releases = "held", true
		must(g.Take(t.Context(), &r, &d))
		must(g.Release(t.Context(), &gate.Claim{Ticket: string(d.AppendTicket(nil))}, &e))
		want("slots", c.want, c.want)
		must(g.Throttle(t.Context(), &gate.Throttle{Key: "k", Count: 1, Period: time.Second}, &d))
		want("a throttle", c.want)
	}
}

// A caller that has gone gets its cause, and nothing is charged for it; one whose
// time is over gets what the policy says.
func TestCallerGone(t *testing.T) {
	local := memstore.New(memstore.Config{})
	g, err := gate.Open(t.Context(), gate.Config{
		Policy: []byte("version: 1\napplications: {a: {limits: [{name: all, rate: 9/h}]}}"),
		Store:  broken{&headgate.Error{Code: headgate.Unavailable, Err: context.Canceled}}, Local: local,
	})
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the client hung up")
	gone, hangUp := context.WithCancelCause(t.Context())
	hangUp(cause)
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	r := &gate.Request{Application: "a", Operation: "x"}
	var d gate.Decision
	if err := g.Take(gone, r, &d); !errors.Is(err, cause) || d.Allowed {
		t.Errorf("gone: %v, %+v", err, d.Decision)
	}
	if _, err := g.TakeAll(gone, []*gate.Request{r}, []*gate.Decision{&d}); !errors.Is(err, cause) || d.Allowed {
		t.Errorf("gone, together: %v, %+v", err, d.Decision)
	}
	if err := g.Take(late, r, &d); err != nil || !d.Allowed || d.Degraded != "local" || d.Limits()[0].Used != 1 {
		t.Errorf("late: %v, %+v, %q, %+v", err, d.Decision, d.Degraded, d.Limits())
	}
}

// What Local cannot decide is closed.
func TestLocalFails(t *testing.T) {
	for _, c := range []struct {
		code   headgate.Code
		reason headgate.Reason
		is     bool // an error to the caller
	}{
		{headgate.Unavailable, headgate.StoreUnavailable, false},
		{headgate.Unknown, headgate.StoreUnavailable, false},
		{headgate.Closed, headgate.StoreUnavailable, false},
		{headgate.InvalidRequest, headgate.StoreUnavailable, false},
		{headgate.Overloaded, headgate.OverloadedReason, false},
		{headgate.Conflict, headgate.NoReason, true},
	} {
		fails := func(code headgate.Code) headgate.Store {
			return broken{fmt.Errorf("store: %w", &headgate.Error{Code: code, Err: errors.New("no")})}
		}
		g, err := gate.Open(t.Context(), gate.Config{
			Policy: []byte("version: 1\napplications: {a: {limits: [{name: all, rate: 9/h}], rules: [{name: free, match: {operation: free}}]}}"),
			Store:  fails(headgate.Unavailable), Local: fails(c.code),
		})
		if err != nil {
			t.Fatal(err)
		}
		var d, free gate.Decision
		r := &gate.Request{Application: "a", Operation: "x"}
		check := func(what string, err error) {
			t.Helper()
			if c.is && headgate.CodeOf(err) != c.code || !c.is && (err != nil || d.Allowed || d.Reason != c.reason || d.Degraded != "closed" || d.RetryAfter != time.Second || len(d.Limits()) != 0) {
				t.Errorf("%v, %s: %v, %+v, %q, %+v", c.code, what, err, d.Decision, d.Degraded, d.Limits())
			}
		}
		check("take", g.Take(t.Context(), r, &d))
		check("throttle", g.Throttle(t.Context(), &gate.Throttle{Key: "k", Count: 1, Period: time.Second, Cost: 1}, &d))
		if !c.is { // requests of an atomic batch have no key to conflict
			_, err = g.TakeAll(t.Context(), []*gate.Request{r, {Application: "a", Operation: "free"}}, []*gate.Decision{&d, &free})
			check("together", err)
		}
	}
}

// alone is a gate in a bubble whose store is away, and which has a store beside it
// that decides meanwhile.
func alone(t *testing.T, policy string) *gate.Gate {
	t.Helper()
	g, err := gate.Open(t.Context(), gate.Config{
		Policy: []byte(policy), Store: broken{&headgate.Error{Code: headgate.Unavailable, Err: errors.New("away")}},
		Local: memstore.New(memstore.Config{MaxBytes: 1 << 20}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Requests wait in line for a node's share as they do for a limit.
func TestWaitsForShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, max_wait: 1500ms, ban: {after: 2, within: 1h, for: 1h}, limits: [{name: w, rate: 1/s}]}]}}")
		r := gate.Request{Application: "a", Operation: "x", Subject: "s"}
		var d gate.Decision
		for i, c := range []struct {
			reason headgate.Reason
			waited time.Duration
		}{{headgate.OK, 0}, {headgate.OK, time.Second}, {headgate.OK, time.Second}} {
			if err := g.Take(t.Context(), &r, &d); err != nil || d.Reason != c.reason || d.Waited != c.waited || d.Degraded != "local" || len(d.Limits()) != 2 {
				t.Errorf("%d: %v, %v after %v, %q", i, err, d.Reason, d.Waited, d.Degraded)
			}
		}
		// Who is refused for good counts towards the ban, who waits does not.
		r.Cost, r.CostSaid, r.MaxWait, r.MaxWaitSaid = 1, true, 500*time.Millisecond, true
		for i, want := range []headgate.Reason{headgate.RateLimited, headgate.Banned} {
			if err := g.Take(t.Context(), &r, &d); err != nil || d.Reason != want || d.Waited != 0 {
				t.Errorf("refused %d: %v, %v after %v", i, err, d.Reason, d.Waited)
			}
		}
		if g.LinesForTest() != 0 || g.Waiting() != 0 {
			t.Errorf("%d lines and %d waiters are left", g.LinesForTest(), g.Waiting())
		}
	})
}

// Behind a full line nobody passes because of a look at what this node has.
func TestTurnedAwayAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: 1/s}]}]}}")
		take := func(cost int64, wait time.Duration) (d gate.Decision) {
			r := gate.Request{Application: "a", Operation: "x", Subject: "s", Cost: cost, CostSaid: true, MaxWait: wait, MaxWaitSaid: true}
			if err := g.Take(t.Context(), &r, &d); err != nil {
				t.Error(err)
			}
			return d
		}
		take(1, 0)
		var wg sync.WaitGroup
		wg.Go(func() {
			if d := take(1, time.Second); !d.Allowed {
				t.Errorf("the first: %+v", d.Decision)
			}
		})
		synctest.Wait()
		if d := take(0, time.Millisecond); d.Allowed || d.Reason != headgate.WaitTimeout || d.Degraded != "local" {
			t.Errorf("behind it: %+v, %q", d.Decision, d.Degraded)
		}
		wg.Wait()
	})
}

// A request that gives up while a leaky bucket lets it wait frees what it holds
// where it was taken.
func TestGivesUpAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, `
version: 1
applications:
  a:
    on_store_error: local
    rules: [{name: r, match: {operation: x}, max_wait: 1min, limits: [{name: shape, algorithm: leaky_bucket, rate: 1/s, burst: 9}, {name: slots, algorithm: concurrency, max: 9, ttl: 1h}]}]
`)
		r := gate.Request{Application: "a", Operation: "x", Subject: "s", Releases: true}
		var d gate.Decision
		if err := g.Take(t.Context(), &r, &d); err != nil || !d.Allowed {
			t.Fatalf("%v, %+v", err, d.Decision)
		}
		cause := errors.New("the client hung up")
		ctx, hangUp := context.WithCancelCause(t.Context())
		time.AfterFunc(500*time.Millisecond, func() { hangUp(cause) })
		if err := g.Take(ctx, &r, &d); !errors.Is(err, cause) {
			t.Errorf("%v, %+v", err, d.Decision)
		}
		if err := g.Peek(t.Context(), &r, &d); err != nil || d.Limits()[1].Used != 1 {
			t.Errorf("%v: %d slots are taken, want 1", err, d.Limits()[1].Used)
		}
	})
}

// A reservation with a key is replayed while it is open, and charged anew after.
func TestReplaysAlone(t *testing.T) {
	g := alone(t, "version: 1\napplications: {a: {limits: [{name: all, rate: 9/h}, {name: free, rate: 9/h, on_store_error: open}]}}")
	r := gate.Request{Application: "a", Operation: "x", Subject: "s", IdempotencyKey: "k"}
	var d, e gate.Decision
	for i, c := range []struct {
		settle, replayed bool
		used             int64
	}{{false, false, 1}, {false, true, 1}, {true, false, 2}} {
		if c.settle {
			if err := g.Settle(t.Context(), &gate.Claim{Ticket: string(d.AppendTicket(nil))}, &e); err != nil || !e.Held || e.Degraded != "local" {
				t.Fatalf("%v, held %v, %q", err, e.Held, e.Degraded)
			}
		}
		if err := g.Reserve(t.Context(), &r, time.Minute, &d); err != nil || !d.Allowed || d.Replayed != c.replayed || len(d.Limits()) != 1 || d.Limits()[0].Used != c.used || d.Degraded != "local" {
			t.Errorf("%d: %v, %+v, replayed %v, %q: %+v", i, err, d.Decision, d.Replayed, d.Degraded, d.Limits())
		}
	}
}

// A decision alone allocates no more than one by the store.
func TestNoAllocationsAlone(t *testing.T) {
	g := alone(t, "version: 1\napplications: {a: {limits: [{name: all, rate: 1000000/s}, {name: free, rate: 9/h, on_store_error: open}], rules: [{name: r, match: {operation: x}, limits: [{name: w, algorithm: fixed_window, rate: 1000000/h}]}]}}")
	r := &gate.Request{Application: "a", Operation: "x", Subject: "s"}
	var d gate.Decision
	n := testing.AllocsPerRun(1000, func() {
		if err := g.Take(t.Context(), r, &d); err != nil || !d.Allowed || d.Degraded != "local" || len(d.Limits()) != 2 {
			t.Fatalf("%v, %+v, %q", err, d.Decision, d.Degraded)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// network is a store of several nodes, in one process, that can be away.
type network struct {
	headgate.Store
	mu    sync.Mutex
	nodes map[[2]uint64]bool
	err   error
}

func (n *network) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

func (n *network) away() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *network) Apply(ctx context.Context, b *headgate.Batch) error {
	if err := n.away(); err != nil {
		return err
	}
	return n.Store.Apply(ctx, b)
}

func (n *network) Nodes(_ context.Context, node [2]uint64, ttl time.Duration) (int, error) {
	if err := n.away(); err != nil {
		return 0, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes[node] = true; ttl == 0 {
		delete(n.nodes, node)
	}
	return len(n.nodes), nil
}

// Close leaves the store to the other nodes.
func (n *network) Close() error { return nil }

// The plug is pulled under load: three nodes go on by their shares, what is
// admitted stays near the limit and not three times of it, quotas admit nothing,
// and when the store is back it decides again, within a second.
func TestPlugPulled(t *testing.T) {
	const policy = `
version: 1
applications:
  a:
    rules:
      - {name: rate, match: {operation: rate}, limits: [{name: w, rate: 100/s}]}
      - {name: quota, match: {operation: quota}, limits: [{name: q, algorithm: quota, rate: 1000000/day}]}
      - {name: open, match: {operation: open}, limits: [{name: w, rate: 1/h, on_store_error: open}]}
`
	synctest.Test(t, func(t *testing.T) {
		shared := &network{Store: memstore.New(memstore.Config{}), nodes: make(map[[2]uint64]bool)}
		var gates []*gate.Gate
		var guards []*guard.Store
		for range 3 {
			s := guard.New(shared, guard.Config{})
			defer s.Close()
			g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: s, Local: s.Local()})
			if err != nil {
				t.Fatal(err)
			}
			gates, guards = append(gates, g), append(guards, s)
		}
		<-time.After(5 * time.Second) // they have met
		var d gate.Decision
		// second plays one second of three nodes that are asked 300 times each.
		second := func(operation string) (passed int, degraded map[string]int) {
			degraded = make(map[string]int)
			for range 300 {
				for _, g := range gates {
					if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: operation, Subject: "s"}, &d); err != nil {
						t.Fatal(err)
					}
					degraded[d.Degraded]++
					if d.Allowed {
						passed++
					}
				}
				<-time.After(time.Second / 300)
			}
			return passed, degraded
		}
		second("rate")
		if n, by := second("rate"); n < 99 || n > 101 || by[""] != 900 {
			t.Errorf("with the store: %d passed, %v", n, by)
		}
		shared.fail(&headgate.Error{Code: headgate.Unavailable, Err: errors.New("connection refused")})
		for i := range 5 {
			// The bucket was empty when it went, so each share begins empty too.
			if n, by := second("rate"); n < 75 || n > 83 || by["local"] != 900 {
				t.Errorf("second %d without the store: %d passed, %v", i, n, by)
			}
		}
		if n, by := second("quota"); n != 0 || by["closed"] != 900 {
			t.Errorf("quota: %d passed, %v", n, by)
		}
		if n, by := second("open"); n != 900 || by["open"] != 900 {
			t.Errorf("open: %d passed, %v", n, by)
		}
		for i, s := range guards {
			if st := s.Stats(); st.Up || st.Nodes != 3 || st.Failures.Refused < 2000 {
				t.Errorf("node %d: %+v", i, st)
			}
		}
		shared.fail(nil)
		<-time.After(time.Second)
		if n, by := second("quota"); n != 900 || by[""] != 900 {
			t.Errorf("back: %d passed, %v", n, by)
		}
	})
}

// While the store is away that is logged once a minute, not for every request.
func TestReportsStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		g, err := gate.Open(t.Context(), gate.Config{
			Policy: []byte("version: 1\napplications: {a: {limits: [{name: all, rate: 9/h}]}}"),
			Store:  broken{&headgate.Error{Code: headgate.Unavailable, Err: errors.New("connection refused")}},
			Logger: slog.New(slog.NewTextHandler(&logged, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		var d gate.Decision
		for range 180 {
			if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "x"}, &d); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
		}
		if n := strings.Count(logged.String(), "connection refused"); n != 3 || !strings.Contains(logged.String(), `"so far"=121`) {
			t.Errorf("%d lines in three minutes:\n%s", n, logged.String())
		}
	})
}
