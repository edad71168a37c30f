package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/dynamostore/dynamotest"
	"github.com/headgate/headgate/store/pgstore/pgtest"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// outageTimed also judges times. It is for machines with nothing else to do.
var outageTimed = flag.Bool("outage.timed", false, "judge how long decisions take while the store is away")

// What the policy of the outages allows.
const (
	outageNodes = 3
	outageRate  = 100 // a second
	outageBurst = 1000
	outageQuota = 2000
)

// outageLimits are the operations that callers ask for: what becomes of each
// while the store is away, and how long a decision may take.
var outageLimits = []struct {
	operation, degraded string
	patience            time.Duration
}{
	{"local", "local", 25 * time.Millisecond},
	{"open", "open", 25 * time.Millisecond},
	{"quota", "closed", 250 * time.Millisecond},
}

func outagePolicy() string {
	rate := fmt.Sprintf("{name: rate, rate: %d/s, burst: %d", outageRate, outageBurst)
	return "version: 1\napplications:\n  a:\n    rules:\n" +
		"      - {name: local, match: {operation: local}, limits: [" + rate + "}]}\n" +
		"      - {name: open, match: {operation: open}, limits: [" + rate + ", on_store_error: open}]}\n" +
		"      - {name: quota, match: {operation: quota}, limits: [" + slowYear("quota", outageQuota) + "]}\n"
}

// outage takes a store away from nodes under load.
type outage struct {
	name string
	// start returns the store's URL, what takes it away, and what brings it
	// back. Either may take as long as it does.
	start func(t *testing.T) (url string, away, back func())
	// replicas says that a replica takes over, which need not have every write.
	replicas bool
	// some says that only some subjects' state is away.
	some bool
	// leases is the one way to ask in which it is tried where time is short, "" for
	// both.
	leases string
}

var outages = []outage{
	{name: "server halted", start: func(t *testing.T) (string, func(), func()) {
		s := redistest.Standalone(t)
		return s.URL(), func() { s.Pause(t) }, func() { s.Resume(t) }
	}},
	{name: "server killed", start: func(t *testing.T) (string, func(), func()) {
		s := redistest.Standalone(t, redistest.Options{AppendOnly: true})
		return s.URL(), func() { s.Kill(t) }, func() { s.Restart(t) }
	}},
	{name: "two seconds late", start: func(t *testing.T) (string, func(), func()) {
		p := newLag(t, redistest.Standalone(t).Addr())
		return "redis://" + p.addr(), func() { p.set(2 * time.Second) }, func() { p.set(0) }
	}},
	{name: "sentinel failover", replicas: true, start: func(t *testing.T) (string, func(), func()) {
		s := redistest.Sentinel(t)
		return s.URL(), func() { s.KillPrimary(t) }, func() {}
	}},
	{name: "cluster failover", replicas: true, some: true, start: func(t *testing.T) (string, func(), func()) {
		r := redistest.Cluster(t, 1)
		return r.URL(), func() { r.KillMaster(t, 0) }, func() {}
	}},
	{name: "postgres halted", leases: "true", start: func(t *testing.T) (string, func(), func()) {
		s := pgtest.Standalone(t)
		return s.URL(), func() { s.Pause(t) }, func() { s.Resume(t) }
	}},
	{name: "postgres killed", leases: "false", start: func(t *testing.T) (string, func(), func()) {
		s := pgtest.Standalone(t)
		return s.URL(), func() { s.Stop(t) }, func() { s.Start(t) }
	}},
	{name: "postgres failover", replicas: true, start: func(t *testing.T) (string, func(), func()) {
		s := pgtest.Standalone(t)
		standby := s.Standby(t)
		return s.Either(standby), func() { s.Stop(t) }, func() { standby.Promote(t) }
	}},
	{name: "dynamodb halted", leases: "true", start: func(t *testing.T) (string, func(), func()) {
		s := dynamotest.Standalone(t)
		return s.URL(dynamotest.Table()), func() { s.Pause(t) }, func() { s.Resume(t) }
	}},
}

// TestOutage takes the store away from three nodes under load and brings it back:
// each limit does what its policy says, nothing is admitted above the bound, and
// the nodes find back to one limit.
func TestOutage(t *testing.T) {
	for _, o := range outages {
		for _, leases := range []string{"true", "false"} {
			if o.leases != "" && o.leases != leases && !*outageTimed {
				continue
			}
			t.Run(o.name+", leases="+leases, func(t *testing.T) { o.run(t, leases) })
		}
	}
}

