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
// # Keys at hand
//
// A key that a [headgate.Key] holds, or for whose shard processors wait, keeps
// its word outside of the table and is decided by compare-and-swap, by whatever
// call it comes; a refusal then takes no lock and writes nothing. A batch of
// several limits first puts the word back. Calls that read the clock earlier
// than others do no harm: the word is the instant at which the bucket is full,
// and an early clock only finds it further away.
//
// Where processors contend for a [headgate.Key], each takes tokens ahead into a
// slot of its own and spends them without the clock. What is out, o tokens, is
// charged when its slot is emptied, as of then; until then every decision counts
// it as spent, and the bucket refills to its capacity less o. So no interval
// admits more than burst + rate x time: what was spent within it and is charged
// is dated within it, and what is not charged yet fits beside it. A call that
// finds too little left empties all slots first.
//
// # A journal
//
// A store with a Config.Journal outlives its process. Everything is decided in
// memory as without one; the journal has, of every state, a mark that stands at
// least as high: no process that begins from it admits what was admitted before.
// Only where a charge passes the mark is it written, and the caller waits, together
// with all who wait at that time. For limits of 200 and more the mark goes ahead by
// one to two steps of up to half a percent of the limit, so that the next one is
// written before anybody needs it: a kill forfeits at most one percent. Smaller
// limits have exact marks, and everybody waits. States without a plain counter, such
// as logs, slots, remembered requests and whatever has reservations, are written
// whole with each change. A denial writes nothing, but for what counts towards a ban,
// which nobody waits for.
//
// Limits that recover within ten seconds are not written at all: after a kill they
// start empty. Nor is memory filled at the start: a key that is not in it is looked
// up when it is asked for. When the memory is full, states leave it for the journal,
// and no durable limit has overflow cells. A store that is closed in order writes all
// states as they are.
//
// Where the journal fails, charges that need it are not decided; what they have
// taken stays taken. The clock never goes back behind what was committed.
//
// # Leases
//
// A store is a [headgate.Authority]. What is leased out of a state stands in it as
// [algo.LeaseHold], among what is reserved; the accounts of those who hold it are a
// block of the arena of their own, so that they are bounded with it: where there is
// no room, a request fails for itself. Cells that keys share are not leased. Accounts
// mean something as long as that hold counts, and are forgotten when the state is
// next met, or swept; a bucket then goes back into one word. Numbers under which
// leases mean nothing take the hold out of the state and leave the accounts alone,
// so that a refusal can undo the change.
//
// With a journal, a state that is leased is written whole with each change, with its
// accounts, and a reply is given when it is written. So a lease outlives the process
// that gave it: the next one knows all that was granted, is the same incarnation, and
// counts what is out as held until it has run out. The epoch changes only with a
// journal that lacks commits (Past.Lost). Without a journal each store is another
// incarnation.
//
// # Time
//
// The clock is the process's: wall time at the start plus monotonic time since.
// A shard's time never goes back: an instant before the latest it has seen
// counts as that one.
package memstore
