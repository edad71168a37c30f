// Package sqlitestore keeps limits in a directory of this machine: memory decides
// (package memstore), and a SQLite database says at least as much as was spent.
//
// # The directory
//
// limits.db has the states, limits.db-wal beside it the newest commits; the two are
// one, and limits.db-shm is the index of the latter. lock is held by the process that uses
// the directory, and says which; the lock goes with the process, however it ends, and the directory
// itself is locked with it, as the file may be taken for left over and removed. place ties
// the database to the directory: see Copies. All of it must be on a local file system: a
// write-ahead log needs memory that processes share.
//
// # Commits
//
// A commit is one transaction on the one connection that writes, and is synced
// before it returns. A full disk fails it with code Unavailable, leaves nothing of it
// behind, and the next one may succeed. After any other failure of a write the journal
// is broken for good, as what the system took for written may not be on the disk:
// nothing is committed until the process is started again. Reads go on.
//
// A row is found by its key in a tree without any other index. Rows that say nothing
// any more are deleted by a walk over the table, which begins anew when it has ended,
// at most 2048 rows a second. It reports rows that are damaged.
//
// The write-ahead log is moved to the database file when it has 20 MiB, first beside the
// commits and then for a moment instead of them, so that it begins anew. It stays
// below 52 MiB, but while a backup is made, which keeps it from beginning anew.
// Commits of 64 states without pause, into 300,000 rows (-bench Checkpoints): by
// SQLite within commits 99.9 % took less than 50 ms, the longest 81 ms; so, 24 ms and 27 ms.
//
// Pages have 1024 bytes: nearly every state that is written changes a page of its
// own, so what is written is pages. Bytes per state of a million random keys, in
// commits of 64 (-bench PageSize):
//
//	page   written   to the disk
//	1024   1,920     3,417
//	2048   3,810     5,127
//	4096   7,572     7,636
//
// Several rows in one statement are not faster than one each: SQLite then keeps a
// journal of the statement.
//
// # Starts
//
// A start reads no states, but bans. It checks the structure of a database of up to 512 MiB,
// which takes 0.2 s for a million rows, and takes the mark of a clean stop away, durably,
// before anything is decided, in the database file itself: without the write-ahead log, which
// begins anew with each start, it is seen to be in use. A clock that is behind the latest
// instant that was committed is told; time goes on from that instant, ahead of the clock,
// until a start finds that the clock has caught up.
//
// # Damage
//
// Every row has a checksum over its key and all else that it says. A state that is
// damaged fails the requests that need it, and only those, with an error that names
// the row; it is never taken for one that was never seen. Where a search finds
// nothing, the rows on both sides must be intact: a key that was damaged, which hides its
// row or leads the search astray, is one of them. The check of the structure finds pages
// that are not as their tree says. Together they have missed none of 6000 flipped bits
// and misplaced sectors (-run FlippedBits -sqlite.flips 6000). What they cannot see is a
// page that is whole and old, because a disk has acknowledged a write that it did not make, and,
// in a database above 512 MiB, pages that lack rows. [Check] reads everything.
//
// A start reads the write-ahead log before SQLite does, which would take damage in it for its
// end, as after a power cut, and forget what comes after. A power cut leaves at most one commit
// behind what is not as it was written, as each is synced before the next one. A log with
// two is damaged, and so is one that has less than its index says; an index that a kill
// has left knows every commit that was acknowledged. What cannot be told from a power
// cut is damage in the last two commits of a log, or that the end of it is missing, where the
// index is missing or older.
//
// # Copies
//
// [Store.Backup] copies a running store and [Restore] puts a copy into a new directory. What
// was charged after the copy was made is not known. So it starts with nothing left:
// buckets are empty, windows and quotas closed until they end; bans, debts, remembered
// requests and what soft quotas have counted stay. An operator who knows that nothing
// was admitted since says so (trust), and limits go on where they were. The first start
// after a restore reads all states: 2 s for a million. That charges may be missing is
// remembered for good, as limits may have come into use after the copy was made: each
// limit starts as it would have if nothing had been left at that start.
//
// A database that came to its place by other ways is trusted only if nothing can have
// been charged since. Each start, and each stop in order, writes a random number into the
// database and into the file place, with the inode of the database:
//
//   - A directory that was renamed, or copied or moved after a clean stop, goes on.
//     So does limits.db alone after a clean stop, in an empty directory.
//   - A database beside another place than its own, so one that was put back after a
//     later start or after the stop, starts with nothing left.
//   - Files that were copied while a process used them, or after it was killed, start with
//     nothing left, as their inodes are others. limits.db without its write-ahead log
//     is refused.
//   - A backup that was put in place as limits.db starts with nothing left.
//
// What is not noticed: a snapshot of the whole disk or machine that is rolled back, a
// copy made after a clean stop that is put back together with its file place, or one of
// limits.db and its log that is written over those of the same life after a kill, which
// limits.db-shm tells only while the log is the same. Use [Restore].
package sqlitestore
