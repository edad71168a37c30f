package headgate

import "context"

// Store keeps the state of limits and decides batches.
//
// Atomicity: the charges of one batch are decided together. If a charge that is
// not a shadow refuses, no limit has moved, but for the denial counter of a
// Ban in the batch. Concurrent batches are decided as if one after the other.
//
// State: a key that was never seen, or whose state has run out (bucket full,
// window ended), is the same. A key whose limit comes with other numbers than
// before keeps its level (buckets) or what it used (windows, quotas): lowering
// or raising a limit gives nobody free tokens. Reading never writes.
//
// Clock: a store says whose clock decides. Where it is the process's, the store
// is also a [Clock] and honours Batch.Now; others ignore it outside of tests.
//
// Errors mean "could not decide": nothing is known to have been charged. They
// wrap an *[Error] with code Unavailable, Overloaded, Closed, Conflict for a
// [RequestKey] that was used for another request, or, for a batch that no store
// could decide, InvalidRequest.
//
// A Store is safe for concurrent use.
type Store interface {
	// Apply does b.Op and fills in b.Allowed, b.At and b.Outcomes. It does not
	// keep b. Stores in memory never block and ignore ctx.
	Apply(ctx context.Context, b *Batch) error
	// Close releases what the store holds. Apply fails from then on.
	Close() error
}

// Clock is implemented by stores whose clock is the process's. A caller that
// decides several batches for one network read may take one reading and set it
// as Batch.Now in all of them.
type Clock interface {
	// Now returns microseconds since the Unix epoch. It never goes back while
	// the process lives.
	Now() int64
}
