package bench

import (
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/headgate/headgate/store/redisstore/redistest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// openEnvoy is envoyproxy/ratelimit with the same rule, on a Redis of its own, which
// it keeps 64 connections to: one for each call in flight.
func openEnvoy(tb testing.TB) *callee {
	r := redistest.Standalone(tb)
	files := map[string]string{"runtime/config/shop.yaml": envoyRule}
	addrs := freeAddrs(tb, 3)
	env := []string{
		"USE_STATSD=false", "LOG_LEVEL=error", "RUNTIME_ROOT=runtime", "RUNTIME_WATCH_ROOT=false", "RUNTIME_IGNOREDOTFILES=true",
		"REDIS_SOCKET_TYPE=tcp", "REDIS_URL=" + r.Addr(), "REDIS_POOL_SIZE=" + strconv.Itoa(inFlight),
	}
	for i, name := range []string{"GRPC_", "", "DEBUG_"} {
		host, port, err := net.SplitHostPort(addrs[i])
		if err != nil {
			tb.Fatal(err)
		}
		env = append(env, name+"HOST="+host, name+"PORT="+port)
	}
	p := launch(tb, files, env, program(tb, "ratelimit"))
	await(tb, p, func() error { return listens(addrs[0]) })
	return limiter(tb, addrs[0], p.Pid(), r)
}

// openGubernator is gubernator on its own, asked for one bucket per decision. It is
// has room for all keys, and exports no traces.
func openGubernator(tb testing.TB, batch int) *callee {
	addrs := freeAddrs(tb, 2)
	p := launch(tb, nil, nil, program(tb, "gubernator"), addrs...)
	s := &callee{addr: addrs[0], pid: p.Pid(), method: methodGubernator, batch: batch, passed: func(reply []byte) bool { return passedGubernator(reply) == batch }}
	for keys := range batches(batch) {
		var m []byte
		for _, key := range keys {
			m = appendBucket(m, key, 1)
		}
		s.requests = append(s.requests, m)
	}
	s.used = func(c *grpc.ClientConn) (used, own int64, err error) {
		used, err = addUp(func(key int) (int64, error) {
			var reply []byte
			err := call(c, methodGubernator, appendBucket(nil, key, 0), &reply)
			if err == nil && passedGubernator(reply) != 1 {
				err = fmt.Errorf("not what was agreed: %x", reply)
			}
			return doorBurst - number(message(reply, 1), 3), err
		})
		return used, 0, err
	}
	s.connect(tb)
	await(tb, p, func() error {
		var reply []byte
		if err := call(s.conns[0], methodGubernator, appendBucket(nil, 0, 0), &reply); err != nil {
			return err
		}
		if passedGubernator(reply) != 1 {
			return fmt.Errorf("answered %q", reply)
		}
		return nil
	})
	return s
}

// appendBucket appends a RateLimitReq for a token bucket as the first field of a
// GetRateLimitsReq.
func appendBucket(b []byte, key int, hits int64) []byte {
	var m []byte
	text := func(n protowire.Number, v string) {
		m = protowire.AppendString(protowire.AppendTag(m, n, protowire.BytesType), v)
	}
	number := func(n protowire.Number, v int64) {
		m = protowire.AppendVarint(protowire.AppendTag(m, n, protowire.VarintType), uint64(v))
	}
	text(1, "search")
	text(2, keyOf(key))
	number(3, hits)
	number(4, doorBurst)
	number(5, (365 * 24 * time.Hour).Milliseconds())
	return protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), m)
}

// passedGubernator returns how many responses of a GetRateLimitsResp are allowances.
func passedGubernator(reply []byte) (n int) {
	for _, r := range fields(reply, 1) {
		if number(r, 1) == 0 && number(r, 2) == doorBurst && len(message(r, 5)) == 0 { // status, limit, error
			n++
		}
	}
	return n
}
