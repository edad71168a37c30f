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
// # Items apart
//
// With [Config.Apart] a table changes one item at a time. A Take over several items
// then looks at all of them first. Only if all pass does it take: from the subject's
// own item first, so that nobody else's budget is parked while others are asked, and
// for good from the one that most callers share, last. What is taken before that is
// on trial: it is held like a reservation, so that nothing refills that would not
// have, until it is confirmed. If a later item refuses after all, or cannot be asked,
// the trials are undone: a budget that nobody has decided on since is what it was,
// and of another one the hold is given back, in the window in which it was taken and
// under the same epoch. A hold ends once, so nothing is given back twice.
//
// What this costs: for a round trip others of the same subject may see the hold. A
// process that ends in between, and an undoing that the table does not answer, lose
// what was held: it stays charged when its 15 s are over. A reservation is held under
// its own name from the beginning, so what is lost of one stays reserved, and its slots
// taken, for as long as it was asked for, up to 24 h. A leaky bucket, and a budget that
// has no room for another hold, gets back what was taken only if the table has
// answered, and nobody has decided on the budget since. A key is remembered when
// all have passed, and until then all of them are on trial; of two batches with one
// key at once, one is undone. Everything but Take is done item by item: an error may
// come after some of them.
//
// # Time
//
// The table's clock decides, as it was last heard plus the time since, by this
// process's monotonic clock less one part in 1,024: never ahead of it, and behind by
// a round trip at most. It does not go back within an epoch. With another epoch it may,
// to what the table says then: that of another server may be behind, and what is empty
// or closed since then must not be filled or opened early. Where items tell when they
// were made, nobody decides on them at an earlier instant.
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
// decided under an earlier one; see [headgate.Epoch] for what becomes of state. What
// may have been written before it said so is not decided again: its callers have an
// error.
package cas
