package bench

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/store/redisstore/redistest"
)

var (
	// inRedis is a limit in Redis that refuses nothing within a benchmark and
	// gives nothing back.
	inRedis = rule{burst: 5e6, every: 10 * time.Minute}
	// leasedHot and leasedMany are the same for as many calls as leases decide.
	leasedHot  = rule{burst: 1e9, every: 3 * time.Second}
	leasedMany = rule{burst: 1e7, every: 5 * time.Minute}
)

// redisKeys is the number of keys of the benchmarks with many keys in Redis.
const redisKeys = 1 << 14

// keysOf returns an order of the first n keys, shuffled anew in each round.
func keysOf(n int) *order {
	r := rand.New(rand.NewPCG(5, uint64(n)))
	var numbers []uint32
	for range max(2, redisKeys*2/n) {
		for _, i := range r.Perm(n) {
			numbers = append(numbers, uint32(i))
		}
	}
	return newOrder(numbers)
}

var (
	onOne      = sync.OnceValue(func() *order { return keysOf(1) })
	onThousand = sync.OnceValue(func() *order { return keysOf(1000) })
	onMany     = sync.OnceValue(func() *order { return keysOf(redisKeys) })
)

// session is a remote contestant and what was asked of it. It lives as long as
// the process: benchmarks of one process share the server.
type session struct {
	*remote
	rule    rule
	asked   []int64 // by key
	since   time.Time
	scripts func(*testing.B) int64 // how many the server has run; nil if it runs none
}

var sessions = map[string]*session{}

// opener opens a contestant for a number of limits with the rule's numbers, all
// of which a take asks.
type opener = func(tb testing.TB, r rule, limits int) *remote

// open returns the contestant called id, after it has shown that it limits.
func open(b *testing.B, id string, by opener, r rule, limits, keys int) *session {
	b.Helper()
	id += strconv.FormatInt(r.burst, 10) + "/" + strconv.Itoa(limits)
	if s := sessions[id]; s != nil {
		return s
	}
	s := &session{remote: by(b, r, limits), rule: r, asked: make([]int64, keys), since: time.Now()}
	sessions[id] = s
	if s.used != nil {
		prove(b, by, limits)
	}
	if s.local == nil {
		s.each(b, keys, 1) // no key is new
	}
	return s
}

// each asks so often for each of the first keys, 64 goroutines together, and
// returns how often in all.
func (s *session) each(b *testing.B, keys, times int) int64 {
	b.Helper()
	var g sync.WaitGroup
	for w := range inFlight {
		t := s.worker(b)
		g.Go(func() {
			for i := w % keys; i < keys; i += inFlight {
				for range times {
					if !t(key(uint32(i))) {
						b.Error("refused")
					}
				}
			}
		})
	}
	g.Wait()
	for w := range inFlight {
		for i := w % keys; i < keys; i += inFlight {
			s.asked[i] += int64(times)
		}
	}
	return int64(times * max(keys, inFlight))
}

// prove has 64 goroutines ask together for twice what there is: not one more
// passes, and hardly one fewer.
func prove(b *testing.B, open opener, limits int) {
	b.Helper()
	const burst = 2000
	c := open(b, rule{burst: burst, every: time.Hour}, limits)
	var allowed atomic.Int64
	var g sync.WaitGroup
	for range inFlight {
		t := c.worker(b)
		g.Go(func() {
			for range 2 * burst / inFlight {
				if t(hotKey) {
					allowed.Add(1)
				}
			}
		})
	}
	g.Wait()
	least := int64(burst)
	if c.settle != nil {
		least = burst * 98 / 100
		c.settle(b)
	}
	if n := allowed.Load(); n > burst || n < least {
		b.Fatalf("%d of %d were allowed, want %d", n, 2*burst, burst)
	}
	if n := c.used(b, hotKey); n != allowed.Load() {
		b.Fatalf("%d were allowed and %d are used", allowed.Load(), n)
	}
}

// run is n keys of an order that a goroutine has asked for, from at on.
type run struct{ at, n int }

const runLength = 64

