package envoyrls

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/headgate/headgate/gate"
	"google.golang.org/protobuf/encoding/protowire"
)

// Bounds of a request. What is beyond them is not read, and refused.
const (
	MaxDescriptors = gate.MaxAtomic
	MaxEntries     = 16 // of a descriptor
)

// ask is a request as it was read.
type ask struct {
	domain string
	hits   uint32
	items  []*item // of which n are the request's; the others are kept for the next one
	n      int
	excess bool // there were more than MaxDescriptors
}

// item is one descriptor, and its decision.
type item struct {
	entries  []gate.Entry
	excess   bool // there were more than MaxEntries
	override bool
	limit    struct {
		requests, multiplier uint32
		unit                 int32
	}
	hits     uint64
	hitsSaid bool
	negative bool

	answer
}

// maxKept is the number of descriptors above which a request's memory is left to the
// collector instead of being used again.
const maxKept = 8

func (a *ask) reset() {
	for _, it := range a.items[:a.n] {
		it.reset()
	}
	items := a.items
	if len(items) > maxKept {
		items = nil
	}
	*a = ask{items: items}
}

func (a *ask) add() *item {
	if a.n == len(a.items) {
		a.items = append(a.items, new(item))
	}
	a.n++
	return a.items[a.n-1]
}

func (it *item) reset() {
	entries := it.entries[:0]
	clear(entries[:cap(entries)])
	it.answer.reset()
	it.entries, it.excess, it.override = entries, false, false
	it.limit.requests, it.limit.multiplier, it.limit.unit = 0, 0, 0
	it.hits, it.hitsSaid, it.negative = 0, false, false
}

// reader reads one message on the wire.
type reader struct {
	b []byte
	s string // b, of which the strings are parts

	num    protowire.Number
	typ    protowire.Type
	varint uint64
	from   int // of the bytes of the field in b, and their end
	to     int

	at, end int
	err     error
}

// next reads a field: a varint, the place of bytes, or neither.
func (r *reader) next() bool {
	if r.err != nil || r.at == r.end {
		return false
	}
	rest := r.b[r.at:r.end]
	num, typ, n := protowire.ConsumeTag(rest)
	if n < 0 {
		return r.fail(n)
	}
	if num > protowire.MaxValidNumber {
		r.err = errNumber
		return false
	}
	r.num, r.typ = num, typ
	rest = rest[n:]
	var size int
	switch typ {
	case protowire.VarintType:
		r.varint, size = protowire.ConsumeVarint(rest)
	case protowire.BytesType:
		var bytes []byte
		bytes, size = protowire.ConsumeBytes(rest)
		if size >= 0 {
			r.to = r.at + n + size
			r.from = r.to - len(bytes)
		}
	default:
		size = protowire.ConsumeFieldValue(num, typ, rest)
	}
	if size < 0 {
		return r.fail(size)
	}
	r.at += n + size
	return true
}

var errNumber = errors.New("not a RateLimitRequest: a field has no valid number")

func (r *reader) fail(n int) bool {
	r.err = fmt.Errorf("not a RateLimitRequest: %w", protowire.ParseError(n))
	return false
}

// is reports whether the field is number num of the type; others are passed over, as the
// protocol asks.
func (r *reader) is(num protowire.Number, typ protowire.Type) bool {
	return r.num == num && r.typ == typ
}

// inner reads the message in the field.
func (r *reader) inner() reader { return reader{b: r.b, s: r.s, at: r.from, end: r.to} }

// text returns the field's text. Envoys may pass on what clients have sent, in any bytes:
// those that are not UTF-8 are escaped, as an error would let the client pass where Envoy
// does not deny on failures.
func (r *reader) text() string {
	s := r.s[r.from:r.to]
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		c, n := utf8.DecodeRuneInString(s[i:])
		if c == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, "%%%02X", s[i])
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// decode reads a RateLimitRequest. The strings are parts of one copy of b.
func (a *ask) decode(b []byte) error {
	r := reader{b: b, s: string(b), end: len(b)}
	for r.next() {
		switch {
		case r.is(1, protowire.BytesType):
			a.domain = r.text()
		case r.is(3, protowire.VarintType):
			a.hits = uint32(r.varint)
		case r.is(2, protowire.BytesType):
			inner := r.inner()
			if a.n == MaxDescriptors {
				a.excess = true
				continue
			}
			if err := a.add().decode(&inner); err != nil {
				return err
			}
		}
	}
	return r.err
}

// decode reads a RateLimitDescriptor.
func (it *item) decode(r *reader) error {
	for r.next() {
		inner := r.inner()
		var err error
		switch {
		case r.is(1, protowire.BytesType):
			if it.excess = it.excess || len(it.entries) == MaxEntries; !it.excess {
				err = it.decodeEntry(&inner)
			}
		case r.is(2, protowire.BytesType):
			err = it.decodeLimit(&inner)
		case r.is(3, protowire.BytesType):
			it.hitsSaid = true
			err = wrapped(&inner, func(v uint64) { it.hits = v })
		case r.is(4, protowire.VarintType):
			it.negative = protowire.DecodeBool(r.varint)
		}
		if err != nil {
			return err
		}
	}
	return r.err
}

func (it *item) decodeEntry(r *reader) error {
	var e gate.Entry
	for r.next() {
		switch {
		case r.is(1, protowire.BytesType):
			e.Key = r.text()
		case r.is(2, protowire.BytesType):
			e.Value = r.text()
		}
	}
	it.entries = append(it.entries, e)
	return r.err
}

func (it *item) decodeLimit(r *reader) error {
	it.override = true
	for r.next() {
		switch {
		case r.is(1, protowire.VarintType):
			it.limit.requests = uint32(r.varint)
		case r.is(2, protowire.VarintType):
			it.limit.unit = int32(r.varint)
		case r.is(3, protowire.BytesType):
			inner := r.inner()
			if err := wrapped(&inner, func(v uint64) { it.limit.multiplier = uint32(v) }); err != nil {
				return err
			}
		}
	}
	return r.err
}

// wrapped reads a UInt32Value or UInt64Value.
func wrapped(r *reader, set func(uint64)) error {
	for r.next() {
		if r.is(1, protowire.VarintType) {
			set(r.varint)
		}
	}
	return r.err
}
