package envoyrls

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/envoy/envoytest"
	"github.com/headgate/headgate/store/memstore"
)

// entries is a descriptor whose values may have any characters.
func entries(pairs ...string) *common.RateLimitDescriptor {
	d := new(common.RateLimitDescriptor)
	for i := 0; i < len(pairs); i += 2 {
		d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: pairs[i], Value: pairs[i+1]})
	}
	return d
}

// TestPathNobodyReads: no path lets a client past its limit, whatever becomes of it where
// it is escaped.
func TestPathNobodyReads(t *testing.T) {
	paths := []string{
		"/login?" + strings.Repeat("%", 2750), "/" + strings.Repeat("%", 8191), "/" + strings.Repeat("\x01", 8000),
		"/" + strings.Repeat("x", 8191), "/" + strings.Repeat("x", 8192), "/" + strings.Repeat("%41", 2730) + "%41", "/x" + strings.Repeat("%41", 2730) + "%41",
		"/xx" + strings.Repeat("%41", 2730) + "%41", "/%2f%2F%00%", "/../../..", "/" + strings.Repeat("/a", 4000), "/" + strings.Repeat("%", 60_000),
	}
	for name, policy := range map[string]string{
		"a rule has the descriptor": convert(t, "domain: d\ndescriptors: [{key: remote_address, descriptors: [{key: path, rate_limit: {unit: hour, requests_per_unit: 1}}]}]"),
		"a rule has the path":       "version: 1\napplications: {d: {identity: [ip], rules: [{name: p, match: {path: '/{rest...}'}, limits: [{name: w, algorithm: fixed_window, rate: 1/h}]}]}}",
	} {
		for i, path := range paths {
			h := open(t, policy, nil)
			for _, want := range []string{"OK ok", "OVER over"} {
				r, err := h.send(request("d", entries("remote_address", "10.1.1.1", "path", path)))
				if err != nil {
					t.Errorf("%s, path %d: %v", name, i, err)
				} else if got := short(r); got != want {
					t.Errorf("%s, path %d: %s, want %s", name, i, got, want)
				}
			}
		}
	}
}

// TestLongCall: what a client puts into a call does not make it an error, as Envoys that do
// not deny on failures would let it pass: 16 descriptors with all that a header may hold.
func TestLongCall(t *testing.T) {
	h := open(t, "version: 1\napplications: {d: {rules: [{name: r, match: {descriptor: [{key: agent}]}, limits: [{name: w, algorithm: fixed_window, rate: 16/h}]}]}}", nil)
	r := request("d")
	for range 16 {
		r.Descriptors = append(r.Descriptors, entries("agent", strings.Repeat("x", 60<<10)))
	}
	if n := proto.Size(r); n < 900<<10 || n > 1<<20 {
		t.Fatalf("%d bytes", n)
	}
	for _, over := range []bool{false, true} {
		got, err := h.send(r)
		if err != nil || (got.OverallCode == pb.RateLimitResponse_OVER_LIMIT) != over {
			t.Errorf("want over %v: %.200v, %v", over, got, err)
		}
	}
}

func FuzzReadable(f *testing.F) {
	for _, s := range []string{"/", "/a%2fb", "/%", "/%4", "/%zz%00\x00", "/?%", "/é\xff"} {
		f.Add(s, 1)
		f.Add(s, 5000)
	}
	f.Add("%", 2750)
	g, err := gate.Open(f.Context(), gate.Config{Policy: []byte("version: 1\napplications: {a: {}}"), Store: memstore.New(memstore.Config{})})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		path := "/" + strings.Repeat(s, max(0, min(n, 5000)))
		var d gate.Decision
		if err := g.Take(t.Context(), &gate.Request{Application: "a", Path: readable(path)}, &d); err != nil {
			t.Errorf("%.40q, %d bytes: %v", path, len(path), err)
		}
	})
}

// TestKeysThatMeanSomething: a configuration may limit by any key, also one that rules
// without descriptors would understand.
func TestKeysThatMeanSomething(t *testing.T) {
	for _, key := range []string{"plan", "operation", "generic_key", "subject", "method", "host", "path", "remote_address", "header_x"} {
		h := open(t, convert(t, fmt.Sprintf("domain: d\ndescriptors: [{key: %s, rate_limit: {unit: hour, requests_per_unit: 1}}]", key)), nil)
		h.check("OK ok", "d", descriptor(key+"=gold"))
		h.check("OVER over", "d", descriptor(key+"=gold"))
		h.check("OK ok", "d", descriptor(key+"=silver"))
	}
	// Without a rule for it a plan is one if the policy has it, and else none.
	h := open(t, plain, nil)
	for _, plan := range []string{"gold", "pro", ""} {
		h.check("OK ok", "the shop", descriptor("operation=login,user=a"+plan+",plan="+plan))
	}
	h.check("OVER over", "the shop", hits(descriptor("operation=local,user=a,plan=gold"), 6))
}

