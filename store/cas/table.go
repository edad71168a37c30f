package cas

import (
	"context"
	"time"

	"github.com/headgate/headgate"
)

// Key names an item: it is a hash, the same on every node.
type Key [16]byte

// Item is the state of one owner as a table keeps it.
type Item struct {
	Key Key
	// Version names the write that made the item, 0 if there is none.
	Version uint64
	// Value is as package record writes it; empty means never seen.
	Value []byte
	// Expires is the instant, in microseconds since the Unix epoch on the table's
	// clock, from which the value means never seen. The item may be deleted then.
	Expires int64
	// At is the instant of the decision that made the item, 0 if the table does not
	// keep it. Where it does, nobody decides on the item at an earlier one: a table
	// whose clock is that of many nodes must keep it.
	At int64
}

// Swap is one item of a change.
type Swap struct {
	// Old is the item that was found: it must still have its Version. Where its
	// change was not made, the table says here what it has.
	Old Item
	// New replaces it if Write says so; else Old must only stand as it does.
	New   Item
	Write bool
}

// Change is items that change together or not at all.
type Change struct {
	Items []Swap
	// Done is set by [Table.Swap]: it was made.
	Done bool
	// Err is set by a table that makes each change by itself: why this one was not
	// made, or why nobody knows, while others were. It may be a [*Failure].
	Err error

	doubt bool // it may have been made
	again bool // it was certainly not, and is decided again on what is known
}

// Moment is an instant, in microseconds since the Unix epoch on the table's
// clock, and the incarnation of the table then.
type Moment struct {
	Now   int64
	Epoch headgate.Epoch
}

// Table keeps items, which it changes only where nobody else has. One that can
// change one item at a time only is used with [Config.Apart]: every change is then
// of one item.
//
// An error of its methods may be a [*Failure], which says whether anything can
// have been done.
type Table interface {
	// Read fills in the items by their Keys. It may be asked for none.
	Read(ctx context.Context, items []Item) (Moment, error)
	// Swap makes each change of which all items have their versions, each by
	// itself; no key is in two of them. It fails as Stale if the table's epoch is
	// another one, and as Unsent, too, if nothing was made then: else each may have
	// been. Making the same changes again is harmless: those that are made already are
	// found under the versions that they gave.
	Swap(ctx context.Context, epoch uint64, changes []Change) (Moment, error)
	// Nodes notes that node lives for another ttl, at most [MostLife] and 0 for
	// gone, and returns how many live. Who claims to live for longer than that has
	// said so before the clock was set back. Asking twice is harmless.
	Nodes(ctx context.Context, node [16]byte, ttl time.Duration) (int, error)
	// MaxValue is how many bytes a value may have.
	MaxValue() int
	// Close releases what the table holds.
	Close() error
}

// Failure is why a table did not do what it was asked.
type Failure struct {
	// Kind is a word for metrics, such as "timeout".
	Kind string
	// Unsent says that nothing was done, Passing that asking again soon may help,
	// and Stale that the epoch is another one, which Read tells.
	Unsent, Passing, Stale bool
	Err                    error
}

// Error returns the cause's words.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }
