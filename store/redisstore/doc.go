// Package redisstore keeps the state of limits in Redis 7 or Valkey, shared by all
// nodes that use it: one server, a primary that sentinels watch, or a cluster.
//
// # Where state stands
//
// All budgets of an owner are fields of one hash, so that one call of one script
// decides a batch. The empty owner, as that of an application's limits, has a hash
// for each limit. In a cluster hashes are spread over 1,024 partitions, each with a
// hash tag of its own; elsewhere there is one partition. The servers' clock decides.
//
// # Calls
//
// Callers of one partition share calls: two may be on their way at once, and who
// comes meanwhile waits for the next one, which carries all that wait; equal Takes go
// along as one, and each caller works out its own outcome. A caller waits as long as its context and Batch.Patience allow. What was certainly not
// executed (the server was loading, a slot was moving, nobody listened) is tried
// again within that time, and nothing else. An answer that comes when its caller has
// gone is read all the same: what it charged is given back, in windows of its own
// time and by the hold of a reservation. A bucket keeps it, for giving it back could
// mint, and so does a request with a key, whose retry is told that it was allowed. A
// Reset that comes between forgives it twice.
//
// # Several partitions
//
// A batch of several partitions is not decided at one instant. A Take looks at all
// of them first, and counts the refusal if there is one. If all pass it takes from
// the subject's own, then from its parents', and for good from the last, the one
// that most requests share. If one refuses after all, what was taken is given back:
// until then, about a round trip, other requests of the same owners may find it
// gone. What was taken is held under a name of its own for two seconds at most, so a
// process that dies between keeps somebody's charge and nothing else. Leaky buckets
// give nothing back. Other operations are done in each partition by itself.
//
// Refusals by limits of the empty owner count towards a ban of the empty owner only
// where both stand in one partition.
//
// # Incarnations
//
// A server that was restarted, promoted or emptied may have lost charges. The
// script's text holds the run id of the server, so no other one runs it; and every
// call names the marker that its partition must show, so that an emptied one is
// found out. Then the client asks for the epoch: the first one to notice begins the
// next, whose buckets start empty when the leases of the last must have ended, and
// the others find it. A server that neither shows a marker nor is remembered by the
// client is new, and everything on it is full. A slot that moves to another master
// is another incarnation, too, and so is a restart that lost nothing. What a primary
// grants that has been cut off from its replicas, while one of them takes its place,
// nobody can know: let it refuse writes then (min-replicas-to-write).
//
// # Rights
//
// A user needs, with the keys' prefix in place of hg:,
//
//	~hg:* +ping +info +eval +evalsha +script|exists +script|load
//	+time +get +set +hget +hmget +hset +hdel +expireat +zadd +zcard +zrange +zrem +zremrangebyscore
//	+discard +unsubscribe +punsubscribe +sunsubscribe
//
// and, in a cluster, +cluster|slots +cluster|shards +asking; with sentinels, +role;
// with a database other than 0, +select.
package redisstore
