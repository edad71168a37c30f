package bench

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ratelimit "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/internal/servertest"
	"github.com/headgate/headgate/store/redisstore/redistest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

const (
	methodRLS         = rls.RateLimitService_ShouldRateLimit_FullMethodName
	methodTake        = headgatev1.HeadgateService_Take_FullMethodName
	methodBatch       = headgatev1.HeadgateService_TakeBatch_FullMethodName
	methodGubernator  = "/pb.gubernator.V1/GetRateLimits"
	callKeys          = 1 << 14
	callConnections   = 4
	decisionsPerBatch = 100
)

// callee is a server that speaks gRPC, and what is asked of it.
type callee struct {
	addr   string
	pid    int
	redis  *redistest.Server // behind it; nil if there is none
	method string
	// requests are sent in turns. Each holds batch decisions.
	requests [][]byte
	batch    int
	// passed reports whether a reply says that everything passed.
	passed func(reply []byte) bool
	// used returns how much is used in all. It may ask for as much as it says in own.
	used func(c *grpc.ClientConn) (used, own int64, err error)
	// away returns how many decisions were made without the store, which was too slow:
	// whether it was charged for them nobody knows. nil if there are none.
	away func() (int64, error)

	conns []*grpc.ClientConn
	asked int64
}

// raw is the codec of messages that are encoded already.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	to := v.(*[]byte)
	n := data.Len()
	if cap(*to) < n {
		*to = make([]byte, n)
	}
	*to = (*to)[:n]
	data.CopyTo(*to)
	return nil
}

// call asks with an encoded request, and puts the reply where reply points to.
func call(c *grpc.ClientConn, method string, request []byte, reply *[]byte) error {
	return c.Invoke(context.Background(), method, request, reply, grpc.ForceCodecV2(raw{}), grpc.StaticMethod())
}

func (s *callee) connect(tb testing.TB) {
	tb.Helper()
	for range callConnections {
		c, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = c.Close() })
		s.conns = append(s.conns, c)
	}
}

// load makes calls for at least n decisions with 64 calls in flight, and returns how
// many decisions there were.
func (s *callee) load(tb testing.TB, n int, times *sampler) int64 {
	tb.Helper()
	calls := int64((n + s.batch - 1) / s.batch)
	var next, bad atomic.Int64
	var first atomic.Pointer[error]
	var g sync.WaitGroup
	for w := range inFlight {
		conn := s.conns[w%len(s.conns)]
		g.Go(func() {
			var reply []byte
			var at int64
			t := func(string) bool {
				err := call(conn, s.method, s.requests[at%int64(len(s.requests))], &reply)
				if err == nil && !s.passed(reply) {
					err = fmt.Errorf("answered %x", reply)
				}
				if err != nil {
					first.CompareAndSwap(nil, &err)
				}
				return err == nil
			}
			if times != nil {
				t = times.time(t)
			}
			for {
				if at = next.Add(1) - 1; at >= calls {
					return
				}
				if !t("") {
					bad.Add(1)
				}
			}
		})
	}
	g.Wait()
	if n := bad.Load(); n != 0 {
		tb.Fatalf("%d of %d calls: %v", n, calls, *first.Load())
	}
	s.asked += calls * int64(s.batch)
	return calls * int64(s.batch)
}

// balance returns an error unless exactly as much is used as was asked for.
func (s *callee) balance() error {
	used, own, err := s.used(s.conns[0])
	if err != nil {
		return err
	}
	s.asked += own
	away, err := s.without()
	if err == nil && (used > s.asked || used < s.asked-away) {
		err = fmt.Errorf("%d are used of %d that were asked for, %d of them without the store", used, s.asked, away)
	}
	return err
}

// addUp asks for what is used of each key, 64 together, and returns the sum.
func addUp(ask func(key int) (int64, error)) (int64, error) {
	var total atomic.Int64
	var g sync.WaitGroup
	errs := make([]error, inFlight)
	for w := range inFlight {
		g.Go(func() {
			for key := w; key < callKeys && errs[w] == nil; key += inFlight {
				var used int64
				used, errs[w] = ask(key)
				total.Add(used)
			}
		})
	}
	g.Wait()
	return total.Load(), cmp.Or(errs...)
}

// without is away, or 0.
func (s *callee) without() (int64, error) {
	if s.away == nil {
		return 0, nil
	}
	return s.away()
}

