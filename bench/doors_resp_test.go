package bench

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/store/redisstore/redistest"
	"github.com/redis/go-redis/v9"
)

// speaker is a server that speaks the Redis protocol, and what is asked of it.
type speaker struct {
	addr string
	pid  int
	// command is what redis-benchmark sends: __rand_int__ becomes a number of twelve
	// digits.
	command []string
	// used returns how much of all keys is used.
	used  func(keys int) (int64, error)
	keys  int
	asked int64
}

// respDoors are the contestants.
var respDoors = map[string]func(testing.TB) *speaker{
	"headgate":      openThrottle,
	"headgate-take": openTake,
	"floor":         openRESPFloor,
	"redis-incr":    openIncr,
	"redis-lua":     openLua,
}

var respNames = []string{"headgate", "headgate-take", "floor", "redis-incr", "redis-lua"}

const randomKey = "__rand_int__"

// keyOf is what randomKey becomes for key i.
func keyOf(i int) string { return fmt.Sprintf("%012d", i) }

func throttle(key string, quantity int) []any {
	return []any{"CL.THROTTLE", "key:" + key, strconv.Itoa(doorBurst - 1), "1", "86400", strconv.Itoa(quantity)}
}

func startDoors(tb testing.TB) *house {
	tb.Helper()
	return startHeadgate(tb, map[string]string{"policy.yaml": doorPolicy}, "--store", "memory", "--policy", "policy.yaml")
}

// openThrottle is the daemon and CL.THROTTLE.
func openThrottle(tb testing.TB) *speaker {
	h := startDoors(tb)
	c := dial(tb, h.doors["resp"])
	return &speaker{addr: h.doors["resp"], pid: h.pid, command: words(throttle(randomKey, 1)), used: func(keys int) (int64, error) {
		return sum(c, keys, func(key string) []any { return throttle(key, 0) }, func(reply any) (int64, error) {
			r, ok := reply.([]any) // limited, limit, remaining, retry after, reset after
			if !ok || len(r) != 5 || r[0] != int64(0) || r[1] != int64(doorBurst) {
				return 0, errors.New("not what was agreed")
			}
			return doorBurst - r[2].(int64), nil
		})
	}}
}

// openTake is the daemon and HG.TAKE by a whole policy of three limits.
func openTake(tb testing.TB) *speaker {
	h := startDoors(tb)
	c := dial(tb, h.doors["resp"])
	return &speaker{addr: h.doors["resp"], pid: h.pid, command: []string{"HG.TAKE", "shop", "search", "user:" + randomKey}, used: func(keys int) (int64, error) {
		return sum(c, keys, func(key string) []any { return []any{"HG.PEEK", "shop", "search", "user:" + key} }, usedOfThree)
	}}
}

// usedOfThree returns what a subject has used, on which both of its limits agree.
func usedOfThree(reply any) (int64, error) {
	r, _ := reply.(map[any]any)
	limits, _ := r["limits"].([]any)
	if r["allowed"] != int64(1) || len(limits) != 3 {
		return 0, errors.New("not what was agreed")
	}
	burst, _ := limits[1].(map[any]any)
	month, _ := limits[2].(map[any]any)
	used, ok := month["used"].(int64)
	if left, _ := burst["remaining"].(int64); !ok || doorBurst-left != used {
		return 0, fmt.Errorf("%d of the month and %d left of the burst", used, left)
	}
	return used, nil
}

// openRESPFloor is an empty server, which answers as many bytes as CL.THROTTLE does.
func openRESPFloor(tb testing.TB) *speaker {
	d := startFloor(tb, floorRESP, "", []byte("*5\r\n:0\r\n:10000\r\n:9965\r\n:-1\r\n:3024000\r\n"))
	return &speaker{addr: d.addr, pid: d.pid, command: words(throttle(randomKey, 1)), used: func(int) (int64, error) { return d.asked() }}
}

// openIncr is Redis, which counts.
func openIncr(tb testing.TB) *speaker {
	s := redistest.Standalone(tb)
	c := dial(tb, s.Addr())
	return &speaker{addr: s.Addr(), pid: s.Pid(), command: []string{"INCR", "count:" + randomKey}, used: func(keys int) (int64, error) {
		return sum(c, keys, func(key string) []any { return []any{"GET", "count:" + key} }, func(reply any) (int64, error) {
			if reply == nil {
				return 0, nil
			}
			return strconv.ParseInt(reply.(string), 10, 64)
		})
	}}
}

// luaBucket is a token bucket as it is often written for Redis. Its rate is in tokens
// per millisecond.
const luaBucket = `
local capacity, rate, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(state[1]) or capacity, tonumber(state[2]) or now
tokens = math.min(capacity, tokens + math.max(0, now - at) * rate)
local allowed = tokens >= cost
if allowed then tokens = tokens - cost end
redis.call('HMSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil((capacity - tokens) / rate))
return {allowed and 1 or 0, math.floor(tokens)}
`