func (o *outage) run(t *testing.T, leases string) {
	url, away, back := o.start(t)
	l := newLoad(t, option(url, "leases="+leases), o.some)
	l.phase(t, "up", time.Second)
	l.during.Store(phaseAway)
	away()
	l.phase(t, "away", 3*time.Second)
	l.during.Store(phaseBack)
	back()
	l.awaitStore(t)
	l.phase(t, "back", time.Second)
	l.stop()

	for i, limit := range outageLimits {
		c := &l.counts[i]
		t.Logf("%-6s %6d decided, %6d without the store, %5d passed (%d before, %d while away, %d after), p99 while away %v",
			limit.operation, c.decided.Load(), c.degraded.Load(), c.passed(), c.allowed[phaseUp].Load(), c.allowed[phaseAway].Load(), c.allowed[phaseBack].Load(), l.p99(i))
		if n := c.strange.Load(); n > 0 {
			t.Errorf("%s: %d decisions without the store were not %q", limit.operation, n, limit.degraded)
		}
		if c.degraded.Load() == 0 {
			t.Errorf("%s: the store was never away", limit.operation)
		}
		if *outageTimed {
			if p := l.p99(i); p > limit.patience {
				t.Errorf("%s: p99 %v while the store was away, %v may be waited for it", limit.operation, p, limit.patience)
			}
		}
	}
	subjects := float64(len(l.subjects))
	most := subjects * (outageBurst + outageRate*time.Since(l.began).Seconds())
	bound := l.nodes[0].backend.shared.guard.Bound()
	if n := float64(l.counts[0].passed()); n > bound.Usual*most || n < outageBurst/2 {
		t.Errorf("local: %.0f passed, the limit alone allows %.0f and the bound is %.1f x that", n, most, bound.Usual)
	}
	if l.counts[0].allowed[phaseAway].Load() == 0 {
		t.Error("local: nothing passed while the store was away")
	}
	// What a replica did not have yet when it took over is lost, and may be
	// admitted again.
	lost := l.counts[2].passed() - l.used(t)
	if lost > 0 {
		t.Logf("quota: %d charges were lost by the store", lost)
	}
	if n := l.counts[2].passed(); n > int64(subjects)*outageQuota && !o.replicas || n-lost > int64(subjects)*outageQuota {
		t.Errorf("quota: %d passed of %.0f, %d lost", n, subjects*outageQuota, lost)
	}
	// Of what was leased when the store went away a little may be lost.
	if n := l.counts[2].allowed[phaseBack].Load(); n == 0 && !o.some && l.counts[2].passed() < outageQuota*98/100 {
		t.Error("quota: nothing passed after the store was back, and not all is used")
	}
}

// The phases of an outage.
const (
	phaseUp = iota
	phaseAway
	phaseBack
	phases
)

// load is nodes and callers that ask them all the time.
type load struct {
	nodes    []*outageNode
	subjects []string
	began    time.Time
	during   atomic.Int32 // the phase
	counts   [3]outageCounts
	end      context.CancelFunc
	callers  sync.WaitGroup
}

type outageNode struct {
	backend *backend
	gate    *gate.Gate
}

type outageCounts struct {
	decided, degraded, strange atomic.Int64
	allowed                    [phases]atomic.Int64

	mu   sync.Mutex
	took []time.Duration // while the store was away
}

func (c *outageCounts) passed() (n int64) {
	for i := range c.allowed {
		n += c.allowed[i].Load()
	}
	return n
}

