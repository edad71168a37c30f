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
//	reply    an array with the answers to the calls
//
// A call is a head, then its charges:
//
//	form (1), op (1), number of charges (2), number of keys of its own (2), how many equal ones it is (2)
//	form 0 goes on: hold (8), how long (d), longest delay (d), bits (1), request id (16), print (8), trial (8), at (d)
//	bits: 1 refusals count towards no ban, 2 there is a request id
//	charge: key (2, from 1), limit id (16), flags (1), numbers (2 and text), cost (d), owner (2, 0 is none), calendar (2 and text)
//	flags: 1 shadow, 2 parent, 4 there must be no record, 8 nor a refusal
//	form 1 adds to a charge: algorithm (1), slices (1) and, of a bucket, n, capacity and cost in units of 1/p token; of a
//	  window its width or that of a slice, count and cost; of a quota bits (1 soft, 2 rolls over), count and cost (d each)
//	op acquire adds to a charge: request and terms, as lease.lua reads them
//
// Form 1 is for calls that fast.lua can decide. The numbers of a limit are MessagePack
// and compared as text. A calendar is the label, start and end (d, d, d) of periods
// that follow each other.
//
// An answer begins with its form (1 byte). One of form 1 is for all of equal calls; of
// others there is one for each:
//
//	0 decided: bits (1: 1 allowed, 2 replayed), now (d), hold (8), for every charge flags (1: 1 allowed, 2 never,
//	  4 leased) and limit, used, remaining, overage, retry, reset, delay, end of the period (d each)
//	1 decided: how many of the equal calls are allowed, which are the first (2), now (d), for every charge its state before
//	  them in the words of package algo (d each)
//	2 the calendar does not reach the instant (d)
//	3 the request id was used for another request: now (d)
//	4 too many reservations are open: now (d)
//	5 undone
//	6 acquired: now (d), for every request status (1), window, granted, time left, count, holders (d each), and an outcome as in 0
//
// A record is a field of an owner's hash, named by the limit's id:
//
//	kind (1), epoch (7), second before which the hash does not expire (5)
//	kind 0, a bucket or fixed window of which nothing is held: its words (d, d), numbers
//	kind 1, a quota of which nothing is held: label (4), start and end (5, 5), used and carried over (d, d), end of the
//	  next period (5), numbers; instants in seconds
//	else, from 16 on: numbers (2 and text); if kind has 1: before which it is not forgotten (d); 2: holds (number 4, sum d, 32 each);
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

// payload is one call, made ready by its caller. It may be used again.
type payload struct {
	// keys are the hashes that it needs, and blob its argument.
	keys []string
	blob []byte
	// fast says that it can be decided without the engine. It is best not to put
	// other calls into its group. take says that it is one that takes besides.
	fast, take bool
	// around are the instants, in microseconds since the Unix epoch, around which
	// calendars go along; none is the scheme's now. There are several where a server's
	// clock was set back: it decides at its time of states that are of a later one.
	around []int64
}

// expect makes calendars go along around now, a manual clock's instant, or if that is
// 0 around what the scheme's clock shows.
func (p *payload) expect(now int64) {
	if p.around = p.around[:0]; now != 0 {
		p.around = append(p.around, now)
	}
}

// reach makes calendars go along also around an instant that they did not reach.
func (p *payload) reach(at int64) { p.around = append(p.around, at) }

// verdict is what came of a call.
type verdict struct {
	// calendar, if not 0, is an instant that the calendars did not reach: nothing
	// was decided, and the call has to be made again around it.
	calendar int64
	// at is the instant of an answer to lease requests.
	at int64
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

// appendString appends s, of which it takes 60,000 bytes at most, as MessagePack.
func appendString(buf, s []byte) []byte {
	s = s[:min(len(s), 60_000)]
	if len(s) < 32 {
		return append(append(buf, 0xa0|byte(len(s))), s...)
	}
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
		buf = appendCalendar(buf, l.Calendar)
	case headgate.Ban:
		buf = appendInt(buf, l.WindowMicros)
		buf = appendInt(buf, l.TTLMicros)
	default: // Concurrency, Idempotency
		buf = appendInt(buf, l.TTLMicros)
	}
	return buf
}
