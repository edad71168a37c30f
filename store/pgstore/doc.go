// Package pgstore keeps limits in PostgreSQL 15 or later. Package cas decides, in
// Go; what it decides is written by one statement for many
// callers, where nobody else has changed the state meanwhile.
//
// Clock: the server's decides, read after what is to be written is locked.
//
// Incarnations: a server that was promoted, or restored from a dump, may lack
// charges. Every connection is checked when it is made: where the server shows
// another timeline or system identifier than the database's own epoch says, limits
// start empty, and calls that were decided under the epoch before are refused. A
// server that was only killed and started again has lost nothing, unless
// synchronous_commit or fsync is off: then each start, and each crash, is another
// incarnation. All nodes must have the same setting of synchronous_commit.
//
// A copy of a running server's files that is started without a recovery from an
// archive has the same timeline and is not noticed. Nor is a server to which a pooler
// moves a connection that stands: a pooler must be in front of one server only, and
// in session mode.
package pgstore
