// Package records keeps what people write down: revisions of the policy, subjects,
// tokens, modes and the audit log. [Open] makes a [DB], in an SQLite file for one node
// or in PostgreSQL for many.
//
// Nothing here is asked for a decision. A node reads all that decisions need when it
// starts ([DB.Load]), then follows the changes ([DB.Follow]), and goes on with what it
// knows where the database is away.
//
// Every write is one transaction with the [Entry] of the audit log that tells of it,
// and takes the next number of one sequence under a lock, so that whoever has seen
// number n misses nothing of before. Writes are rare: the lock costs nobody a decision.
package records