// callees are the contestants of each benchmark.
var callees = map[string]map[string]func(testing.TB) *callee{
	"RLS": {
		"headgate": func(tb testing.TB) *callee { return openRLS(tb, "memory", nil) },
		"headgate-redis": func(tb testing.TB) *callee {
			r := redistest.Standalone(tb)
			return openRLS(tb, r.URL(), r)
		},
		"floor":       func(tb testing.TB) *callee { return openCallFloor(tb, openRLS(tb, "memory", nil)) },
		"envoy-redis": openEnvoy,
	},
	"GRPCTake": {
		"headgate":   func(tb testing.TB) *callee { return openCalls(tb, 1) },
		"floor":      func(tb testing.TB) *callee { return openCallFloor(tb, openCalls(tb, 1)) },
		"gubernator": func(tb testing.TB) *callee { return openGubernator(tb, 1) },
	},
	"GRPCBatch": {
		"headgate":   func(tb testing.TB) *callee { return openCalls(tb, decisionsPerBatch) },
		"floor":      func(tb testing.TB) *callee { return openCallFloor(tb, openCalls(tb, decisionsPerBatch)) },
		"gubernator": func(tb testing.TB) *callee { return openGubernator(tb, decisionsPerBatch) },
	},
}

// envoyRule is configuration of envoyproxy/ratelimit with one rule. A day is the longest
// unit that the rival knows: a run across midnight does not balance.
const envoyRule = `
domain: shop
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 1000000}
`

const envoyLimit = 1_000_000

func encode(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// limiter is who speaks Envoy's protocol at addr.
func limiter(tb testing.TB, addr string, pid int, behind *redistest.Server) *callee {
	s := &callee{addr: addr, pid: pid, redis: behind, method: methodRLS, batch: 1}
	for i := range callKeys {
		s.requests = append(s.requests, encode(tb, &rls.RateLimitRequest{Domain: "shop", Descriptors: []*ratelimit.RateLimitDescriptor{{
			Entries: []*ratelimit.RateLimitDescriptor_Entry{{Key: "user", Value: keyOf(i)}},
		}}}))
	}
	s.passed = func(reply []byte) bool { return number(reply, 1) == int64(rls.RateLimitResponse_OK) }
	s.used = func(c *grpc.ClientConn) (used, own int64, err error) {
		var calls atomic.Int64 // it cannot only look
		used, err = addUp(func(key int) (int64, error) {
			var n int64
			err := servertest.Await("be decided by the store", func() (err error) {
				calls.Add(1)
				if n, err = s.look(c, key); err != nil && s.away == nil {
					return servertest.Final(err)
				}
				return err // a store that was too slow leaves it to the node for a while
			})
			return n, err
		})
		return used, calls.Load(), err
	}
	s.connect(tb)
	return s
}

// look returns how much of a key is used, this call included.
func (s *callee) look(c *grpc.ClientConn, key int) (int64, error) {
	var reply []byte
	if err := call(c, s.method, s.requests[key], &reply); err != nil {
		return 0, err
	}
	m := new(rls.RateLimitResponse)
	if err := proto.Unmarshal(reply, m); err != nil {
		return 0, err
	}
	if len(m.Statuses) != 1 || m.Statuses[0].GetCurrentLimit().GetRequestsPerUnit() != envoyLimit {
		return 0, fmt.Errorf("not what was agreed: %v", m)
	}
	return envoyLimit - int64(m.Statuses[0].LimitRemaining), nil
}

// openRLS is the daemon with envoyRule.
func openRLS(tb testing.TB, store string, behind *redistest.Server) *callee {
	h := startHeadgate(tb, map[string]string{"envoy/shop.yaml": envoyRule}, "--store", store, "--envoy-config", "envoy")
	s := limiter(tb, h.doors["grpc"], h.pid, behind)
	if behind != nil {
		s.away = h.degraded
	}
	return s
}

// batches yields the keys in turn, so many at a time, each key as often as the others.
func batches(of int) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		keys := make([]int, of)
		for i := 0; i < callKeys*min(of, 25); i += of {
			for k := range keys {
				keys[k] = (i + k) % callKeys
			}
			if !yield(keys) {
				return
			}
		}
	}
}

