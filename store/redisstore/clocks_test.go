package redisstore

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// skews are how far clocks of nodes are off, each at the n-th reading.
var skews = []struct {
	name string
	of   func(n int64) time.Duration
}{
	{"right", func(int64) time.Duration { return 0 }},
	{"1 s ahead", func(int64) time.Duration { return time.Second }},
	{"1 s behind", func(int64) time.Duration { return -time.Second }},
	{"30 min ahead", func(int64) time.Duration { return 30 * time.Minute }},
	{"30 min behind", func(int64) time.Duration { return -30 * time.Minute }},
	{"stepped by 1 s", func(n int64) time.Duration { return time.Duration(n/50%3-1) * time.Second }},
	{"stepped by 30 min", func(n int64) time.Duration { return time.Duration(n/2000%3-1) * 30 * time.Minute }},
	{"two years behind", func(int64) time.Duration { return -2 * 8766 * time.Hour }},
}

// skewed returns a process's clock that is off.
func skewed(of func(n int64) time.Duration) func() int64 {
	start := time.Now()
	var n atomic.Int64
	return func() int64 { return start.Add(time.Since(start) + of(n.Add(1))).UnixMicro() }
}

// node is one process with a clock of its own.
type node struct {
	name string
	headgate.Store
	leased *lease.Store // nil without leases
}

