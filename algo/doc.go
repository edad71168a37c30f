// Package algo is the arithmetic of limits: state, limit, cost and instant in,
// new state and outcome out. It does no I/O, reads no clock and rounds nothing:
// all quantities are integers and every wait is exact to the microsecond. But for
// [Budget] it allocates nothing.
//
// The state of one budget is a slice of int64 words. [Words] says how many a
// budget that was never seen needs, [Need] how many its next charge needs;
// [Init] fills in the state of "never seen", [Apply] operates on it, [Convert]
// carries it over when a limit's numbers change, and [AbsentAt] says from when
// on it equals "never seen", so that a store may forget it.
//
// A Take may be a reservation, which a Settle ends with what the work really
// took. What is reserved is in escrow: an open hold with its amount stands behind
// the words of the state, in a token bucket it does not refill, and a window is
// credited only where it was charged and while that counts. Nothing is minted by
// settling. A state that never had a reservation has no words for any.
//
// A token bucket may also be kept in a single word: see [PackedLevel].
//
// [Budget] is one budget as a store keeps it that several processes share: its
// state, its numbers, the incarnation of the store, and the accounts of those that
// lease tokens of it. [Budget.Acquire] is the authority's side of that. What is
// leased out is in escrow like what is reserved: see [LeaseHold].
//
// Instants are microseconds since the Unix epoch. An instant before one already
// seen is no error: budgets refill no further and no window comes back.
//
// This package is the reference for every store: scripts and SQL functions are
// translations of it, held equal by tests.
package algo
