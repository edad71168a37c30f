package grpcapi

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/store/memstore"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func items(n int, in *headgatev1.TakeRequest) *headgatev1.TakeBatchRequest {
	return &headgatev1.TakeBatchRequest{Items: slices.Repeat([]*headgatev1.TakeRequest{in}, n)}
}

// TestBatch: items are decided in their order, each for itself; faults are theirs.
func TestBatch(t *testing.T) {
	stub, _ := serve(t, Config{Gate: realGate(t, testPolicy)})
	take := &headgatev1.TakeRequest{Application: "a", Operation: "o", Subject: "s"}
	out, err := stub.TakeBatch(t.Context(), &headgatev1.TakeBatchRequest{Items: []*headgatev1.TakeRequest{
		take, {Application: "a"}, take, {Application: "b", Operation: "o"}, take, {Application: "a", Operation: "o", MaxWaitMs: new(int64(5))},
	}})
	if err != nil || len(out.Results) != 6 {
		t.Fatalf("%v, %v", out, err)
	}
	for i, allowed := range map[int]bool{0: true, 2: true, 4: false} {
		if d := out.Results[i].GetDecision(); d.GetAllowed() != allowed || d.GetBoundBy() != "o/burst" || d.GetSubject() != "s" {
			t.Errorf("item %d: %v", i, d)
		}
	}
	for i, want := range map[int]*headgatev1.Problem{
		1: {Name: "invalid_request", Code: int32(codes.InvalidArgument), Detail: "items.1.operation: operation or request.path is required", Field: "items.1.operation"},
		3: {Name: "not_found", Code: int32(codes.NotFound), Detail: `items.3.application: "b" is not in the policy`, Field: "items.3.application"},
		5: {Name: "invalid_request", Code: int32(codes.InvalidArgument), Detail: "items.5.max_wait_ms: items of a batch do not wait: leave it out", Field: "items.5.max_wait_ms"},
	} {
		if p := out.Results[i].GetProblem(); !proto.Equal(p, want) {
			t.Errorf("item %d: got %v, want %v", i, p, want)
		}
	}
}

// TestAtomic: all are charged, or none is.
func TestAtomic(t *testing.T) {
	stub, _ := serve(t, Config{Gate: realGate(t, testPolicy)})
	in := items(3, &headgatev1.TakeRequest{Application: "a", Operation: "o", Subject: "s"})
	in.Atomic = true
	out, err := stub.TakeBatch(t.Context(), in)
	if err != nil || out.Results[0].GetDecision().GetAllowed() {
		t.Fatalf("%v, %v", out, err)
	}
	in.Items = in.Items[:2]
	if out, err = stub.TakeBatch(t.Context(), in); err != nil || !out.Results[0].GetDecision().GetAllowed() || !out.Results[1].GetDecision().GetAllowed() {
		t.Fatalf("%v, %v", out, err)
	}
}

func TestBatchBounds(t *testing.T) {
	stub, f := serve(t, Config{})
	for _, tt := range []struct {
		n       int
		atomic  bool
		message string
	}{
		{0, false, "items: must be 1 to 1000"},
		{1, false, ""},
		{MaxItems, false, ""},
		{MaxItems + 1, false, "items: more than 1000"},
		{gate.MaxAtomic, true, ""},
		{gate.MaxAtomic + 1, true, "items: 101: at most 100 with atomic: true"},
	} {
		f.asked.Store(0)
		in := items(tt.n, &headgatev1.TakeRequest{})
		in.Atomic = tt.atomic
		out, err := stub.TakeBatch(t.Context(), in)
		if tt.message != "" {
			wantStatus(t, err, codes.InvalidArgument, "INVALID_REQUEST", "items", tt.message)
			continue
		}
		if err != nil || len(out.Results) != tt.n || f.asked.Load() != int64(tt.n) {
			t.Errorf("%d items: %d results, asked %d times, %v", tt.n, len(out.GetResults()), f.asked.Load(), err)
		}
	}
	large := &headgatev1.TakeRequest{Subject: strings.Repeat("x", MaxMessage)}
	out, err := stub.TakeBatch(t.Context(), items(1, large))
	if err != nil || out.Results[0].GetProblem().GetDetail() != "items.0: the message has 65540 bytes: at most 65536" {
		t.Errorf("an item that is too large: %v, %v", out, err)
	}
	in := items(1, &headgatev1.TakeRequest{IdempotencyKey: "k"})
	in.Atomic = true
	_, err = stub.TakeBatch(t.Context(), in)
	wantStatus(t, err, codes.InvalidArgument, "INVALID_REQUEST", "items.0.idempotency_key", "items.0.idempotency_key: only with atomic: false")
}

// TestOneReading: the items of a batch are decided at one instant, and do not wait.
func TestOneReading(t *testing.T) {
	s := &snapping{fakeGate: &fakeGate{}, seen: new(gate.Request)}
	readings := int64(0)
	stub, _ := serve(t, Config{Gate: s, Now: func() int64 { readings++; return 41 + readings }})
	if _, err := stub.TakeBatch(t.Context(), items(3, &headgatev1.TakeRequest{})); err != nil {
		t.Fatal(err)
	}
	if readings != 1 || s.seen.Now != 42 || !s.seen.NoWait || !s.seen.Releases {
		t.Errorf("%d readings; asked %+v", readings, s.seen)
	}
}

// TestBatchEnds: when a batch's client has given up, what is left is not charged.
func TestBatchEnds(t *testing.T) {
	f := &fakeGate{}
	ctx, leave := context.WithCancel(t.Context())
	d := &door{Config: Config{Gate: f, Decided: func(*gate.Decision, time.Duration) { leave() }}}
	raw, err := proto.Marshal(items(3, &headgatev1.TakeRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	c := &call{inbound: inbound{raw: raw}}
	c.caller = front.Anybody{}
	if err := d.batch(ctx, c); err != nil || f.asked.Load() != 1 {
		t.Errorf("asked %d times, %v", f.asked.Load(), err)
	}
}

// TestItemMemory: items of two bytes do not take the memory of a request each, and a
// thousand need that of their answer and of a few requests.
func TestItemMemory(t *testing.T) {
	var raw []byte
	for range MaxBatch / 2 {
		raw = append(protowire.AppendTag(raw, itemsField, protowire.BytesType), 0)
	}
	if n := allocated(func() {
		if _, err := decodeBatch(raw); err == nil {
			t.Error("half a million items")
		}
	}); n > 64<<10 {
		t.Errorf("%d bytes for a batch that is refused", n)
	}
	g, err := gate.Open(t.Context(), gate.Config{
		Policy: []byte(strings.ReplaceAll(testPolicy, "2/h", "1000000/ms")), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20}),
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &door{Config: Config{Gate: g, Decided: func(*gate.Decision, time.Duration) {}}}
	raw, err = proto.Marshal(items(MaxItems, &headgatev1.TakeRequest{Application: "a", Operation: "o", Subject: "alice"}))
	if err != nil {
		t.Fatal(err)
	}
	var c call
	ask := func() {
		c.inbound = inbound{raw: raw}
		c.caller = front.Anybody{}
		if err := d.batch(t.Context(), &c); err != nil || len(c.written) < 100*MaxItems {
			t.Fatalf("%d bytes, %v", len(c.written), err)
		}
	}
	ask()
	if n := allocated(ask); n > 1<<20 {
		t.Errorf("%d bytes for a batch of %d", n, MaxItems)
	}
}

func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
