// Package guard stands between the gate and a store on the network, which can
// be slow or away.
//
// # Calls
//
// A [Store] passes every batch on to the store behind it, which gives up when
// Batch.Patience ends. It fails calls at once, with code Unavailable, while its
// breaker is open, while as many calls are in flight as may be, and while it
// lets calls back in after the store was away. An answer that came is passed on
// as it is, however late: nothing here makes an allowance of a refusal.
//
// # Breaker
//
//	closed ── five failures in a row and no success for 100 ms, or half of ──▶ open
//	  ▲       at least 20 calls of the last 10 s                                 │
//	  │ the probe succeeds                                    about every 500 ms │
//	  └──────────────────────── half-open ◀──────────────────────────────────────┘
//	                                └─ the probe fails: open again
//
// A failure is an error by which the store did not decide, or an answer after
// more than 50 ms or half of the patience, whichever is longer. A store that
// says that it has no room has answered. A call whose caller went away counts as
// neither. Results of calls from before the last change do not count.
//
// After closing, 8 calls may be in flight, and twice as many every 100 ms until
// all may: a store that comes back is not overrun by those who waited for it.
//
// # Share
//
// Every 2 s a node tells a store that is a [headgate.Census] that it lives, and
// learns how many do. It believes in fewer only after 6 s of contact, as a store
// that comes back has forgotten those that will beat in a moment. While the store
// is away it goes on by the number that it believed last: [Local] then admits
// 0.8 / nodes of each limit, its share, for the requests whose limits ask for
// that. A node that never met the store has no share.
//
// Local starts a key at its last level that this node knows of, if that is below
// the share, else at the share of the capacity; levels that are not below the
// share are not kept, nor more than 65,536 of those that are. What it has
// admitted stays counted after the store is back, until it has run out: a store
// that comes and goes gives nobody a fresh share each time. It counts by the
// clock of the store as it was seen last, and as many seconds later as have
// passed since.
//
// # Bound
//
// While nodes decide by themselves nobody knows the sum. Over any interval all
// nodes together admit at most (1 + the sum of their shares) x the limit: 1.8 x
// where all learned the same number of nodes, and never more than 1 + 0.8 x
// nodes, as a node that was cut off when it was alone keeps a share of 0.8. See
// [Store.Bound]. Limits for which that is too much are closed.
package guard