// openCalls is the daemon, asked for one limit per decision by Take, or by TakeBatch
// for so many subjects at once.
func openCalls(tb testing.TB, batch int) *callee {
	h := startDoors(tb)
	s := &callee{addr: h.doors["grpc"], pid: h.pid, method: methodTake, batch: batch, passed: passedTake}
	ask := func(key int) *headgatev1.TakeRequest {
		return &headgatev1.TakeRequest{Application: "one", Operation: "search", Subject: keyOf(key)}
	}
	if batch > 1 {
		s.method, s.passed = methodBatch, passedBatch
	}
	for keys := range batches(batch) {
		m := new(headgatev1.TakeBatchRequest)
		for _, key := range keys {
			m.Items = append(m.Items, ask(key))
		}
		if batch == 1 {
			s.requests = append(s.requests, encode(tb, m.Items[0]))
			continue
		}
		s.requests = append(s.requests, encode(tb, m))
	}
	s.used = func(c *grpc.ClientConn) (used, own int64, err error) {
		client := headgatev1.NewHeadgateServiceClient(c)
		used, err = addUp(func(key int) (int64, error) {
			d, err := client.Peek(context.Background(), ask(key))
			if err == nil && (!d.Allowed || len(d.Limits) != 1 || d.Limit != doorBurst || d.Rule != "search") {
				err = fmt.Errorf("not what was agreed: %v", d)
			}
			return doorBurst - d.GetRemaining(), err
		})
		return used, 0, err
	}
	s.connect(tb)
	return s
}

// openCallFloor is an empty service that answers as like did once.
func openCallFloor(tb testing.TB, like *callee) *callee {
	var answer []byte
	if err := call(like.conns[0], like.method, like.requests[0], &answer); err != nil {
		tb.Fatal(err)
	}
	d := startFloor(tb, floorGRPC, like.method, answer)
	s := &callee{addr: d.addr, pid: d.pid, method: like.method, requests: like.requests, batch: like.batch, passed: like.passed}
	s.used = func(*grpc.ClientConn) (used, own int64, err error) {
		used, err = d.asked()
		return used, 0, err
	}
	s.connect(tb)
	return s
}

// passedTake reports whether a Decision is an allowance.
func passedTake(decision []byte) bool { return number(decision, 2) == 1 }

// passedBatch reports whether a TakeBatchResponse holds as many allowances as were
// asked for.
func passedBatch(reply []byte) bool {
	n := 0
	for _, result := range fields(reply, 1) {
		if passedTake(message(result, 1)) {
			n++
		}
	}
	return n == decisionsPerBatch
}

// benchCalls makes calls, 64 in flight on 4 connections.
func benchCalls(b *testing.B, bench string, names ...string) {
	for _, name := range names {
		var s *callee
		opened := b
		b.Run(name, func(b *testing.B) {
			if s == nil {
				s = callees[bench][name](opened)
				s.load(b, callKeys, nil) // no key is new
			}
			times := new(sampler)
			away, err := s.without()
			if err != nil {
				b.Fatal(err)
			}
			before, behind := processorTime(b, s.pid), s.behind(b)
			b.ResetTimer()
			n := s.load(b, b.N, times)
			b.StopTimer()
			per := float64(n)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/per, "ns/op")
			b.ReportMetric(float64((processorTime(b, s.pid)-before).Nanoseconds())/per, "server-ns/op")
			if s.redis != nil {
				b.ReportMetric(float64((s.behind(b)-behind).Nanoseconds())/per, "redis-ns/op")
			}
			if s.away != nil {
				now, err := s.away()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(1000*float64(now-away)/per, "away/kop")
			}
			times.report(b)
		})
		if s == nil {
			continue
		}
		if err := s.balance(); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
	}
}

// behind returns the processor time of the store.
func (s *callee) behind(tb testing.TB) time.Duration {
	if s.redis == nil {
		return 0
	}
	return processorTime(tb, s.redis.Pid())
}

func BenchmarkRLS(b *testing.B) {
	benchCalls(b, "RLS", "headgate", "headgate-redis", "floor", "envoy-redis")
}
func BenchmarkGRPCTake(b *testing.B)  { benchCalls(b, "GRPCTake", "headgate", "floor", "gubernator") }
func BenchmarkGRPCBatch(b *testing.B) { benchCalls(b, "GRPCBatch", "headgate", "floor", "gubernator") }
