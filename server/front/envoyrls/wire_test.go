package envoyrls

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/headgate/headgate/gate"
)

// sameAsk compares what was read by hand with what the generated code has read.
func sameAsk(t *testing.T, wire []byte, want *pb.RateLimitRequest) {
	t.Helper()
	a := new(ask)
	if err := a.decode(wire); err != nil {
		t.Fatalf("%x: %v; the generated code reads %v", wire, err, want)
	}
	if a.domain != want.Domain || a.hits != want.HitsAddend {
		t.Errorf("domain %q, hits %d; want %v", a.domain, a.hits, want)
	}
	if n := len(want.Descriptors); a.n != min(n, MaxDescriptors) || a.excess != (n > MaxDescriptors) {
		t.Fatalf("%d descriptors, excess %v, of %d", a.n, a.excess, n)
	}
	for i, it := range a.items[:a.n] {
		d := want.Descriptors[i]
		entries := make([]gate.Entry, 0, len(d.Entries))
		for _, e := range d.Entries[:min(len(d.Entries), MaxEntries)] {
			entries = append(entries, gate.Entry{Key: e.GetKey(), Value: e.GetValue()})
		}
		if !slices.Equal(it.entries, entries) || it.excess != (len(d.Entries) > MaxEntries) || it.negative != d.IsNegativeHits {
			t.Errorf("descriptor %d: %+v, want %v", i, it.entries, d)
		}
		if it.hitsSaid != (d.HitsAddend != nil) || it.hits != d.HitsAddend.GetValue() {
			t.Errorf("descriptor %d: hits %d (%v), want %v", i, it.hits, it.hitsSaid, d)
		}
		l := d.Limit
		if it.override != (l != nil) || it.limit.requests != l.GetRequestsPerUnit() || it.limit.unit != int32(l.GetUnit()) ||
			it.limit.multiplier != l.GetUnitMultiplier().GetValue() {
			t.Errorf("descriptor %d: limit %+v, want %v", i, it.limit, d)
		}
	}
}

func randomRequest(r *rand.Rand) *pb.RateLimitRequest {
	text := func() string { return strings.Repeat("é", r.IntN(4)) + strings.Repeat("a", r.IntN(3)*r.IntN(60)) }
	m := &pb.RateLimitRequest{Domain: text(), HitsAddend: uint32(r.IntN(3)) * r.Uint32()}
	for range r.IntN(4) * r.IntN(40) {
		d := new(common.RateLimitDescriptor)
		for range r.IntN(4) * r.IntN(7) {
			d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: text(), Value: text()})
		}
		switch r.IntN(5) {
		case 0:
			hits(d, []uint64{0, 1, 300, math.MaxUint64}[r.IntN(4)])
		case 1:
			says(d, r.Uint32(), typev3.RateLimitUnit(r.IntN(9)), uint32(r.IntN(3)))
		case 2:
			back(d)
		}
		m.Descriptors = append(m.Descriptors, d)
	}
	return m
}

// TestDecode: requests of all shapes are read as the generated code reads them.
func TestDecode(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		m := randomRequest(r)
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		sameAsk(t, wire, m)
	}
}

// FuzzDecode: whatever the generated code reads is read the same, and what it does not is
// an error, but for text that is not UTF-8.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		wire, err := proto.Marshal(randomRequest(r))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Add([]byte("\x0a\x02\xff\xfe"))
	f.Add([]byte("\x20\x04\xc0\xbb\xc3\xa9\x18\x97\xa9\x9f\x07")) // a number beyond those of fields
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := new(pb.RateLimitRequest)
		if err := proto.Unmarshal(wire, m); err != nil {
			a := new(ask)
			if a.decode(wire) != nil || strings.Contains(err.Error(), "UTF-8") {
				return
			}
			// What is too much is not read, and refused.
			if !a.excess && !slices.ContainsFunc(a.items[:a.n], func(it *item) bool { return it.excess }) {
				t.Errorf("%x is read, and the generated code says: %v", wire, err)
			}
			return
		}
		sameAsk(t, wire, m)
	})
}

// TestEncode: a reply is the response on the wire, to whatever asks for it.
func TestEncode(t *testing.T) {
	wire, err := proto.Marshal(&pb.RateLimitResponse{OverallCode: pb.RateLimitResponse_OK})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 50} {
		r := newReply(slices.Repeat(wire, size))
		got, err := proto.Marshal(r)
		if err != nil || !slices.Equal(got, r.wire) || proto.Size(r) != len(r.wire) {
			t.Errorf("%x, %v", got, err)
		}
	}
}

// TestReuse: a call keeps nothing of the one before, and not the memory of a large one.
func TestReuse(t *testing.T) {
	large := &pb.RateLimitRequest{Domain: "a", HitsAddend: 5}
	for range MaxDescriptors + 1 {
		large.Descriptors = append(large.Descriptors, back(hits(says(descriptor("k=v,l=w"), 1, 2, 3), 7)))
	}
	medium := &pb.RateLimitRequest{Domain: "c", Descriptors: large.Descriptors[:2]}
	small := &pb.RateLimitRequest{Domain: "b", Descriptors: []*common.RateLimitDescriptor{descriptor("x=y")}}
	c := newCall()
	for _, m := range []*pb.RateLimitRequest{large, medium, small} {
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(wire, c); err != nil {
			t.Fatal(err)
		}
	}
	it := c.items[0]
	if c.domain != "b" || c.hits != 0 || c.n != 1 || c.excess || len(c.items) > maxKept || it.override || it.hitsSaid || it.negative ||
		len(it.entries) != 1 || it.entries[:2][1] != (gate.Entry{}) {
		t.Errorf("%+v, %+v", c.ask, it)
	}
}
