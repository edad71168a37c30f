package grpcapi

import (
	"testing"

	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"google.golang.org/protobuf/proto"
)

// FuzzBatch: a batch that is read item by item is the one that its message is, and no
// bytes lead to a panic or to more memory than the bounds allow.
func FuzzBatch(f *testing.F) {
	for _, m := range []*headgatev1.TakeBatchRequest{
		{}, items(2, small()), {Atomic: true, Items: []*headgatev1.TakeRequest{{
			Request:     &headgatev1.HttpRequest{Ip: "1.2.3.4", Headers: []*headgatev1.Header{{Name: "a", Values: []string{"b", "c"}}}},
			Descriptor_: []*headgatev1.DescriptorEntry{{Key: "k"}}, Attributes: map[string]string{"a": "b"}, Costs: map[string]int64{"t": 1},
		}}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var a ask
		var one headgatev1.TakeRequest
		if takeShape.read(raw, &one) == nil {
			_ = a.read(&one) // which may find faults
		}
		whole := new(headgatev1.TakeBatchRequest)
		isMessage := proto.Unmarshal(raw, whole) == nil
		b, err := decodeBatch(raw)
		if err != nil {
			if isMessage && len(whole.Items) > 0 && len(whole.Items) <= MaxItems && !(whole.Atomic && len(whole.Items) > gate.MaxAtomic) {
				t.Fatalf("refused: %v", err)
			}
			return
		}
		if !isMessage {
			return // a fault of an item, which is found when its turn comes
		}
		if len(b.items) != len(whole.Items) || b.atomic != whole.Atomic {
			t.Fatalf("%d items, atomic %t; want %d, %t", len(b.items), b.atomic, len(whole.Items), whole.Atomic)
		}
		for i := range b.items {
			item := new(headgatev1.TakeRequest)
			if err := takeShape.read(b.items[i], item); err != nil {
				continue // more fields than are read
			}
			if want := proto.Clone(whole.Items[i]); !proto.Equal(item, known(want)) {
				t.Fatalf("item %d: %v, want %v", i, item, want)
			}
		}
	})
}

// known is m without what it has of newer versions.
func known(m proto.Message) proto.Message {
	raw, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	clean := new(headgatev1.TakeRequest)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, clean); err != nil {
		panic(err)
	}
	return clean
}
