package headgate

import (
	"context"
	"time"
)

// Authority is what a store offers to leases: it hands out tokens of its limits
// to holders, which then spend them without asking. Every counter is cumulative
// and only grows, so that lost, repeated and reordered messages do no harm, and
// the authority never takes tokens back by time: a holder that is silent has
// spent them or lost them.
//
// What may be leased: token buckets, fixed windows and quotas whole, a sliding
// window of several slices until the end of its slice. Never: leaky buckets,
// classic sliding windows, sliding logs, concurrency. Of a Ban, a lease is the
// word that the owner is not banned.
//
// An Authority is safe for concurrent use.
type Authority interface {
	Store
	// Acquire settles what each request reports and grants what it can. It
	// fills replies, which has the length of requests; each pair stands for
	// itself, there is no atomicity across them. To return tokens, raise
	// Returned and Settled and want 0. The error means that nothing is known of
	// any of them; sending the same requests again is safe.
	Acquire(ctx context.Context, requests []LeaseRequest, replies []LeaseReply) error
}

// Epoch is one incarnation of a store: another one may have lost writes.
type Epoch struct {
	// ID differs between incarnations; 0 is none. Below 2^53.
	ID uint64
	// Since is the instant, in microseconds since the Unix epoch on the store's
	// clock, before which tokens of an earlier incarnation may still be spent.
	// Buckets start empty there. 0 for the first incarnation.
	Since int64
}

// LeaseRequest reports what a holder did with one budget and asks for more.
type LeaseRequest struct {
	Limit *Prepared
	Owner string
	// Holder is unique to a process, its incarnation and this budget's lease;
	// never reused, never carried over to another epoch or window.
	Holder [2]uint64
	// Epoch and Window are those under which the holder was granted what it
	// has; both 0 with its first request.
	Epoch  uint64
	Window int64
	// Granted, Settled and Returned are cumulative tokens: what the holder was
	// given as far as it knows, what of it is spent, dropped or returned, and
	// what of it is returned. Returned <= Settled <= Granted.
	Granted, Settled, Returned int64
	// Want and Min are the tokens asked for, and the fewest that are of use.
	Want, Min int64
	// Floor is the highest count that the holder has seen of the window
	// FloorWindow: after a store lost writes it counts at least that.
	Floor, FloorWindow int64
}

// LeaseStatus says how an authority took a request.
type LeaseStatus uint8

// The statuses.
const (
	// LeaseOK: settled, and possibly granted.
	LeaseOK LeaseStatus = iota
	// LeaseStale: epoch or window is not the present one, which the reply
	// names. What the holder has left is void.
	LeaseStale
	// LeaseUnknownHolder: the authority has forgotten this holder, or knows
	// less of it than it does itself. It must start anew under another Holder.
	LeaseUnknownHolder
	// LeaseFailed: as if Acquire had failed, for this request alone. The rest of
	// the reply says nothing.
	LeaseFailed
)

// LeaseReply is the answer to one LeaseRequest.
type LeaseReply struct {
	Status LeaseStatus
	Epoch  uint64
	// Window names the window, slice or period that is current; 0 for buckets.
	// It grows with time.
	Window int64
	// Granted is the cumulative total. What exceeds the request's Granted is
	// new, and was also answered to any lost reply before. For a Ban it is the
	// request's Granted plus Want if the owner is not banned.
	Granted int64
	// TTL counts from when the holder sent the request, on its own clock.
	TTL time.Duration
	// WindowLeft is the time until the window or slice ends; 0 for buckets.
	WindowLeft time.Duration
	// Count is what the window has used, the next request's Floor.
	Count int64
	// Holders is how many holders have asked lately, this one included.
	Holders int
	// State is what a Peek of Min tells after the grant; State.Remaining is
	// what the authority has left beside all leases.
	State Outcome
}

// Census is implemented by stores that can count the nodes that share them.
type Census interface {
	// Nodes notes that node lives for another ttl, at most a minute, and returns
	// how many nodes live by the store's clock, this one included. With a ttl of
	// 0 the node is gone, and the others are counted.
	Nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (int, error)
}
