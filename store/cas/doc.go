// Package cas decides batches on state that a table keeps which can compare and
// swap, and no more: the arithmetic is done here, by package algo itself.
//
// # Items
//
// All budgets of an owner are one item, as package record writes it, with a
// version that names the write which made it. A decision is made on copies of the
// items that its charges concern, and stands if the table finds all of them under
// the versions that it was made on: one call of the table then compares, writes
// what moved, and tells the others what it has instead. A refusal writes nothing
// and is confirmed in the same way, so it is never made on what is out of date.
//
// # Groups
//
// Calls go in lanes, by the item that most callers share, and in each lane in
// groups: what comes while one is on its way waits for the next. A group is decided
// one call after the other on items that are read once. Calls that have items in
// common change together or not at all; others do not depend on each other. Where
// another node was faster, the calls are decided again on what the table has now. A
// lane remembers the items that it saw last, so a call of the table decides a group
// mostly.
//
// # Time
//
// The table's clock decides, as it was last heard plus the time since, by this
// process's monotonic clock less one part in 1,024: never ahead of it, and behind by
// a round trip at most.
//
// # Failures
//
// What was certainly not done is tried again for as long as its caller waits, 5 s at
// most. What may have been done is asked again as it was: it is known by the
// versions that it gave. Where others have changed the items since, nobody knows,
// and the callers have an error; what was charged stays charged. So does the charge
// of a caller that has gone before its answer came.
//
// A table that may have lost writes has another epoch. It decides nothing that was
// decided under an earlier one; see [headgate.Epoch] for what becomes of state.
package cas
