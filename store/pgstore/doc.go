// Package pgstore keeps limits in PostgreSQL 15 or later. Package cas decides, in
// Go; what it decides is written by one statement for many
// callers, where nobody else has changed the state meanwhile.
//
// Clock: the server's decides, read after what is to be written is locked.
//
// Incarnations: a server that was promoted, tables that come from a dump, and rows
// that were truncated may lack charges. A row tells the epoch, and of what it is:
// timeline, system identifier, database, and the transaction that wrote it, which
// no restored row has. Server and database are compared when a connection is made,
// row and table by every statement. Where they differ, limits start empty, and calls
// that were decided under the epoch before are refused. A node that has met an epoch
// does not go back to an older one: a connection to a primary that still lives beside
// the one that was promoted is closed. Where new connections lead there, too, that one
// begins anew for this node, and each of the two admits what its nodes ask: fencing is
// up to the operator. A server that was only killed and started again has lost
// nothing, unless synchronous_commit or fsync is off: then each start, and each crash,
// is another incarnation. All nodes must have the same setting of synchronous_commit.
//
// A copy of a running server's files that is started without a recovery from an
// archive has the same timeline and is not noticed. Nor are single rows of
// headgate_item that somebody else deletes or replaces, nor a server to which a pooler
// moves a connection that stands: a pooler must be in front of one server only, and
// in session mode.
package pgstore