// openNodes opens a node for every skew, with leases or without. The clocks are
// wrong from their first reading on, or are set after the servers' are known.
func openNodes(t *testing.T, url string, leases bool) (nodes []node) {
	t.Helper()
	for _, skew := range skews {
		s := openStore(t, Config{URL: url})
		s.scheme.clock.process = skewed(skew.of)
		n := node{name: skew.name, Store: s}
		if leases {
			n.leased = lease.New(s, lease.Config{WallClockForTest: skewed(skew.of)})
			n.Store = n.leased
			t.Cleanup(func() { n.leased.Close() })
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// longLimits are limits of n tokens, of which none comes back while a test runs.
func longLimits(t *testing.T, n int64) map[string]*headgate.Prepared {
	t.Helper()
	half := time.Now().UTC().AddDate(0, 6, 0)
	year := headgate.Calendar{Unit: headgate.Year, Anchor: int(half.Month())*100 + min(28, half.Day())}
	// Of widths that have no common boundary near, one has none in the next minutes.
	width := 1000 * time.Hour
	for time.Now().UnixMicro()%width.Microseconds() > (width - 10*time.Minute).Microseconds() {
		width += 7 * time.Hour
	}
	return map[string]*headgate.Prepared{
		"bucket":  prepare(t, headgate.Per(1, 10*time.Hour).WithBurst(n)),
		"window":  prepare(t, headgate.Window(n, width)),
		"sliding": prepare(t, headgate.Sliding(n, width)),
		"log":     prepare(t, headgate.Log(min(n, 1000), width)),
		"quota":   prepare(t, headgate.Limit{Algorithm: headgate.Quota, Count: n, Calendar: year}),
	}
}

// Nodes whose clocks are 1 s and 30 min off, and stepped back and forth, admit
// together just what a limit holds. With leases they never admit more, but a clock
// that is set forward ends leases early, and what is left of one may be lost.
func TestClocksNeverOver(t *testing.T) {
	for _, leases := range []bool{false, true} {
		count := int64(3000)
		if leases {
			count = 50_000
		}
		limits := longLimits(t, count)
		t.Run(fmt.Sprintf("leases=%v", leases), func(t *testing.T) {
			nodes := openNodes(t, redistest.Shared(t).URL(prefixed()), leases)
			for name, l := range limits {
				t.Run(name, func(t *testing.T) {
					var admitted atomic.Int64
					var wait sync.WaitGroup
					for _, n := range nodes {
						for range 4 {
							wait.Go(func() { admitted.Add(spendAll(t, n, l)) })
						}
					}
					wait.Wait()
					most := max(l.Count, l.Burst)
					least := most
					if leases {
						least /= 2
					}
					if n := admitted.Load(); n > most || n < least {
						t.Errorf("%d admitted, want %d to %d", n, least, most)
					}
				})
			}
			local := int64(0)
			for _, n := range nodes {
				if n.leased != nil {
					local += n.leased.Stats().Local
				}
			}
			if leases != (local > 0) {
				t.Errorf("%d decisions from leases", local)
			}
		})
	}
}

// spendAll takes until nothing is left, neither here nor leased by others, and
// returns what it got.
func spendAll(t *testing.T, n node, l *headgate.Prepared) (admitted int64) {
	b := new(headgate.Batch)
	for {
		b.Reset(headgate.Take)
		if _, err := b.Add(headgate.Charge{Limit: l, Owner: "alice", Cost: 1}); err != nil {
			t.Error(err)
			return admitted
		}
		switch err := n.Apply(t.Context(), b); {
		case err != nil:
			t.Errorf("%s: %v", n.name, err)
			return admitted
		case b.Allowed:
			admitted++
		case !b.Outcomes()[0].Leased:
			return admitted
		default:
			runtime.Gosched()
		}
	}
}

// Every node answers as one whose clock is right does, to the microsecond: its
// instants are the server's, and so are the ends of periods.
func TestClocksAnswers(t *testing.T) {
	server := redistest.Shared(t)
	clock := func() int64 {
		var seconds, micros int64
		now := server.Do(t, "TIME").([]any)
		if _, err := fmt.Sscan(fmt.Sprintln(now...), &seconds, &micros); err != nil {
			t.Fatal(err)
		}
		return seconds*1_000_000 + micros
	}
	nodes := openNodes(t, server.URL(prefixed()), false)
	for name, l := range longLimits(t, 900) {
		if _, err := take(t, nodes[0], headgate.Charge{Limit: l, Owner: "bob", Cost: 400}); err != nil {
			t.Fatal(err)
		}
		var right headgate.Outcome
		for i, n := range nodes {
			for _, cost := range []int64{1, 600} {
				before := clock()
				b := batchOf(t, headgate.Peek, headgate.Charge{Limit: l, Owner: "bob", Cost: cost})
				if err := n.Apply(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				if after := clock(); b.At < before || b.At > after {
					t.Errorf("%s, %s: decided at %d, which is not %d to %d", name, n.name, b.At, before, after)
				}
				o := b.Outcomes()[0]
				at := time.Duration(b.At) * time.Microsecond
				if o.Allowed != (cost == 1) {
					t.Errorf("%s, %s: %+v", name, n.name, o)
				}
				if o.RetryAfter > 0 { // the instant, which does not move
					o.RetryAfter += at
				}
				o.ResetAfter += at
				if cost == 1 {
					continue
				}
				if i == 0 {
					right = o
				} else if o != right {
					t.Errorf("%s, %s: %+v, the node with the right clock says %+v", name, n.name, o, right)
				}
			}
		}
	}
}

// A decision from a lease is at the server's time, though the machine's clock was
// set: it is estimated, but not by that clock.
func TestClocksLeasedInstant(t *testing.T) {
	for _, step := range []time.Duration{30 * time.Minute, -30 * time.Minute} {
		var wrong atomic.Int64
		store := lease.New(openStore(t, Config{URL: redistest.Shared(t).URL(prefixed())}), lease.Config{
			WallClockForTest: func() int64 { return time.Now().UnixMicro() + wrong.Load() },
		})
		defer store.Close()
		l := prepare(t, headgate.PerHour(1_000_000))
		for round := range 3 {
			for local := store.Stats().Local; store.Stats().Local < local+100; {
				b, err := take(t, store, headgate.Charge{Limit: l, Owner: "carol", Cost: 1})
				if err != nil || !b.Allowed {
					t.Fatalf("%v, allowed %v", err, b.Allowed)
				}
				if off := time.Since(time.UnixMicro(b.At)).Abs(); off > time.Minute {
					t.Fatalf("round %d: decided %v off the server's clock", round, off)
				}
			}
			wrong.Add(step.Microseconds())
		}
	}
}

// applyAt lets s decide as if the servers' clocks showed now, with the calendars that
// the process's clock makes it expect.
func applyAt(t *testing.T, s *Store, b *headgate.Batch, now int64) error {
	t.Helper()
	w := s.ground.newPatience(t.Context(), 0)
	defer w.stop()
	j := job{store: s, partition: &s.partitions[0], batch: b, op: scriptOp(b.Op), call: s.ground.newCall()}
	j.call.now = now
	j.call.payload.expect(0)
	j.send()
	return j.end(&w)
}

// reference decides as package algo does.
type reference struct {
	budget algo.Budget
	epoch  headgate.Epoch
}

func (r *reference) apply(op headgate.Op, l *headgate.Prepared, cost, now int64) (o headgate.Outcome) {
	b := r.budget.Clone()
	_, other := b.Load(l, now, r.epoch)
	b.Apply(&algo.Call{Op: op, Now: now, Cost: cost}, r.epoch, &o)
	if op == headgate.Take && cost > 0 && (o.Allowed || other && !o.Never) {
		r.budget = b
	}
	return o
}

// Where a period ends, nodes that expect another one, however wrong their clocks
// are, learn which one it is.
func TestClocksPeriodEnds(t *testing.T) {
	url := redistest.Shared(t).URL(prefixed())
	start := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC).UnixMicro()
	for _, unit := range []headgate.CalendarUnit{headgate.Hour, headgate.Day, headgate.Month} {
		l := prepare(t, headgate.Limit{Algorithm: headgate.Quota, Count: 20, Rollover: 5, Calendar: headgate.Calendar{Unit: unit}})
		r := reference{epoch: headgate.Epoch{ID: 1}}
		server := start
		var nodes []*Store
		for _, skew := range skews {
			s := openStore(t, Config{URL: url})
			n := int64(0)
			s.scheme.clock.process = func() int64 { n++; return server + skew.of(n*1000).Microseconds() }
			s.scheme.clock.ahead.Store(0)
			nodes = append(nodes, s)
		}
		end := algo.PeriodAt(l.Calendar, start).End
		for range 3 {
			for _, server = range []int64{end - 1, end, end + 1} {
				admitted := int64(0)
				for i, s := range nodes {
					for range 4 {
						b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: fmt.Sprint(unit), Cost: 1})
						if err := applyAt(t, s, b, server); err != nil {
							t.Fatalf("%v, %s: %v", unit, skews[i].name, err)
						}
						got, want := b.Outcomes()[0], r.apply(headgate.Take, l, 1, server)
						if got != want || b.At != server {
							t.Fatalf("%v, %s at %d: %+v, want %+v", unit, skews[i].name, b.At, got, want)
						}
						if got.Allowed {
							admitted++
						}
					}
				}
				if admitted > l.Count+l.Rollover {
					t.Errorf("%v: %d admitted in a period", unit, admitted)
				}
			}
			end = algo.PeriodAt(l.Calendar, end).End
		}
	}
}

// The servers' own clock is stepped back and forth by up to days, while numbers
// change: every node decides as package algo does, nothing is refused for longer
// than the clock was ahead, and a bucket admits at most one capacity more than in
// true time, however often the clock is set forward to where it was.
func TestServerClockStepped(t *testing.T) {
	s := openStore(t, Config{URL: redistest.Shared(t).URL(prefixed())})
	start := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC).UnixMicro()
	for name, limit := range map[string]func(n int64) headgate.Limit{
		"bucket":  func(n int64) headgate.Limit { return headgate.PerHour(n) },
		"window":  func(n int64) headgate.Limit { return headgate.Window(n, 10*time.Minute) },
		"sliding": func(n int64) headgate.Limit { return headgate.Sliding(n, time.Hour) },
		"log":     func(n int64) headgate.Limit { return headgate.Log(n, time.Hour) },
		"hourly":  func(n int64) headgate.Limit { return headgate.QuotaPer(n, headgate.Hour) },
		"daily":   func(n int64) headgate.Limit { return headgate.QuotaPer(n, headgate.Day) },
	} {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			numbers := []*headgate.Prepared{prepare(t, limit(10).WithName("n")), prepare(t, limit(15).WithName("n"))}
			r := reference{epoch: headgate.Epoch{ID: 1}}
			server, ahead := start, int64(0)
			for i := range 2000 {
				server += random.Int64N(60_000_000)
				if i%10 == 9 { // the steps that clocks make, and some that they should not
					step := []time.Duration{time.Second, 30 * time.Minute, 3 * time.Hour, 50 * time.Hour}[random.IntN(4)].Microseconds()
					if random.IntN(2) == 0 {
						step = -step
					}
					server += step
				}
				ahead = max(ahead, server)
				l := numbers[i/100%2]
				b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: name, Cost: 1 + random.Int64N(3)})
				if err := applyAt(t, s, b, server); err != nil {
					t.Fatalf("call %d at %v: %v", i, time.UnixMicro(server).UTC(), err)
				}
				got, want := b.Outcomes()[0], r.apply(headgate.Take, l, b.Charges()[0].Cost, server)
				if got != want {
					t.Fatalf("call %d at %v: %+v, want %+v", i, time.UnixMicro(server).UTC(), got, want)
				}
				if most := time.Duration(ahead-server)*time.Microsecond + 24*time.Hour; got.RetryAfter > most || name != "daily" && got.RetryAfter > most-22*time.Hour {
					t.Fatalf("call %d refuses for %v, with a clock that was ahead by %v", i, got.RetryAfter, most-24*time.Hour)
				}
			}
		})
	}
	t.Run("bound", func(t *testing.T) {
		const capacity = 100
		l := prepare(t, headgate.PerHour(capacity))
		admitted, forward := 0, false
		for minute := range 60 { // of true time
			for _, forward = range []bool{false, true, false} {
				server := start + int64(minute)*60_000_000
				if forward {
					server += 30 * 60_000_000
				}
				for {
					b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: "bound", Cost: 1})
					if err := applyAt(t, s, b, server); err != nil {
						t.Fatal(err)
					}
					if !b.Allowed {
						break
					}
					admitted++
				}
			}
		}
		if most := capacity + capacity*59/60 + capacity*30/60; admitted > most || admitted < 2*capacity-2 {
			t.Errorf("%d admitted in 59 minutes: at most burst, refill and what 30 minutes refill once, %d", admitted, most)
		}
	})
}

