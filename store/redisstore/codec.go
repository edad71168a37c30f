package redisstore

import (
	"math"

	"github.com/headgate/headgate"
)

// A script call decides a group: several calls of several callers, one after the
// other, at one instant. Numbers in what follows are little-endian, d is a double
// that holds a whole number below 2^53, and ids are 8 or 16 bytes as they are.
//
//	KEYS     the hashes of all calls, call after call; they may repeat
//	ARGV[1]  mode (1 byte), epoch (7), since (d), now (d; 0 is the server's clock)
//	ARGV[n]  one call
//	reply    an array with the answer to each call
//
// A call is a head, then its charges:
//
//	form (1), op (1), number of charges (2), number of keys of its own (2)
//	form 0 goes on: hold (8), how long (d), longest delay (d), bits (1), request id (16), print (8), trial (8), at (d)
//	bits: 1 refusals count towards no ban, 2 there is a request id
//	charge: key (2, from 1), limit id (16), flags (1), numbers (2 and text), cost (d), owner (2, 0 is none), calendar (2 and text)
//	flags: 1 shadow, 2 parent, 4 there must be no record, 8 nor a refusal
//	form 1 adds to a charge: n, capacity and cost in units of 1/p token (d, d, d)
//	op acquire adds to a charge: request and terms, as lease.lua reads them
//
// Form 1 is for calls that fast.lua can decide. The numbers of a limit are MessagePack
// and compared as text. A calendar is the label, start and end (d, d, d) of periods
// that follow each other.
//
// An answer begins with its form (1 byte):
//
//	0 decided: bits (1: 1 allowed, 2 replayed), now (d), hold (8), for every charge flags (1: 1 allowed, 2 never,
//	  4 leased) and limit, used, remaining, overage, retry, reset, delay, end of the period (d each)
//	1 decided: allowed (1), now (d), for every charge level and instant (d, d) of the bucket before the call
//	2 the calendar does not reach the instant (d)
//	3 the request id was used for another request: now (d)
//	4 too many reservations are open: now (d)
//	5 undone
//	6 acquired: now (d), for every request status (1), window, granted, time left, count, holders (d each), and an outcome as in 0
//
// A record is a field of an owner's hash, named by the limit's id:
//
//	kind (1), epoch (7), second before which the hash does not expire (5)
//	kind 0, a bucket that holds nothing: level, instant (d, d), numbers
//	else numbers (2 and text); if kind has 1: before which it is not forgotten (d); 2: holds (number 4, sum d, 32 each);
//	  4: leases (number 2, 48 each); then the state, packed by the algorithm's module or MessagePack

// scriptOp is what a call asks: a [headgate.Op] or one of those that follow.
type scriptOp uint8

const (
	// opUndo gives back what an earlier Take charged that was allowed, and mints
	// nothing: what it held under its trial id or as its reservation; without
	// either, what still stands of the windows, slots and entries of its instant.
	// Buckets then keep their charge.
	opUndo    scriptOp = 8
	opAcquire scriptOp = 9
)

// The forms of calls and answers.
const (
	formGeneral  = 0
	formFast     = 1
	formCalendar = 2
	formConflict = 3
	formFull     = 4
	formUndone   = 5
	formAcquired = 6
)

// The modes of a group.
const (
	modeGeneral  = 0 // for the engine
	modeDistinct = 1 // all calls have form 1, and no two the same key
	modeRepeated = 2 // all calls have form 1
)

const (
	headBytes    = 6
	generalBytes = 8 + 8 + 8 + 1 + 16 + 8 + 8 + 8
	outcomeBytes = 1 + 8*8
)

// leaseHold is a hold that no call can name.
const leaseHold = math.MaxUint64

// payload is one call, made ready by its caller. It may be used again.
type payload struct {
	// keys are the hashes that it needs, and blob its argument.
	keys []string
	blob []byte
	// fast says that it can be decided without the engine. It is best not to put
	// other calls into its group.
	fast bool
	// around is the instant, in microseconds since the Unix epoch, around which
	// calendars go along; 0 is the scheme's now.
	around int64
}

// verdict is what came of a call.
type verdict struct {
	// calendar, if not 0, is an instant that the calendars did not reach: nothing
	// was decided, and the call has to be made again around it.
	calendar int64
}

// appendInt appends n as MessagePack, in the shortest form.
func appendInt(buf []byte, n int64) []byte {
	switch {
	case n >= 0 && n < 128:
		return append(buf, byte(n))
	case n >= 0 && n <= math.MaxUint8:
		return append(buf, 0xcc, byte(n))
	case n >= 0 && n <= math.MaxUint16:
		return append(buf, 0xcd, byte(n>>8), byte(n))
	case n >= 0 && n <= math.MaxUint32:
		return append(buf, 0xce, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	default:
		return append(buf, 0xd3, byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

// appendString appends s, of less than 65,536 bytes, as MessagePack.
func appendString(buf []byte, s string) []byte {
	return append(append(buf, 0xda, byte(len(s)>>8), byte(len(s))), s...)
}

// appendNumbers appends what [headgate.Prepared.SameNumbers] compares, and all that
// the script needs of the limit.
func appendNumbers(buf []byte, l *headgate.Prepared) []byte {
	buf = appendInt(buf, int64(l.Algorithm))
	buf = appendInt(buf, l.Count)
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		buf = appendInt(buf, l.N)
		buf = appendInt(buf, l.P)
		buf = appendInt(buf, l.Cap)
	case headgate.FixedWindow, headgate.SlidingLog:
		buf = appendInt(buf, l.WindowMicros)
	case headgate.SlidingWindow:
		buf = appendInt(buf, l.WindowMicros)
		buf = appendInt(buf, int64(l.Slices))
	case headgate.Quota:
		buf = appendInt(buf, l.Rollover)
		soft := int64(0)
		if l.Soft {
			soft = 1
		}
		buf = appendInt(buf, soft)
		buf = appendString(buf, calendarName(l.Calendar))
	case headgate.Ban:
		buf = appendInt(buf, l.WindowMicros)
		buf = appendInt(buf, l.TTLMicros)
	default: // Concurrency, Idempotency
		buf = appendInt(buf, l.TTLMicros)
	}
	return buf
}
