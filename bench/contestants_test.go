package bench

import (
	"context"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
	sethvargo "github.com/sethvargo/go-limiter"
	"github.com/sethvargo/go-limiter/memorystore"
	throttled "github.com/throttled/throttled/v2"
	throttledstore "github.com/throttled/throttled/v2/store/memstore"
	ulule "github.com/ulule/limiter/v3"
	ululestore "github.com/ulule/limiter/v3/drivers/store/memory"
	uber "go.uber.org/ratelimit"
	"golang.org/x/time/rate"
)

// rule is the limit that all contestants of a benchmark enforce: burst tokens,
// one of which comes back every so often.
type rule struct {
	burst int64
	every time.Duration
}

// window is the length of a fixed window with the rule's mean rate.
func (r rule) window() time.Duration {
	if r.burst > math.MaxInt64/int64(r.every) {
		panic("bench: the rule's window does not fit a duration")
	}
	return time.Duration(r.burst) * r.every
}

// take asks for one token of key.
type take = func(key string) bool

// contestant is a limiter under test. worker returns what one goroutine asks
// with. keys returns how many keys are kept, -1 if that cannot be seen.
type contestant struct {
	worker func() take
	keys   func() int
	close  func()
}

// contestants opens each of them.
var contestants = map[string]func(testing.TB, rule) *contestant{
	"headgate":       openHeadgate,
	"headgate-batch": openHeadgateBatch,
	"failsafe-go":    openFailsafe,
	"sethvargo":      openSethvargo,
	"throttled":      openThrottled,
	"ulule":          openUlule,
	"x-time":         openXTime,
}

// oneKey opens those that know no keys, as a program with one budget uses them:
// without a map around them.
var oneKey = map[string]func(testing.TB, rule) *contestant{
	"headgate-key":       openKey,
	"headgate-key-take":  openKeyTake,
	"headgate-key-batch": openKeyBatch,
	"failsafe-go":        openOneFailsafe,
	"uber":               openOneUber,
	"x-time":             openOneXTime,
}

// perKey are the contestants that can keep many keys.
var perKey = []string{"headgate", "headgate-batch", "sethvargo", "throttled", "x-time", "failsafe-go", "ulule"}

// distinct are those that keep their keys in ways of their own.
var distinct = slices.DeleteFunc(slices.Clone(perKey), func(name string) bool { return name == "headgate-batch" })

// handles are Headgate's ways to ask for one key often.
var handles = []string{"headgate-key", "headgate-key-take", "headgate-key-batch"}

// denying are those that can say no: uber's only makes callers wait.
var denying = slices.Concat(handles, perKey)

// everyone is all of them.
var everyone = append([]string{"uber"}, denying...)

// eachOnOneKey runs f as a sub-benchmark for every name.
func eachOnOneKey(b *testing.B, names []string, r rule, f func(*testing.B, *contestant)) {
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			open := oneKey[name]
			if open == nil {
				open = contestants[name]
			}
			c := open(b, r)
			defer c.close()
			f(b, c)
		})
	}
}

// shared is a contestant whose goroutines all ask with the same function.
func shared(t take) *contestant {
	return &contestant{
		worker: func() take { return t },
		keys:   func() int { return -1 },
		close:  func() {},
	}
}

func openHeadgate(tb testing.TB, r rule) *contestant {
	s := memstore.New(memstore.Config{})
	l, err := headgate.New(s, headgate.Per(1, r.every).WithBurst(r.burst))
	if err != nil {
		tb.Fatal(err)
	}
	ctx := context.Background()
	c := shared(func(key string) bool {
		d, err := l.Take(ctx, key, 1)
		return err == nil && d.Allowed
	})
	c.keys = func() int { return int(s.Stats().Keys) }
	c.close = func() { _ = s.Close() }
	return c
}

// networkRead is how many decisions headgate-batch takes on one clock reading:
// what a front end finds in one read of a busy connection.
const networkRead = 64

// openHeadgateBatch is Headgate as its front ends use it: a batch of their own,
// and one reading of the store's clock for all that one network read brought.
func openHeadgateBatch(tb testing.TB, r rule) *contestant {
	s := memstore.New(memstore.Config{})
	p, err := headgate.Per(1, r.every).WithBurst(r.burst).Prepare()
	if err != nil {
		tb.Fatal(err)
	}
	ctx := context.Background()
	c := &contestant{
		keys:  func() int { return int(s.Stats().Keys) },
		close: func() { _ = s.Close() },
	}
	c.worker = func() take {
		b := new(headgate.Batch)
		var now int64
		var n uint
		return func(key string) bool {
			if n%networkRead == 0 {
				now = s.Now()
			}
			n++
			b.Reset(headgate.Take)
			b.Now = now
			if _, err := b.Add(headgate.Charge{Limit: p, Owner: key, Cost: 1}); err != nil {
				return false
			}
			return s.Apply(ctx, b) == nil && b.Decision().Allowed
		}
	}
	return c
}

// openHandle opens a Key of Headgate, as a program with one budget holds it.
// worker makes what a goroutine asks with.
func openHandle(tb testing.TB, r rule, worker func(*memstore.Store, *headgate.Key) take) *contestant {
	s := memstore.New(memstore.Config{})
	l, err := headgate.New(s, headgate.Per(1, r.every).WithBurst(r.burst))
	if err != nil {
		tb.Fatal(err)
	}
	k := l.Key(hotKey)
	return &contestant{
		worker: func() take { return worker(s, k) },
		keys:   func() int { return int(s.Stats().Keys) },
		close: func() {
			k.Close()
			_ = s.Close()
		},
	}
}

