package memstore

import (
	"context"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// Journal keeps the state of a store beyond its process. Its methods are called
// without any of the store's locks held.
type Journal interface {
	// Load fills in the records of the keys that they name: Limit is nil where
	// nothing is kept. It is called concurrently.
	Load(ctx context.Context, records []Record) error
	// Commit writes all of c, or nothing, and returns when it would survive a
	// crash of the machine. It is called by one goroutine at a time. After an error
	// the same records come again, or newer ones of their keys.
	Commit(c *Commit) error
}

// Key names the state of one limit for one owner: 95 bits of a hash of both under
// Config.Secret.
type Key struct {
	Hi uint64
	Lo uint32
}

// Record is a state as a journal keeps it.
type Record struct {
	Key Key
	// Limit has the numbers that Words are kept under. nil is a state that was
	// never seen, of which a journal keeps nothing.
	Limit *headgate.Prepared
	// Words are the state as package algo has it: [algo.Words] of them, or more.
	Words []int64
	// Keep is the instant before which the record may not be forgotten, because it
	// was kept under other numbers before; math.MinInt64 is none.
	Keep int64
	// Until is the instant, in microseconds since the Unix epoch, from which the
	// state equals "never seen": a journal may drop the record then.
	Until int64
	// Leases are the accounts of those that hold tokens of it.
	Leases []algo.Lease
}

// Commit is what a journal writes at once.
type Commit struct {
	// Now is the latest instant that the store has seen, in microseconds since the
	// Unix epoch, as all instants here.
	Now int64
	// Records are states as they are to be found by the next process. They and
	// their Words are of no use after Commit has returned.
	Records []Record
	// Limits are those that came into use.
	Limits []Use
	// Clean says that the store was closed in order: all that it knows was
	// committed, and nothing comes after.
	Clean bool
}

// Use says that a limit came into use.
type Use struct {
	// ID is the limit's, which its numbers alone do not tell.
	ID    [2]uint64
	Limit *headgate.Prepared
	// Since is the instant of its first use under these numbers; where others recover
	// within ten seconds, by the process that told it last. A journal has the latest.
	Since int64
	// Durable says that states of it may be in the journal at any time. Those of
	// others, which recover within ten seconds, are only after a clean stop. A limit
	// may become durable later, under the same numbers.
	Durable bool
}

// Past is what a journal knows of the process before. The zero value is that of a
// journal without any.
type Past struct {
	// Latest is the latest instant that was committed. The clock does not go back
	// behind it.
	Latest int64
	// Clean says that the last Commit was. Else states that recover within ten
	// seconds may have been lost, and start empty.
	Clean bool
	// Began is the instant from which on processes may have lost states that count
	// still: when the one before began, or where that was less than ten seconds ago and
	// has not ended in order, an earlier one.
	Began int64
	// Lost, if not 0, is the instant at which the journal became one that lacks
	// commits, as after a backup was restored: what it does not have had nothing
	// left then. What it has must have nothing left then, too: see [algo.Deplete].
	Lost int64
	// Limits are all that were ever committed.
	Limits []Use
	// Bans are the records of all bans: they are not looked up.
	Bans []Record
}
