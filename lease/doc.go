// Package lease decides requests on hot budgets without asking the store that
// keeps them. A holder is granted tokens by a [headgate.Authority], spends them
// locally, and reports what it spent; the authority has charged them beforehand,
// so nothing is ever admitted that was not debited.
//
// # What is decided locally
//
// A Take without Hold, HoldFor, Key and Now, of 1 to 20 charges, shadows and
// parents among them, if each of its budgets is leased and enough of each is
// left: then it takes from all of them. Otherwise the batch goes to the
// authority as it is, whole. A refusal always comes from the authority, so near
// the limit every request asks it, and answers are exact but for what other
// holders have out.
//
// A budget is leased when this process charges it about 20 times a second
// (Config.Hot), in batches whose other budgets are hot or leased too and of which
// all can be leased (algo.Leasable): token buckets, fixed windows, sliding windows
// of several slices and quotas with a capacity of 1,000 or more. Of a ban the
// lease is the word that the owner is not banned, which holds for a lease's life.
// Rates of budgets that are not leased are counted in fixed memory, so a flood of
// keys costs nothing and hides nothing.
//
// # States
//
// A [Lease] is what was granted under one id, which is never used again:
//
//	new    no reply yet; nothing can be spent
//	live   before the deadline: left tokens are spent
//	spent  past the deadline: what is left is given back with the next report;
//	       a reply makes it live again
//	ended  the window is over, or the authority answered that it has another
//	       epoch or window, or does not know the id: what is left is void, and
//	       another lease is new under another id
//
// A [Holder] goes from lease to lease. It and Lease are pure: they have no clock,
// no I/O and no locks, and the simulation in leasesim drives just them.
// Taking is one compare-and-swap. A batch looks at all its leases and then takes
// from each; if another batch was faster at one of them, what was taken from those
// before goes back to the authority, never into the lease, because a report may
// have said that it is settled.
//
// # Invariants
//
// At any time:
//
//	I1  admitted <= debited: tokens come from grants only, a grant is counted
//	    once however often its reply comes, and each token is spent once.
//	I2  debited in any interval <= burst + rate x time, or the count of a window:
//	    the authority's rules. Returns are told truthfully: what is returned left
//	    the lease before, and returned <= settled <= granted in every report, none
//	    of which ever falls.
//	I3  admitted in any interval <= burst + rate x time, or the count of a
//	    window: what is out does not refill at the authority, and is spent before
//	    the authority stops counting it as out, and within its window.
//
// I1 and I2 need no timing. I3 needs that a deadline is kept: it counts from when
// the request was sent, on the holder's own clock and 1/1,024 early, for clocks
// that differ in rate; it is at most the lease's life and the end of the window,
// as the latest reply told it. The clock is the monotonic one, and the wall clock
// wherever that is ahead of it, so that it goes on while the machine sleeps.
// A process that stands still between looking at the clock and taking may shift
// what it takes then, one request for each of its goroutines, to when it wakes.
//
// # Failures
//
//	reply lost, repeated, late   cumulative counters settle it; what comes after
//	                             its deadline is given back
//	holder crashes               its tokens are lost: a bucket refills them, a
//	                             window has them again when it rolls
//	authority away               leases are spent until their deadline, then
//	                             every request gets the authority's error; asking
//	                             for leases backs off up to a lease's life
//	authority lost writes        the epoch differs: leases are void. The highest
//	                             count seen of a window is reported as its floor
//	window rolls                 its leases are void
//	other numbers                nothing leased under the old ones is spent; it
//	                             is given back under the new ones
//	reset                        what is leased is given back; what was spent
//	                             of it since the last report stays used
//	wall clock set forward       leases end early, once
//
// # What it costs
//
// While leases are out, a refusal may be early by what other holders have out: at
// most a fifth of the capacity, for at most a lease's life, and Outcome.Leased
// says so. A lease is sized to last for Config.Horizon (100 ms) at the present
// rate and is filled up when about half of that is left, so a process has out at
// most what it spends in 1.5 horizons and the time the authority takes to answer;
// where requests are few, what 16 of them cost or 5 horizons, whichever is less.
// That is what a crash forfeits, and a window what of it was left at its end. A
// lease that nobody uses for half its life (500 ms) is returned, and so is
// everything at Close.
//
// The authority gets about one request per horizon, process and hot budget,
// however high the rate: up to 512 of them in a call, one call at a time, up to
// four if calls are slow. When it grants nothing it is asked again after 25 ms,
// then after twice that, up to a lease's life.
//
// # Answers
//
// The outcomes of a local decision are what the authority last told and what is
// left here: Remaining is a lower bound. ResetAfter of a bucket counts from that,
// as if nobody else came. Batch.At is on the authority's clock, estimated from its
// latest answer.
package lease