// fly asks for the first keys in the order of o with 64 calls in flight, and
// checks what came.
func (s *session) fly(b *testing.B, o *order, keys int) {
	s.warm(b, keys)
	var next, allowed atomic.Int64
	var mu sync.Mutex
	var runs []run // what was asked for
	var times sampler
	var calls int64
	if s.scripts != nil {
		calls = s.scripts(b)
	}
	flights(b)
	b.ReportAllocs()
	began := cpu(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		t := times.time(s.worker(b))
		var own []run
		var a int64
		var r run
		for pb.Next() {
			if r.n%runLength == 0 {
				own = append(own, r)
				r = run{at: int(next.Add(runLength) - runLength)}
			}
			if t(o.keys[(r.at+r.n)%len(o.keys)]) {
				a++
			}
			r.n++
		}
		allowed.Add(a)
		mu.Lock()
		defer mu.Unlock()
		runs = append(append(runs, own...), r)
	})
	b.StopTimer()
	for _, r := range runs {
		for p := range r.n {
			s.asked[o.numbers[(r.at+p)%len(o.keys)]]++
		}
	}
	reportCPU(b, began, int64(b.N))
	times.report(b)
	if s.scripts != nil {
		b.ReportMetric(1000*float64(s.scripts(b)-calls)/float64(b.N), "scripts/kop")
	}
	check(b, int64(b.N), allowed.Load(), int64(b.N))
	s.balance(b, keys)
}

// warm asks for the keys until leases decide nearly all of it.
func (s *session) warm(b *testing.B, keys int) {
	b.Helper()
	if s.local == nil {
		return
	}
	began := time.Now()
	for last := s.local(); ; {
		asked := s.each(b, keys, 16)
		local := s.local()
		if local-last >= asked*95/100 {
			return
		}
		if last = local; time.Since(began) > time.Minute {
			b.Fatalf("leases decide %d of %d", local-last, asked)
		}
	}
}

// balance fails b unless as much is used as was asked for, all of which passed.
func (s *session) balance(b *testing.B, keys int) {
	b.Helper()
	if s.used == nil {
		return
	}
	if s.settle != nil {
		s.settle(b)
	}
	back := int64(time.Since(s.since) / s.rule.every) // tokens that may have come back
	for i := 0; i < keys; i += max(1, keys/1000) {
		if n := s.used(b, key(uint32(i))); n > s.asked[i] || n < s.asked[i]-back {
			b.Fatalf("%s: %d passed, %d came back at most, and %d are used", key(uint32(i)), s.asked[i], back, n)
		}
	}
}

// scripts returns how many scripts the server has run.
func scripts(b *testing.B) int64 {
	b.Helper()
	stat := redistest.Shared(b).Info(b, "cmdstat_evalsha") // calls=1,usec=...
	calls, _, _ := strings.Cut(strings.TrimPrefix(stat, "calls="), ",")
	if stat == "" {
		return 0
	}
	n, err := strconv.ParseInt(calls, 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func eachRemote(b *testing.B, names []string, r rule, limits int, o *order, keys int) {
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			s := open(b, name, remotes[name], r, limits, redisKeys)
			s.scripts = scripts
			s.fly(b, o, keys)
		})
	}
}

var inFull = []string{"headgate", "redis_rate", "rueidis-gcra", "floor"}

func BenchmarkRedisMany(b *testing.B)  { eachRemote(b, inFull, inRedis, 1, onMany(), redisKeys) }
func BenchmarkRedisThree(b *testing.B) { eachRemote(b, inFull, inRedis, 3, onMany(), redisKeys) }

func BenchmarkRedisHot(b *testing.B) {
	eachRemote(b, inFull, inRedis, 1, onOne(), 1)
	eachRemote(b, []string{"headgate-leases"}, leasedHot, 1, onOne(), 1)
}

func BenchmarkRedisThousand(b *testing.B) {
	eachRemote(b, inFull, inRedis, 1, onThousand(), 1000)
	eachRemote(b, []string{"headgate-leases"}, leasedMany, 1, onThousand(), 1000)
}