// openLua is Redis with luaBucket.
func openLua(tb testing.TB) *speaker {
	s := redistest.Standalone(tb)
	c := dial(tb, s.Addr())
	sha, err := c.ScriptLoad(context.Background(), luaBucket).Result()
	if err != nil {
		tb.Fatal(err)
	}
	call := func(key string, cost int) []any {
		return []any{"EVALSHA", sha, "1", "bucket:" + key, strconv.Itoa(doorBurst), "0.000000011574074", strconv.Itoa(cost)}
	}
	return &speaker{addr: s.Addr(), pid: s.Pid(), command: words(call(randomKey, 1)), used: func(keys int) (int64, error) {
		return sum(c, keys, func(key string) []any { return call(key, 0) }, func(reply any) (int64, error) {
			r, ok := reply.([]any)
			if !ok || len(r) != 2 || r[0] != int64(1) {
				return 0, errors.New("not what was agreed")
			}
			return doorBurst - r[1].(int64), nil
		})
	}}
}

func words(args []any) (list []string) {
	for _, a := range args {
		list = append(list, a.(string))
	}
	return list
}

func dial(tb testing.TB, addr string) *redis.Client {
	tb.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: time.Minute})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// sum asks for the first keys and adds up what read makes of the replies.
func sum(c *redis.Client, keys int, ask func(key string) []any, read func(reply any) (int64, error)) (int64, error) {
	const together = 500
	ctx, total := context.Background(), int64(0)
	for i := 0; i < keys; i += together {
		pipe := c.Pipeline()
		for k := range min(together, keys-i) {
			pipe.Do(ctx, ask(keyOf(i+k))...)
		}
		replies, err := pipe.Exec(ctx)
		if err != nil && !errors.Is(err, redis.Nil) {
			return 0, err
		}
		for k, reply := range replies {
			n, err := read(reply.(*redis.Cmd).Val())
			if err != nil {
				return 0, fmt.Errorf("key %d: %w: %v", i+k, err, reply)
			}
			total += n
		}
	}
	return total, nil
}

// loaded is what redis-benchmark says of a load.
type loaded struct {
	n        int64
	each     float64       // nanoseconds per command
	p50, p99 float64       // milliseconds
	server   time.Duration // processor time of the server
}

// load has redis-benchmark send at least n commands on 50 connections, so many in a
// pipeline.
func (s *speaker) load(tb testing.TB, n, pipeline int) loaded {
	tb.Helper()
	n = (n + pipeline - 1) / pipeline * pipeline
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		tb.Fatal(err)
	}
	args := []string{"-h", host, "-p", port, "-c", "50", "-n", strconv.Itoa(n), "-P", strconv.Itoa(pipeline), "-r", strconv.Itoa(s.keys), "-e", "--csv"}
	cmd := exec.Command("redis-benchmark", append(args, s.command...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	before := processorTime(tb, s.pid)
	if err := cmd.Run(); err != nil {
		tb.Fatalf("redis-benchmark: %v\n%s%s", err, &out, &said)
	}
	r := loaded{n: int64(n), server: processorTime(tb, s.pid) - before}
	s.asked += r.n
	// "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
	lines, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(lines) != 2 || len(lines[1]) != 8 || lines[0][1] != "rps" || strings.Contains(said.String(), "Error from server") {
		tb.Fatalf("redis-benchmark said %q and %s (%v)", lines, &said, err)
	}
	var figures [8]float64
	for i, text := range lines[1][1:] {
		if figures[i+1], err = strconv.ParseFloat(text, 64); err != nil {
			tb.Fatalf("redis-benchmark said %q: %v", lines, err)
		}
	}
	if rate := figures[1]; rate > 0 {
		r.each = 1e9 / rate
	}
	r.p50, r.p99 = figures[4], figures[6]
	return r
}

// balance returns an error unless exactly as much is used as was asked for.
func (s *speaker) balance() error {
	used, err := s.used(s.keys)
	if err == nil && used != s.asked {
		err = fmt.Errorf("%d are used of %d that were asked for", used, s.asked)
	}
	return err
}

// benchRESP sends commands, so many in a pipeline.
func benchRESP(b *testing.B, pipeline int) {
	for _, name := range respNames {
		var s *speaker
		opened := b
		b.Run(name, func(b *testing.B) {
			if s == nil {
				s = respDoors[name](opened)
				s.keys = doorKeys
				s.load(b, 2*doorKeys, pipeline) // hardly a key is new
			}
			b.ResetTimer()
			r := s.load(b, b.N, pipeline)
			b.StopTimer()
			b.ReportMetric(r.each, "ns/op")
			b.ReportMetric(float64(r.server.Nanoseconds())/float64(r.n), "server-ns/op")
			b.ReportMetric(1e3*r.p50, "p50-us")
			b.ReportMetric(1e3*r.p99, "p99-us")
		})
		if s == nil {
			continue
		}
		if err := s.balance(); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
	}
}

func BenchmarkRESP1(b *testing.B)  { benchRESP(b, 1) }
func BenchmarkRESP16(b *testing.B) { benchRESP(b, 16) }
func BenchmarkRESP64(b *testing.B) { benchRESP(b, 64) }