// Nodes are counted by the server's clock: how wrong theirs are does not show, who
// leaves is gone at once, and one that died before that clock was set back does not
// count for as long as that takes.
func TestNodesCount(t *testing.T) {
	server := redistest.Shared(t)
	prefix := redistest.Prefix()
	s := openStore(t, Config{URL: server.URL("prefix=" + prefix)})
	count := func(node uint64, ttl time.Duration, want int) {
		t.Helper()
		if n, err := s.Nodes(t.Context(), [2]uint64{7, node}, ttl); err != nil || n != want {
			t.Errorf("node %d: %d nodes, %v, want %d", node, n, err, want)
		}
	}
	count(1, 0, 0)
	count(1, time.Minute, 1)
	count(2, time.Minute, 2)
	count(2, time.Minute, 2)
	count(3, time.Minute, 3)
	count(2, 0, 2)
	count(2, 0, 2)
	dead := time.Now().Add(30 * time.Minute).UnixMilli()
	server.Do(t, "ZADD", prefix+"nodes", fmt.Sprint(dead), "dead")
	count(1, time.Minute, 2)
	server.Do(t, "ZADD", prefix+"nodes", fmt.Sprint(time.Now().Add(-time.Second).UnixMilli()), "gone")
	count(1, time.Minute, 2)
	count(1, 0, 1)
	count(3, 0, 0)
	if n := server.Do(t, "EXISTS", prefix+"nodes"); n != int64(0) {
		t.Errorf("the census of nobody is kept: %v", n)
	}
	for _, ttl := range []time.Duration{-1, time.Microsecond, time.Minute + 1} {
		if _, err := s.Nodes(t.Context(), [2]uint64{7, 9}, ttl); headgate.CodeOf(err) != headgate.InvalidRequest {
			t.Errorf("for %v: %v", ttl, err)
		}
	}
}
