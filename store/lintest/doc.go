// Package lintest checks that a store is linearizable: that whatever its clients
// saw of batches that ran at once could have been seen had the batches run one
// after the other, each at some instant between its call and its answer.
//
// A history is what 16 clients did and saw, on budgets of which nothing comes
// back while it runs. The specification of a budget of capacity C, of which U is
// used, is then:
//
//	take of c   if U + c <= C for each budget of the batch, U becomes U + c for
//	            each and the batch is allowed; else nothing changes and it is
//	            refused. Either way the answer tells U as it then is, and for
//	            each budget whether it would have let c pass.
//	peek of c   tells the same and changes nothing.
//
// An operation that ends in an error is unknown. An unknown peek says nothing.
// An unknown take may have been refused, or may take effect at any instant after
// its call, once, and for all budgets of its batch at once. Nobody was let pass
// by it, so a store may give back what it charged: for a window or a quota any
// instant after the call will do, and it may be charged again; what a bucket is
// charged stays charged.
//
// With leases ([Config.Leased]) the nodes answer from what they were granted, and
// less is promised. With A the sum of what was allowed of a budget so far:
//
//	take of c   is allowed only if A + c <= C for each budget of the batch; A
//	            becomes A + c. It may be refused early, but only if A + c + E > C
//	            for one of them, E being what leases may hold or have lost
//	            ([Subject.Slack]), and what unknown takes may have taken.
//
// and when the nodes are closed, the store itself has A <= U <= C, what was
// admitted being charged, and U = A if nothing was unknown or lost.
//
// The cost of a take names it: costs are powers of 256, no two kinds of takes
// share a budget and a cost, and fewer than 256 are of one kind. So the digits
// of an observed U, to base 256, tell how many takes of each kind are in effect,
// known and unknown, and the search has hardly anything to guess. Trying subsets
// of the unknown takes would not end.
package lintest
