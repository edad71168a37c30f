// Package record is how stores that keep state outside of the process write it
// down: the budgets of one owner as one value.
//
// The form is (uvarint and varint are those of encoding/binary):
//
//	form (1 byte: 1), CRC-32C of the rest (4, big-endian)
//	for every budget: limit id (16), length of what follows (uvarint), then
//	  numbers: algorithm (1), count, period in µs, burst, slices, ttl in µs, calendar unit, anchor, rollover (uvarint each),
//	    soft (1), zone: 0 UTC, or 1 or 2 (1), name (length as uvarint, text), of 2 offset in s (varint)
//	  keep (varint), epoch (uvarint), words (number as uvarint, varint each)
//	  leases (number as uvarint): holder (16), granted, settled, returned, seen (varint each)
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// form is the first byte of a value. Values of another form are of a later
// version, and are refused.
const form = 1

const headBytes = 1 + 4

// seal writes the checksum of a value.
func seal(value []byte) {
	binary.BigEndian.PutUint32(value[1:], crc32.Checksum(value[headBytes:], castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Budget is one budget of an owner. Its Limit is nil if it was never seen.
type Budget struct {
	ID [2]uint64
	algo.Budget
}

// Owner is the state of one owner. The zero value was never seen.
type Owner struct {
	// Budgets are in the order in which they came.
	Budgets []Budget
}

// Find returns the place of a budget, -1 if there is none.
func (o *Owner) Find(id [2]uint64) int {
	return slices.IndexFunc(o.Budgets, func(b Budget) bool { return b.ID == id })
}

// Absent returns the instant from which all of it is absent, math.MinInt64 if it
// was never seen.
func (o *Owner) Absent() int64 {
	at := int64(math.MinInt64)
	for i := range o.Budgets {
		at = max(at, o.Budgets[i].Absent())
	}
	return at
}

// Forget drops the budgets that are absent at now.
func (o *Owner) Forget(now int64) {
	o.Budgets = slices.DeleteFunc(o.Budgets, func(b Budget) bool { return b.absent(now) })
}

func (b *Budget) absent(now int64) bool { return b.Limit == nil || now >= b.Absent() }

// Append appends the value of o, without the budgets that are absent at now.
// It appends nothing if all of them are.
func (o *Owner) Append(buf []byte, now int64) []byte {
	start := len(buf)
	for i := range o.Budgets {
		b := &o.Budgets[i]
		if b.absent(now) {
			continue
		}
		if len(buf) == start {
			buf = append(buf, form, 0, 0, 0, 0)
		}
		buf = binary.BigEndian.AppendUint64(buf, b.ID[0])
		buf = binary.BigEndian.AppendUint64(buf, b.ID[1])
		from := len(buf)
		buf = appendBudget(buf, &b.Budget)
		var size [binary.MaxVarintLen64]byte
		n := binary.PutUvarint(size[:], uint64(len(buf)-from))
		buf = slices.Insert(buf, from, size[:n]...)
	}
	if len(buf) > start {
		seal(buf[start:])
	}
	return buf
}

// AppendLimit appends the numbers of l, which do not tell its scope and name.
func AppendLimit(buf []byte, l *headgate.Limit) []byte {
	buf = append(buf, byte(l.Algorithm))
	for _, n := range [...]int64{
		l.Count, l.Period.Microseconds(), l.Burst, int64(l.Slices), l.TTL.Microseconds(),
		int64(l.Calendar.Unit), int64(l.Calendar.Anchor), l.Rollover,
	} {
		buf = binary.AppendUvarint(buf, uint64(n))
	}
	soft := byte(0)
	if l.Soft {
		soft = 1
	}
	return appendZone(append(buf, soft), l.Calendar.Location)
}

// ReadLimit returns the limit with the numbers that [AppendLimit] has written,
// without scope and name. It fails if text is anything else.
func ReadLimit(text []byte) (*headgate.Prepared, error) {
	r := reader{rest: text}
	var n numbers
	n.read(&r)
	if r.bad || len(r.rest) > 0 {
		return nil, errDamaged
	}
	return prepared.of(string(text), &n)
}

func appendBudget(buf []byte, b *algo.Budget) []byte {
	buf = AppendLimit(buf, &b.Limit.Limit)
	buf = binary.AppendVarint(buf, b.Keep)
	buf = binary.AppendUvarint(buf, b.Epoch)
	buf = binary.AppendUvarint(buf, uint64(len(b.Words)))
	for _, w := range b.Words {
		buf = binary.AppendVarint(buf, w)
	}
	buf = binary.AppendUvarint(buf, uint64(len(b.Leases)))
	for i := range b.Leases {
		x := &b.Leases[i]
		buf = binary.BigEndian.AppendUint64(buf, x.Holder[0])
		buf = binary.BigEndian.AppendUint64(buf, x.Holder[1])
		for _, n := range [...]int64{x.Granted, x.Settled, x.Returned, x.Seen} {
			buf = binary.AppendVarint(buf, n)
		}
	}
	return buf
}

// Decode makes o what value says; nothing means never seen. It fails on a value
// that is damaged or of another form, and o is then of no use. What the checksum
// says is intact is believed.
func (o *Owner) Decode(value []byte) error {
	o.Budgets = o.Budgets[:0]
	if len(value) == 0 {
		return nil
	}
	if value[0] != form {
		return fmt.Errorf("state of form %d: this version reads %d", value[0], form)
	}
	if len(value) < headBytes || binary.BigEndian.Uint32(value[1:]) != crc32.Checksum(value[headBytes:], castagnoli) {
		return errDamaged
	}
	r := reader{rest: value[headBytes:]}
	for len(r.rest) > 0 && !r.bad {
		var b Budget
		b.ID = r.id()
		part := reader{rest: r.bytes(r.size())}
		part.budget(&b.Budget)
		if part.bad || len(part.rest) > 0 {
			r.bad = true
		} else if b.Limit == nil {
			return fmt.Errorf("state of limit %x: %w", b.ID, part.err)
		}
		o.Budgets = append(o.Budgets, b)
	}
	if r.bad {
		return errDamaged
	}
	return nil
}

var errDamaged = errors.New("state is damaged")

// reader reads a value. It is bad when that has ended early.
type reader struct {
	rest []byte
	bad  bool
	err  error // why the numbers are none
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.rest, r.bad = nil, true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) id() (id [2]uint64) {
	if b := r.bytes(16); b != nil {
		id = [2]uint64{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	}
	return id
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.rest, r.bad = nil, true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) varint() int64 {
	n, size := binary.Varint(r.rest)
	if size <= 0 {
		r.rest, r.bad = nil, true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// size reads a number of things that take a byte each at least.
func (r *reader) size() int {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.rest, r.bad = nil, true
		return 0
	}
	return int(n)
}

func (r *reader) budget(b *algo.Budget) {
	from := r.rest
	var n numbers
	n.read(r)
	if r.bad {
		return
	}
	if b.Limit, r.err = prepared.of(string(from[:len(from)-len(r.rest)]), &n); b.Limit == nil {
		r.rest = nil
		return
	}
	b.Keep, b.Epoch = r.varint(), r.uvarint()
	b.Words = make([]int64, r.size())
	for i := range b.Words {
		b.Words[i] = r.varint()
	}
	if len(b.Words) < algo.Words(b.Limit) {
		r.bad = true
	}
	if leases := r.size(); leases > 0 {
		b.Leases = make([]algo.Lease, leases)
	}
	for i := range b.Leases {
		b.Leases[i] = algo.Lease{Holder: r.id(), Granted: r.varint(), Settled: r.varint(), Returned: r.varint(), Seen: r.varint()}
	}
}

// numbers are those of a limit as a value has them.
type numbers struct {
	algorithm                                                       headgate.Algorithm
	count, period, burst, slices, ttl, unit, anchor, rollover, soft uint64
	zone                                                            byte
	name                                                            string
	offset                                                          int64
}

func (n *numbers) read(r *reader) {
	n.algorithm = headgate.Algorithm(r.byte())
	for _, x := range [...]*uint64{&n.count, &n.period, &n.burst, &n.slices, &n.ttl, &n.unit, &n.anchor, &n.rollover} {
		*x = r.uvarint()
	}
	n.soft = uint64(r.byte())
	if n.zone = r.byte(); n.zone != zoneUTC {
		n.name = string(r.bytes(r.size()))
	}
	if n.zone == zoneFixed {
		n.offset = r.varint()
	}
}

// limit returns the limit with these numbers, without a name.
func (n *numbers) limit() (*headgate.Prepared, error) {
	for _, x := range [...]uint64{n.count, n.burst, n.rollover} {
		if x > headgate.MaxInt {
			return nil, fmt.Errorf("number %d: must be at most %d", x, int64(headgate.MaxInt))
		}
	}
	for _, x := range [...]uint64{n.period, n.ttl} {
		if x > math.MaxInt64/1000 {
			return nil, fmt.Errorf("time of %d µs: must be at most %d", x, int64(math.MaxInt64/1000))
		}
	}
	for _, x := range [...]uint64{n.slices, n.anchor} {
		if x > math.MaxInt32 {
			return nil, fmt.Errorf("number %d: must be at most %d", x, math.MaxInt32)
		}
	}
	if n.unit > uint64(headgate.Year) || n.soft > 1 || n.algorithm > headgate.Idempotency || n.zone > zoneFixed {
		return nil, fmt.Errorf("algorithm %d, unit %d, soft %d: unknown", n.algorithm, n.unit, n.soft)
	}
	l := headgate.Limit{
		Algorithm: n.algorithm, Count: int64(n.count), Period: time.Duration(n.period) * time.Microsecond, Burst: int64(n.burst),
		Slices: int(n.slices), TTL: time.Duration(n.ttl) * time.Microsecond, Soft: n.soft == 1, Rollover: int64(n.rollover),
		Calendar: headgate.Calendar{Unit: headgate.CalendarUnit(n.unit), Anchor: int(n.anchor)},
	}
	zone, err := n.location()
	if err != nil {
		return nil, err
	}
	l.Calendar.Location = zone
	return l.Prepare()
}

// zones remembers which names are those of zones that can be looked up.
type zones struct {
	mu    sync.RWMutex
	known map[string]bool
}

var named zones

// has reports whether the name of a zone says all of it.
func (z *zones) has(name string) bool {
	z.mu.RLock()
	has, ok := z.known[name]
	z.mu.RUnlock()
	if ok {
		return has
	}
	_, err := time.LoadLocation(name)
	z.mu.Lock()
	defer z.mu.Unlock()
	if len(z.known) >= mostLimits || z.known == nil {
		z.known = make(map[string]bool)
	}
	z.known[name] = err == nil
	return err == nil
}

// The kinds of zones.
const (
	zoneUTC   = iota
	zoneNamed // by its name
	zoneFixed // by its name and its offset from UTC
)

func appendZone(buf []byte, l *time.Location) []byte {
	if l == nil {
		return append(buf, zoneUTC)
	}
	name, kind := l.String(), byte(zoneFixed)
	if named.has(name) {
		kind = zoneNamed
	}
	buf = binary.AppendUvarint(append(buf, kind), uint64(len(name)))
	buf = append(buf, name...)
	if kind == zoneFixed {
		_, offset := time.Unix(0, 0).In(l).Zone()
		buf = binary.AppendVarint(buf, int64(offset))
	}
	return buf
}

// location returns the zone of these numbers.
func (n *numbers) location() (*time.Location, error) {
	switch {
	case n.zone == zoneUTC:
		return nil, nil
	case n.zone == zoneNamed:
		return time.LoadLocation(n.name)
	case n.offset < -1<<31 || n.offset >= 1<<31:
		return nil, fmt.Errorf("zone at %d s: unknown", n.offset)
	default:
		return time.FixedZone(n.name, int(n.offset)), nil
	}
}

// limits remembers the limits of numbers that were read.
type limits struct {
	mu    sync.RWMutex
	known map[string]*headgate.Prepared
}

var prepared limits

// mostLimits bounds the numbers that are remembered, about 500 bytes each.
const mostLimits = 1 << 14

// of returns the limit with the numbers n, which are written as text.
func (p *limits) of(text string, n *numbers) (*headgate.Prepared, error) {
	p.mu.RLock()
	l := p.known[text]
	p.mu.RUnlock()
	if l != nil {
		return l, nil
	}
	l, err := n.limit()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= mostLimits || p.known == nil {
		p.known = make(map[string]*headgate.Prepared)
	}
	p.known[text] = l
	return l, nil
}
