package sqlitestore

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/memstore"
)

// A value of table state is (uvarint and varint are those of encoding/binary):
//
//	CRC-32C (4, big-endian) of key (12), until (8), numbers (8) and what follows
//	4 x number of words, + 1 if there is a keep, + 2 if there are leases (uvarint)
//	words (varint each)
//	keep (varint)
//	number of leases (uvarint), of each: holder (16), granted, settled, returned, seen (varint each)
const (
	crcBytes = 4
	keyBytes = 12

	hasKeep   = 1
	hasLeases = 2
	flagBits  = 2
)

// never is the Keep of records without any.
const never = -1 << 63

// appendKey appends a key as the database has it. Their order is that of [before].
func appendKey(buf []byte, k memstore.Key) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(buf, k.Hi), k.Lo)
}

// keyOf is the reverse of appendKey.
func keyOf(b []byte) memstore.Key {
	return memstore.Key{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint32(b[8:])}
}

// appendValue appends the value of r, kept under the numbers of that id.
func appendValue(buf []byte, r *memstore.Record, numbers int64) []byte {
	start := len(buf)
	buf = append(buf, 0, 0, 0, 0)
	head := uint64(len(r.Words)) << flagBits
	if r.Keep != never {
		head |= hasKeep
	}
	if len(r.Leases) > 0 {
		head |= hasLeases
	}
	buf = binary.AppendUvarint(buf, head)
	for _, w := range r.Words {
		buf = binary.AppendVarint(buf, w)
	}
	if r.Keep != never {
		buf = binary.AppendVarint(buf, r.Keep)
	}
	if len(r.Leases) > 0 {
		buf = binary.AppendUvarint(buf, uint64(len(r.Leases)))
	}
	for i := range r.Leases {
		x := &r.Leases[i]
		buf = binary.BigEndian.AppendUint64(buf, x.Holder[0])
		buf = binary.BigEndian.AppendUint64(buf, x.Holder[1])
		for _, n := range [...]int64{x.Granted, x.Settled, x.Returned, x.Seen} {
			buf = binary.AppendVarint(buf, n)
		}
	}
	binary.BigEndian.PutUint32(buf[start:], checksum(r.Key, r.Until, numbers, buf[start+crcBytes:]))
	return buf
}

func checksum(k memstore.Key, until, numbers int64, rest []byte) uint32 {
	var head [keyBytes + 16]byte
	appendKey(head[:0], k)
	binary.BigEndian.PutUint64(head[keyBytes:], uint64(until))
	binary.BigEndian.PutUint64(head[keyBytes+8:], uint64(numbers))
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, rest)
}

// intact reports whether a row is as it was written.
func intact(k memstore.Key, until, numbers int64, value []byte) bool {
	return len(value) > crcBytes && binary.BigEndian.Uint32(value) == checksum(k, until, numbers, value[crcBytes:])
}

// readValue fills in what a value that is intact says: r's Words, Keep and Leases.
// It reports whether that is all.
func readValue(r *memstore.Record, value []byte) bool {
	v := reader{rest: value[crcBytes:]}
	head := v.uvarint()
	words := head >> flagBits
	if words > uint64(len(v.rest)) {
		return false
	}
	r.Words = make([]int64, words)
	for i := range r.Words {
		r.Words[i] = v.varint()
	}
	r.Keep, r.Leases = never, nil
	if head&hasKeep != 0 {
		r.Keep = v.varint()
	}
	if head&hasLeases != 0 {
		n := v.uvarint()
		if n > uint64(len(v.rest)) {
			return false
		}
		r.Leases = make([]algo.Lease, n)
	}
	for i := range r.Leases {
		r.Leases[i] = algo.Lease{Holder: [2]uint64{v.word(), v.word()}, Granted: v.varint(), Settled: v.varint(), Returned: v.varint(), Seen: v.varint()}
	}
	return !v.bad && len(v.rest) == 0
}

// reader reads a value. It is bad when that has ended early.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) skip(n int) {
	if n <= 0 {
		r.rest, r.bad = nil, true
		return
	}
	r.rest = r.rest[n:]
}

func (r *reader) uvarint() uint64 {
	x, n := binary.Uvarint(r.rest)
	r.skip(n)
	return x
}

func (r *reader) varint() int64 {
	x, n := binary.Varint(r.rest)
	r.skip(n)
	return x
}

func (r *reader) word() uint64 {
	if len(r.rest) < 8 {
		r.skip(0)
		return 0
	}
	x := binary.BigEndian.Uint64(r.rest)
	r.skip(8)
	return x
}
