// Package dynamostore keeps limits in a table of Amazon DynamoDB. Package cas
// decides, in Go, and what it decides of an owner is written by one conditional
// write, where nobody else has changed the state meanwhile. It was tested on a local
// server that speaks DynamoDB's protocol, and not on AWS.
//
// # Clock
//
// The service tells no time in its answers but the second, so the clock is the
// node's: a decision is made at the later of the node's instant and that of the last
// decision on the same item. A node whose clock is ahead of the others' admits at
// most rate x skew more than the limit, once. Every answer's date is compared with
// the node's clock. Where both are certainly more than [MostSkew] apart, Open refuses
// and calls fail until they are not; because dates are whole seconds, that can take
// a second to notice, and what a round trip leaves open cannot be noticed.
//
// # Several owners
//
// There are no transactions here. What package cas says of items apart holds: a
// request that charges several owners looks at all of them first, and takes from the
// subject first and from the widest last. A crash in between loses at most what was
// in flight.
//
// # Incarnations
//
// The service loses no writes. A table that was deleted and created or restored again
// is another incarnation for the nodes that remember the one before, and for those
// who find another table's mark in it: limits start empty.
//
// # Retention
//
// Items that are over count as absent whether they are there or not. They are deleted
// by the service, for nothing, where the table's time to live is enabled on the
// attribute x, as it is in tables that this package creates; elsewhere they stay
// until their owner comes again. No job of ours deletes them: it would have to read
// the whole table.
package dynamostore
