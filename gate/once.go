package gate

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/headgate/headgate"
)

// remember adds the charge that lets a request with an idempotency key happen
// once.
func (q *question) remember(d *Decision) error {
	r := q.request
	if r.IdempotencyKey == "" {
		return nil
	}
	if err := checkOwner("idempotency_key", r.IdempotencyKey); err != nil {
		return err
	}
	if _, err := d.batch.Add(headgate.Charge{Limit: q.app.once, Owner: d.Subject, Parent: true}); err != nil {
		return err
	}
	// Length-prefixed, so that no choice of strings can make two of them meet.
	// The subject is in it: keys without a room of their own share one.
	id := sha256.Sum256(appendParts(nil, q.app.name, d.Subject, r.IdempotencyKey))
	// What it costs is in it, whoever said so: nobody pays for a small request
	// and repeats it as a large one.
	asked := appendParts(nil, r.Operation, r.Method, r.Path, r.Plan)
	asked = binary.BigEndian.AppendUint64(asked, uint64(d.Cost))
	asked = binary.BigEndian.AppendUint64(asked, uint64(len(d.costs)))
	for _, u := range d.costs { // in an order that is always the same
		asked = binary.BigEndian.AppendUint64(appendParts(asked, u.Unit), uint64(u.Cost))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Attributes)) {
		asked = appendParts(asked, name, r.Attributes[name])
	}
	asked = binary.BigEndian.AppendUint64(asked, uint64(len(r.Attributes)))
	for i := range r.Descriptor {
		asked = appendParts(asked, r.Descriptor[i].Key, r.Descriptor[i].Value)
	}
	asked = binary.BigEndian.AppendUint64(asked, uint64(len(r.Descriptor)))
	if r.Said != nil {
		asked = binary.BigEndian.AppendUint64(asked, uint64(r.Said.Count))
		asked = binary.BigEndian.AppendUint64(asked, uint64(r.Said.Period))
	}
	asked = binary.BigEndian.AppendUint64(asked, uint64(q.holdFor))
	print := sha256.Sum256(asked)
	d.batch.Key = headgate.RequestKey{
		ID:    [2]uint64{binary.BigEndian.Uint64(id[:]), binary.BigEndian.Uint64(id[8:])},
		Print: binary.BigEndian.Uint64(print[:]),
	}
	return nil
}

func appendParts(b []byte, parts ...string) []byte {
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	return b
}

// newHold names what a ticket holds. Who guesses it could release another's.
func newHold() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails
		if h := binary.BigEndian.Uint64(b[:]); h != 0 {
			return h
		}
	}
}
