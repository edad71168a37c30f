package grpcapi

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// codec is that of protocol buffers. Of the door's own methods it reads messages
// into calls and writes calls, which it frees then.
type codec struct{ encoding.CodecV2 }

// Unmarshal leaves what is wrong with a message of ours to the method: gRPC would
// take it for a failure of the server.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*inbound)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	in.err = in.read(buf.ReadOnlyData())
	buf.Free()
	return nil
}

// Marshal writes v.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	call, ok := v.(*call)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	defer call.free()
	if call.written != nil {
		return mem.BufferSlice{mem.SliceBuffer(call.written)}, nil
	}
	return c.CodecV2.Marshal(call.out)
}

// inbound is where a message of ours is read to.
type inbound struct {
	shape shape
	msg   proto.Message // nil for the bytes as they are
	raw   []byte
	err   error
}

// MaxFields bounds the fields of a request: entries, header lines and all others
// count. Two bytes of an empty one would take a hundred of memory.
const MaxFields = 512

var errTooManyFields = invalid("", "the message has more than %d fields", MaxFields)

func (in *inbound) read(raw []byte) error {
	if in.msg == nil {
		in.raw = append(in.raw[:0], raw...)
		return nil
	}
	return in.shape.read(raw, in.msg)
}

// read reads a message of the shape.
func (s shape) read(raw []byte, msg proto.Message) error {
	if len(raw) > MaxMessage {
		return invalid("", "the message has %d bytes: at most %d", len(raw), MaxMessage)
	}
	if _, err := s.count(raw, MaxFields); err != nil {
		return err
	}
	if (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, msg) != nil {
		return errWire
	}
	return nil
}

// shape is which fields of a message hold messages with fields of their own.
type shape map[protowire.Number]shape

// The shapes. Maps are not in them: each of their entries is one field.
var (
	flat         = shape{}
	takeShape    = shape{8: {4: flat}, 11: flat} // request.headers, descriptor
	reserveShape = shape{1: takeShape}
)

// count returns how many of left fields are left after those of raw.
func (s shape) count(raw []byte, left int) (int, error) {
	for len(raw) > 0 {
		if left--; left < 0 {
			return left, errTooManyFields
		}
		num, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return left, errWire
		}
		raw = raw[n:]
		inner, nested := s[num]
		if n = protowire.ConsumeFieldValue(num, kind, raw); n < 0 {
			return left, errWire
		}
		if nested && kind == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(raw)
			var err error
			if left, err = inner.count(v, left); err != nil {
				return left, err
			}
		}
		raw = raw[n:]
	}
	return left, nil
}

var errWire = invalid("", "the message is not valid: it is cut off, or a text in it is not UTF-8")
