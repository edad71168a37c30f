// Package memstore keeps the state of limits in memory: exact, bounded, and
// without pointers for the garbage collector to follow.
//
// # Layout
//
// A store is a power of two of shards, each with its own lock. The owner of a
// charge chooses the shard, so that all limits of one subject share a lock.
// Inside a shard, a table holds 24 bytes a key: 95 bits of a keyed hash of
// owner and limit, the version of the limit's numbers, and one word of state. A
// token bucket lives in that word; other algorithms keep their words in the
// shard's arena and the table keeps the place, and so does a bucket while it has
// reservations open. Keys themselves are not kept. Bans, remembered requests and
// charges of 0 take a place only when there is something to keep.
//
// The table is sorted by hash with gaps in it: a key stands at the place that
// its hash as a fraction of the table gives, or a little to the right. A search
// therefore ends at the first greater hash, and growth is one pass in order.
//
// # Bounds
//
// Bytes never exceed Config.MaxBytes. State that equals "never seen" is dropped
// little by little as new keys come in; nothing else ever is. When the memory
// is full of live state, new keys share overflow cells, a few per limit and
// shard, chosen by their hash: they get less than a budget of their own, never
// more. A key that later gets its own cell starts from the state of the cell it
// would have shared. Overflow cells ban nobody and remember no request.
//
// # Time
//
// The clock is the process's: wall time at the start plus monotonic time since.
// A shard's time never goes back: an instant before the latest it has seen
// counts as that one.
package memstore