// delayed is a store that takes a while in a bubble, and only so long as it may.
type delayed struct {
	headgate.Store
	takes    time.Duration
	patience []time.Duration
}

func (s *delayed) Apply(ctx context.Context, b *headgate.Batch) error {
	patience := time.Duration(b.Patience) * time.Microsecond
	s.patience = append(s.patience, patience)
	<-time.After(min(s.takes, patience)) // of a bubble
	if s.takes > patience {
		return &headgate.Error{Code: headgate.Unavailable, Err: context.DeadlineExceeded}
	}
	return s.Store.Apply(ctx, b)
}

// TestOneDeadline: however often a call asks the store, it has the time of one decision.
func TestOneDeadline(t *testing.T) {
	config := convert(t, rules)
	synctest.Test(t, func(t *testing.T) {
		store := &delayed{Store: memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: envoytest.Start.UnixMicro() - 1})}
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(config), Store: store, Local: memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: envoytest.Start.UnixMicro() - 1})})
		if err != nil {
			t.Fatal(err)
		}
		s := New(Config{Gate: g, AfterTheFact: true, Now: envoytest.Start.UnixMicro})
		ask := func(takes, took time.Duration, asked []time.Duration, ds ...*common.RateLimitDescriptor) *pb.RateLimitResponse {
			t.Helper()
			store.takes, store.patience = takes, nil
			began := time.Now()
			r := answerTo(t, s, request("edge", ds...))
			if d := time.Since(began); d != took || !slices.Equal(store.patience, asked) {
				t.Errorf("%v, asked with %v; want %v, %v", d, store.patience, took, asked)
			}
			return r
		}
		const ms = time.Millisecond
		ask(4*ms, 12*ms, []time.Duration{15 * ms, 11 * ms, 7 * ms}, hits(descriptor("path=/x"), 0), hits(descriptor("path=/y"), 11))
		r := ask(4*ms, 4*ms, []time.Duration{15 * ms}, hits(descriptor("path=/y"), 0))
		if got := short(r); got != "OVER over" {
			t.Errorf("what remained was not taken: %s", got)
		}
		ask(9*ms, 15*ms, []time.Duration{15 * ms, 6 * ms}, hits(descriptor("path=/x"), 0), descriptor("path=/z"))
		ask(15*ms, 15*ms, []time.Duration{15 * ms}, hits(descriptor("path=/v"), 11))
	})
}

// TestDrainedIsTold: hits that are taken though they did not fit are told as all others.
func TestDrainedIsTold(t *testing.T) {
	var told, refused int64
	var got []Counts
	h := open(t, convert(t, rules), func(c *Config) {
		c.AfterTheFact = true
		c.Decided = func(d *gate.Decision, _ time.Duration) {
			if d.Allowed {
				told += d.Cost
			} else {
				refused += d.Cost
			}
		}
		c.Counted = func(_, _ string, c Counts) { got = append(got, c) }
	})
	h.check("OK ok", "edge", hits(descriptor("path=/x"), 7))
	h.check("OVER over", "edge", hits(descriptor("path=/x"), 8)) // 3 were left
	h.check("OVER over", "edge", hits(descriptor("path=/x"), 2))
	if told != 10 || refused != 10 {
		t.Errorf("%d hits were told to be taken, %d to be refused", told, refused)
	}
	want := []Counts{{Total: 7, WithinLimit: 7}, {Total: 8, WithinLimit: 3, OverLimit: 5, NearLimit: 2}, {Total: 2, OverLimit: 2}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// answerTo asks the door without a network, as no bubble has one.
func answerTo(t *testing.T, s *Service, r *pb.RateLimitRequest) *pb.RateLimitResponse {
	t.Helper()
	wire, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	c, response := newCall(), new(pb.RateLimitResponse)
	defer c.free()
	if err := c.decode(wire); err != nil {
		t.Fatal(err)
	}
	reply, err := s.answer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(reply.wire, response); err != nil {
		t.Fatal(err)
	}
	return response
}
