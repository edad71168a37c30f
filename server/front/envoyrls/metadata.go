package envoyrls

import (
	"fmt"
	"strconv"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// appendHeaders appends the header fields of the limit that is nearest to its end.
func (c *call) appendHeaders(st *state) {
	for _, h := range []struct {
		key   string
		value int64
	}{
		{"RateLimit-Limit", st.limit.Outcome.Limit}, {"RateLimit-Remaining", int64(st.remaining)}, {"RateLimit-Reset", st.reset},
	} {
		var buf [64]byte
		b := protowire.AppendTag(buf[:0], 1, protowire.BytesType)
		b = protowire.AppendString(b, h.key)
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendString(b, strconv.FormatInt(h.value, 10))
		c.out = protowire.AppendTag(c.out, 3, protowire.BytesType)
		c.out = protowire.AppendBytes(c.out, b)
	}
}

// appendMetadata appends what was asked, and the metadata of the rules whose limits let
// their descriptors pass: of mappings that several have the members are put together, of
// everything else the first counts.
func (c *call) appendMetadata() {
	descriptors := make([]*structpb.Value, 0, c.n)
	merged := make(map[string]any)
	for _, it := range c.items[:c.n] {
		descriptors = append(descriptors, structpb.NewStructValue(it.described()))
		if st := it.state(); st.limit != nil && !st.over {
			if m, ok := it.d.Metadata.(map[string]any); ok {
				merge(merged, m)
			}
		}
	}
	fields := map[string]*structpb.Value{
		"domain":      structpb.NewStringValue(c.domain),
		"descriptors": structpb.NewListValue(&structpb.ListValue{Values: descriptors}),
	}
	if c.hits > 0 {
		fields["hitsAddend"] = structpb.NewNumberValue(float64(c.hits))
	}
	if len(merged) > 0 {
		if m, err := structpb.NewValue(merged); err == nil { // policies hold nothing else
			fields["metadata"] = m
		}
	}
	b, err := proto.Marshal(&structpb.Struct{Fields: fields})
	if err != nil {
		return // text that is not UTF-8, which was escaped when it was read
	}
	c.out = protowire.AppendTag(c.out, 6, protowire.BytesType)
	c.out = protowire.AppendBytes(c.out, b)
}

// described is a descriptor as metadata.
func (it *item) described() *structpb.Struct {
	entries := make([]*structpb.Value, len(it.entries))
	for i, e := range it.entries {
		entries[i] = structpb.NewStringValue(e.Key + "=" + e.Value)
	}
	fields := map[string]*structpb.Value{"entries": structpb.NewListValue(&structpb.ListValue{Values: entries})}
	if it.override {
		text := fmt.Sprintf("requests_per_unit:%d unit:%s", it.limit.requests, pb.RateLimitResponse_RateLimit_Unit(it.limit.unit))
		if it.limit.multiplier > 0 {
			text += fmt.Sprintf(" unit_multiplier:%d", it.limit.multiplier)
		}
		fields["limit"] = structpb.NewStringValue(text)
	}
	if it.hitsSaid {
		fields["hitsAddend"] = structpb.NewNumberValue(float64(it.hits))
	}
	return &structpb.Struct{Fields: fields}
}

// merge adds from to into, which it owns with all maps in it.
func merge(into, from map[string]any) {
	for k, v := range from {
		m, isMap := v.(map[string]any)
		old, is := into[k]
		switch oldMap, was := old.(map[string]any); {
		case isMap && was:
			merge(oldMap, m)
		case is:
		case isMap:
			own := make(map[string]any, len(m))
			merge(own, m)
			into[k] = own
		default:
			into[k] = v
		}
	}
}
