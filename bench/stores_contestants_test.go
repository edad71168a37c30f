package bench

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/store/redisstore"
	"github.com/headgate/headgate/store/redisstore/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

// remote is a contestant whose limits live on a server. worker's take is of one
// goroutine.
type remote struct {
	worker func(testing.TB) take
	// used returns how many tokens a key has used, of the limit of which it is
	// most.
	used func(tb testing.TB, key string) int64
	// settle makes used tell all that was allowed; local returns how many calls
	// were decided without the server. Both are nil without leases.
	settle func(testing.TB)
	local  func() int64
}

// remotes opens the contestants whose server is Redis.
var remotes = map[string]opener{
	"headgate":        openRedisStore,
	"headgate-leases": openLeases,
	"redis_rate":      openRedisRate,
	"rueidis-gcra":    openGCRA,
	"floor":           openScriptFloor,
}

var suffixes = []string{"", ":b", ":c"}

// taking makes a take of something that can fail.
func taking(tb testing.TB, ask func(key string) (bool, error)) take {
	return func(key string) bool {
		ok, err := ask(key)
		if err != nil {
			tb.Error(err)
		}
		return ok
	}
}

func bucket(tb testing.TB, r rule, name string) *headgate.Prepared {
	tb.Helper()
	p, err := headgate.Per(1, r.every).WithBurst(r.burst).WithName(name).Prepare()
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func openStore(tb testing.TB) *redisstore.Store {
	tb.Helper()
	s, err := redisstore.Open(context.Background(), redisstore.Config{URL: redistest.Shared(tb).URL("prefix=" + redistest.Prefix())})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func openRedisStore(tb testing.TB, r rule, limits int) *remote {
	return overStore(tb, openStore(tb), r, limits)
}

// overStore asks a store for buckets.
func overStore(tb testing.TB, s headgate.Store, r rule, limits int) *remote {
	tb.Helper()
	var all []*headgate.Prepared
	for i := range limits {
		all = append(all, bucket(tb, r, "limit"+strconv.Itoa(i)))
	}
	ctx := context.Background()
	apply := func(b *headgate.Batch, op headgate.Op, key string) error {
		b.Reset(op)
		for _, l := range all {
			if _, err := b.Add(headgate.Charge{Limit: l, Owner: key, Cost: 1}); err != nil {
				return err
			}
		}
		return s.Apply(ctx, b)
	}
	return &remote{
		worker: func(tb testing.TB) take {
			b := new(headgate.Batch)
			return taking(tb, func(key string) (bool, error) {
				err := apply(b, headgate.Take, key)
				return b.Allowed, err
			})
		},
		used: func(tb testing.TB, key string) (most int64) {
			b := new(headgate.Batch)
			if err := apply(b, headgate.Peek, key); err != nil {
				tb.Fatal(err)
			}
			for _, o := range b.Outcomes() {
				most = max(most, o.Used)
			}
			return most
		},
	}
}

// staying is an authority that outlives the leases.
type staying struct{ headgate.Authority }

func (staying) Close() error { return nil }

// leasing is a store that gets other leases now and then. It is changed between
// runs only.
type leasing struct{ *lease.Store }

func openLeases(tb testing.TB, r rule, limits int) *remote {
	s := openStore(tb)
	l := &leasing{lease.New(staying{s}, lease.Config{})}
	c := overStore(tb, l, r, limits)
	c.used = overStore(tb, s, r, limits).used
	c.settle = func(tb testing.TB) {
		if err := l.Close(); err != nil {
			tb.Fatal(err)
		}
		if st := l.Stats(); st.Dropped+st.Late+st.Outstanding > 0 {
			tb.Errorf("leases have lost tokens: %+v", st)
		}
		l.Store = lease.New(staying{s}, lease.Config{})
	}
	c.local = func() int64 { return l.Stats().Local }
	return c
}

func openRedisRate(tb testing.TB, r rule, limits int) *remote {
	// A connection for each call in flight; fewer are slower.
	c := redis.NewClient(&redis.Options{Addr: redistest.Shared(tb).Addr(), PoolSize: inFlight})
	l := redis_rate.NewLimiter(c)
	limit := redis_rate.Limit{Rate: 1, Burst: int(r.burst), Period: r.every}
	ctx := context.Background()
	prefix := redistest.Prefix()
	return &remote{
		worker: func(tb testing.TB) take {
			return taking(tb, func(key string) (bool, error) {
				for _, s := range suffixes[:limits] {
					res, err := l.Allow(ctx, prefix+key+s, limit)
					if err != nil || res.Allowed == 0 {
						return false, err
					}
				}
				return true, nil
			})
		},
		used: func(tb testing.TB, key string) (most int64) {
			for _, s := range suffixes[:limits] {
				res, err := l.AllowN(ctx, prefix+key+s, limit, 0)
				if err != nil {
					tb.Fatal(err)
				}
				most = max(most, r.burst-int64(res.Remaining))
			}
			return most
		},
	}
}

// gcra is what one would write by hand: all keys or none, the server's clock,
// integers.
var gcra = rueidis.NewLuaScript(`
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local every, depth, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full = redis.call('MGET', unpack(KEYS))
local left, retry = math.huge, 0
for i = 1, #KEYS do
	local next = math.max(tonumber(full[i] or 0), now) + every * cost
	full[i] = next
	left = math.min(left, math.floor((depth - (next - now)) / every))
	retry = math.max(retry, next - now - depth)
end
if retry > 0 then
	return {0, 0, retry}
end
if cost > 0 then
	for i = 1, #KEYS do
		redis.call('SET', KEYS[i], string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000))
	end
end
return {1, left, 0}
`)

func dialRueidis(tb testing.TB) rueidis.Client {
	tb.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{redistest.Shared(tb).Addr()}, DisableCache: true})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func openGCRA(tb testing.TB, r rule, limits int) *remote {
	c := dialRueidis(tb)
	ctx := context.Background()
	prefix := redistest.Prefix()
	every, depth := strconv.FormatInt(r.every.Microseconds(), 10), strconv.FormatInt(r.window().Microseconds(), 10)
	ask := func(key, cost string) ([]int64, error) {
		keys := make([]string, limits)
		for i, s := range suffixes[:limits] {
			keys[i] = prefix + key + s
		}
		answer, err := gcra.Exec(ctx, c, keys, []string{every, depth, cost}).AsIntSlice()
		if err == nil && len(answer) != 3 {
			err = errors.New("another answer than three numbers")
		}
		return answer, err
	}
	return &remote{
		worker: func(tb testing.TB) take {
			return taking(tb, func(key string) (bool, error) {
				answer, err := ask(key, "1")
				return err == nil && answer[0] == 1, err
			})
		},
		used: func(tb testing.TB, key string) int64 {
			answer, err := ask(key, "0")
			if err != nil {
				tb.Fatal(err)
			}
			return r.burst - answer[1]
		},
	}
}

// openScriptFloor calls a script that does nothing.
func openScriptFloor(tb testing.TB, _ rule, _ int) *remote {
	c := dialRueidis(tb)
	ctx := context.Background()
	script := rueidis.NewLuaScript("return 1")
	prefix := redistest.Prefix()
	return &remote{worker: func(tb testing.TB) take {
		return taking(tb, func(key string) (bool, error) {
			n, err := script.Exec(ctx, c, []string{prefix + key}, nil).AsInt64()
			return n == 1, err
		})
	}}
}

// sampler keeps the time of every 16th call.
type sampler struct {
	mu  sync.Mutex
	all []*[]time.Duration
}

const sampled = 16

func (s *sampler) time(t take) take {
	own := new([]time.Duration)
	s.mu.Lock()
	s.all = append(s.all, own)
	s.mu.Unlock()
	n := 0
	return func(key string) bool {
		if n++; n%sampled != 0 {
			return t(key)
		}
		began := time.Now()
		ok := t(key)
		*own = append(*own, time.Since(began))
		return ok
	}
}

// report reports the median and the 99th percentile, in microseconds.
func (s *sampler) report(b *testing.B) {
	var all []time.Duration
	for _, own := range s.all {
		all = append(all, *own...)
	}
	if len(all) == 0 {
		return // too short a run
	}
	slices.Sort(all)
	at := func(share float64) float64 {
		return float64(all[int(math.Ceil(share*float64(len(all))))-1].Nanoseconds()) / 1e3
	}
	b.ReportMetric(at(0.5), "p50-us")
	b.ReportMetric(at(0.99), "p99-us")
}

// flights sets as many goroutines as there are to be calls in flight.
func flights(b *testing.B) { b.SetParallelism(max(1, inFlight/runtime.GOMAXPROCS(0))) }
