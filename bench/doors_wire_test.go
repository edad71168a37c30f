package bench

import (
	"iter"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields yields what a message holds of one field: v if it is a number, data if it is
// a string or a message. What is no message has no fields.
func fields(m []byte, field protowire.Number) iter.Seq2[uint64, []byte] {
	return func(yield func(uint64, []byte) bool) {
		for len(m) > 0 {
			number, kind, n := protowire.ConsumeTag(m)
			if n < 0 {
				return
			}
			m = m[n:]
			var v uint64
			var data []byte
			switch kind {
			case protowire.VarintType:
				v, n = protowire.ConsumeVarint(m)
			case protowire.BytesType:
				data, n = protowire.ConsumeBytes(m)
			default:
				n = protowire.ConsumeFieldValue(number, kind, m)
			}
			if n < 0 || number == field && !yield(v, data) {
				return
			}
			m = m[n:]
		}
	}
}

// number returns the number in a field of a message, or 0.
func number(m []byte, field protowire.Number) int64 {
	for v := range fields(m, field) {
		return int64(v)
	}
	return 0
}

// message returns the first message or string in a field of a message, or nil.
func message(m []byte, field protowire.Number) []byte {
	for _, data := range fields(m, field) {
		return data
	}
	return nil
}