// openKey asks for yes or no, as the rivals answer.
func openKey(tb testing.TB, r rule) *contestant {
	ctx := context.Background()
	return openHandle(tb, r, func(_ *memstore.Store, k *headgate.Key) take {
		return func(string) bool {
			ok, err := k.Allow(ctx, 1)
			return err == nil && ok
		}
	})
}

// openKeyTake asks for a whole decision, which nobody takes tokens ahead for.
func openKeyTake(tb testing.TB, r rule) *contestant {
	ctx := context.Background()
	return openHandle(tb, r, func(_ *memstore.Store, k *headgate.Key) take {
		return func(string) bool {
			d, err := k.Take(ctx, 1)
			return err == nil && d.Allowed
		}
	})
}

// openKeyBatch reads the clock once for every networkRead decisions.
func openKeyBatch(tb testing.TB, r rule) *contestant {
	ctx := context.Background()
	return openHandle(tb, r, func(s *memstore.Store, k *headgate.Key) take {
		var now int64
		var n uint
		return func(string) bool {
			if n%networkRead == 0 {
				now = s.Now()
			}
			n++
			ok, err := k.AllowAt(ctx, now, 1)
			return err == nil && ok
		}
	})
}

// limiters holds limiters of a single key by key.
type limiters[L any] struct {
	mu   sync.RWMutex
	m    map[string]L
	make func() L
}

func (ls *limiters[L]) get(key string) L {
	ls.mu.RLock()
	l, ok := ls.m[key]
	ls.mu.RUnlock()
	if ok {
		return l
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l, ok = ls.m[key]; !ok {
		l = ls.make()
		ls.m[key] = l
	}
	return l
}

func (ls *limiters[L]) len() int {
	ls.mu.RLock()
	defer ls.mu.RUnlock()
	return len(ls.m)
}

func newXTime(r rule) *rate.Limiter { return rate.NewLimiter(rate.Every(r.every), int(r.burst)) }

func openXTime(_ testing.TB, r rule) *contestant {
	ls := &limiters[*rate.Limiter]{
		m:    make(map[string]*rate.Limiter),
		make: func() *rate.Limiter { return newXTime(r) },
	}
	c := shared(func(key string) bool { return ls.get(key).Allow() })
	c.keys = ls.len
	return c
}

func openOneXTime(_ testing.TB, r rule) *contestant {
	l := newXTime(r)
	return shared(func(string) bool { return l.Allow() })
}

func newFailsafe(r rule) ratelimiter.RateLimiter[any] {
	return ratelimiter.NewBursty[any](uint(r.burst), r.window())
}

func openFailsafe(_ testing.TB, r rule) *contestant {
	ls := &limiters[ratelimiter.RateLimiter[any]]{
		m:    make(map[string]ratelimiter.RateLimiter[any]),
		make: func() ratelimiter.RateLimiter[any] { return newFailsafe(r) },
	}
	c := shared(func(key string) bool { return ls.get(key).TryAcquirePermit() })
	c.keys = ls.len
	return c
}

func openOneFailsafe(_ testing.TB, r rule) *contestant {
	l := newFailsafe(r)
	return shared(func(string) bool { return l.TryAcquirePermit() })
}

// openOneUber makes a limiter so fast that nobody ever waits.
func openOneUber(testing.TB, rule) *contestant {
	l := uber.New(int(time.Second))
	return shared(func(string) bool { return !l.Take().IsZero() })
}

func openSethvargo(tb testing.TB, r rule) *contestant {
	var s sethvargo.Store
	s, err := memorystore.New(&memorystore.Config{Tokens: uint64(r.burst), Interval: r.window()})
	if err != nil {
		tb.Fatal(err)
	}
	ctx := context.Background()
	c := shared(func(key string) bool {
		_, _, _, ok, err := s.Take(ctx, key)
		return err == nil && ok
	})
	c.close = func() { _ = s.Close(ctx) }
	return c
}

func openThrottled(tb testing.TB, r rule) *contestant {
	s, err := throttledstore.NewCtx(0)
	if err != nil {
		tb.Fatal(err)
	}
	quota := throttled.RateQuota{MaxRate: throttled.PerDuration(1, r.every), MaxBurst: int(r.burst) - 1}
	l, err := throttled.NewGCRARateLimiterCtx(s, quota)
	if err != nil {
		tb.Fatal(err)
	}
	// Under contention the default of 10 attempts ends in errors.
	l.SetMaxCASAttemptsLimit(1 << 20)
	ctx := context.Background()
	return shared(func(key string) bool {
		limited, _, err := l.RateLimitCtx(ctx, key, 1)
		return err == nil && !limited
	})
}

func openUlule(_ testing.TB, r rule) *contestant {
	l := ulule.New(ululestore.NewStore(), ulule.Rate{Period: r.window(), Limit: r.burst})
	ctx := context.Background()
	return shared(func(key string) bool {
		d, err := l.Get(ctx, key)
		return err == nil && !d.Reached
	})
}