func newLoad(t *testing.T, url string, many bool) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{subjects: []string{"alice"}, began: time.Now(), end: cancel}
	if many {
		for i := range 30 {
			l.subjects = append(l.subjects, fmt.Sprint("subject ", i))
		}
	}
	t.Cleanup(l.stop)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	for range outageNodes {
		n := new(outageNode)
		var err error
		if n.backend, err = openBackend(t.Context(), &settings{store: url, memory: 64 << 20}, func(string, string, time.Duration, string) {}, log); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.backend.store.Close() })
		if n.gate, err = gate.Open(t.Context(), gate.Config{Policy: []byte(outagePolicy()), Store: n.backend.store, Local: n.backend.local, Now: n.backend.now}); err != nil {
			t.Fatal(err)
		}
		l.nodes = append(l.nodes, n)
	}
	for _, n := range l.nodes { // those that came first learn of the others
		if err := n.backend.shared.guard.Meet(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range l.nodes {
		for j := range 4 {
			l.callers.Go(func() { l.call(ctx, n, i+j) })
		}
	}
	return l
}

// call asks a node every two milliseconds until ctx ends.
func (l *load) call(ctx context.Context, n *outageNode, first int) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var d gate.Decision
	for i := first; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		which := i % len(outageLimits)
		c, during := &l.counts[which], l.during.Load()
		r := gate.Request{Application: "a", Operation: outageLimits[which].operation, Subject: l.subjects[i/len(outageLimits)%len(l.subjects)]}
		began := time.Now()
		if err := n.gate.Take(context.Background(), &r, &d); err != nil {
			c.strange.Add(1)
			continue
		}
		took := time.Since(began)
		c.decided.Add(1)
		if d.Allowed {
			c.allowed[during].Add(1)
		}
		if d.Degraded != "" {
			c.degraded.Add(1)
			// A node that was never degraded by its own limit's policy is wrong,
			// and so is a request that is closed and passes.
			if d.Degraded != outageLimits[which].degraded || d.Degraded == "closed" && (d.Allowed || d.Reason != headgate.StoreUnavailable) {
				c.strange.Add(1)
			}
		}
		if during == phaseAway {
			c.mu.Lock()
			c.took = append(c.took, took)
			c.mu.Unlock()
		}
	}
}

func (l *load) stop() {
	l.end()
	l.callers.Wait()
}

// phase lets the load go on for so long.
func (l *load) phase(t *testing.T, name string, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatalf("%s: %v", name, t.Context().Err())
	}
}

// awaitStore waits until every node asks the store again.
func (l *load) awaitStore(t *testing.T) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for _, n := range l.nodes {
		for !n.asksStore(t, l.subjects) {
			select {
			case <-tick.C:
			case <-late:
				t.Fatalf("a node does not find back to the store: %+v", n.backend.shared.guard.Stats())
			}
		}
	}
	t.Logf("all nodes ask the store again after %v", time.Since(began).Round(time.Millisecond))
}

func (n *outageNode) asksStore(t *testing.T, subjects []string) bool {
	return !slices.ContainsFunc(subjects, func(s string) bool { return n.peek(t, s).Degraded != "" })
}

// peek looks at the quota of a subject.
func (n *outageNode) peek(t *testing.T, subject string) *gate.Decision {
	t.Helper()
	d := new(gate.Decision)
	if err := n.gate.Peek(t.Context(), &gate.Request{Application: "a", Operation: "quota", Subject: subject}, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// used is what the store counts of all quotas. On a busy machine it can have been too
// slow for the load: then it is asked again.
func (l *load) used(t *testing.T) (sum int64) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	n := l.nodes[0]
	for _, s := range l.subjects {
		d := n.peek(t, s)
		for d.Degraded != "" {
			select {
			case <-tick.C:
			case <-late:
				t.Fatalf("the store is away again: %+v", n.backend.shared.guard.Stats())
			}
			d = n.peek(t, s)
		}
		sum += d.Limits()[0].Used
	}
	return sum
}

func (l *load) p99(which int) time.Duration {
	c := &l.counts[which]
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.took) == 0 {
		return 0
	}
	slices.Sort(c.took)
	return c.took[len(c.took)*99/100]
}

// lag is a TCP proxy that passes on what it gets as late as it is told.
type lag struct {
	listener net.Listener
	late     atomic.Int64 // a time.Duration
}

func newLag(t *testing.T, server string) *lag {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &lag{listener: l}
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	open.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", server)
			if err != nil {
				in.Close()
				continue
			}
			context.AfterFunc(ctx, func() { in.Close(); out.Close() })
			open.Go(func() { p.carry(out, in) })
			open.Go(func() { p.carry(in, out) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		open.Wait()
	})
	return p
}

func (p *lag) addr() string { return p.listener.Addr().String() }

// set makes everything that comes from now on half of d late in each direction.
func (p *lag) set(d time.Duration) { p.late.Store(int64(d / 2)) }

// carry copies src to dst, each piece when it is due.
func (p *lag) carry(dst, src net.Conn) {
	type piece struct {
		data []byte
		due  time.Time
	}
	pieces := make(chan piece, 1<<16)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 16<<10)
			n, err := src.Read(b)
			if n > 0 {
				pieces <- piece{b[:n], time.Now().Add(time.Duration(p.late.Load()))}
			}
			if err != nil {
				return
			}
		}
	}()
	for x := range pieces {
		<-time.After(time.Until(x.due))
		if _, err := dst.Write(x.data); err != nil {
			break
		}
	}
	dst.Close()
	src.Close()
	_, _ = io.Copy(io.Discard, src)
	for range pieces { // the reader ends
	}
}
