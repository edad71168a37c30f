package pgstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"
)

// array is a PostgreSQL array of one dimension without NULLs, in its binary form.
type array []byte

// arrayHead is how many bytes stand before the first element.
const arrayHead = 20

// newArray begins an array of n elements of a type, of size bytes together.
func newArray(oid uint32, n, size int) array {
	a := make(array, 0, arrayHead+4*n+size)
	if n == 0 {
		return a.number(0).number(0).number(oid)
	}
	return a.number(1).number(0).number(oid).number(uint32(n)).number(1)
}

func (a array) number(n uint32) array { return binary.BigEndian.AppendUint32(a, n) }

func (a array) bytes(b []byte) array { return append(a.number(uint32(len(b))), b...) }

func (a array) int64(n int64) array { return binary.BigEndian.AppendUint64(a.number(8), uint64(n)) }

func (a array) int32(n int32) array { return a.number(4).number(uint32(n)) }

func (a array) bool(b bool) array {
	n := byte(0)
	if b {
		n = 1
	}
	return append(a.number(1), n)
}

// uuids begins an array of n keys, and the others those of their types.
func uuids(n int) array            { return newArray(pgtype.UUIDOID, n, 16*n) }
func int64s(n int) array           { return newArray(pgtype.Int8OID, n, 8*n) }
func int32s(n int) array           { return newArray(pgtype.Int4OID, n, 4*n) }
func bools(n int) array            { return newArray(pgtype.BoolOID, n, n) }
func byteStrings(n, sum int) array { return newArray(pgtype.ByteaOID, n, sum) }

var errAnswer = errors.New("the server's answer cannot be read")

// elements calls each with every element of an array that came as an answer.
func elements(a []byte, each func(i int, b []byte) error) error {
	if len(a) < 12 {
		return errAnswer
	}
	if dimensions := binary.BigEndian.Uint32(a); dimensions == 0 {
		return nil
	} else if dimensions != 1 || len(a) < arrayHead {
		return errAnswer
	}
	n := int(binary.BigEndian.Uint32(a[12:]))
	rest := a[arrayHead:]
	for i := range n {
		if len(rest) < 4 {
			return errAnswer
		}
		size := int(int32(binary.BigEndian.Uint32(rest)))
		if rest = rest[4:]; size < 0 || size > len(rest) {
			return errAnswer
		}
		if err := each(i, rest[:size]); err != nil {
			return err
		}
		rest = rest[size:]
	}
	return nil
}

// bigint reads one number.
func bigint(b []byte) (int64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: %d bytes for a number", errAnswer, len(b))
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}
