// Package proxy forwards HTTP requests to upstreams: HTTP/1.1, HTTP/2 with TLS and
// without, WebSocket, server-sent events, trailers. Whether a request may pass is decided
// by the middleware in [Config.Limit]; this package stands behind it, and before it brings
// a request into the form in which both see it.
//
// # What upstreams see
//
// The path is that by which rules match: escapes decoded once, repeated slashes merged,
// dot segments resolved, and then escaped again as little as it may be. %2F therefore
// arrives as a slash. What an application adds to that by itself, such as matrix
// parameters, is its own affair. Parts of a query that cannot be read are left out, and so
// are fields that Connection names: a rule would see what the upstream does not. Of
// protocols to upgrade to only websocket passes: within others, such as h2c, requests
// would pass that nobody counts. CONNECT is refused, and so is OPTIONS *, which has no path
// to decide by.
//
// X-Forwarded-For, -Host and -Proto are ours; those of a trusted proxy are added to or
// kept. The other fields that say where a request came from, or what it asks for, are
// removed unless a trusted proxy sent them, and Headgate-* always. So is every field whose
// name has more than letters, digits and hyphens: many applications cannot tell X_Api_Key,
// which a rule does not see, from X-Api-Key. Behind a body nothing passes that belongs in
// a header.
//
// # What happens to a request
//
// An [exchange] is one request on its way. One timer holds it to the time-out of whom it
// waits for: the client that sends its body or takes the answer, the upstream that has
// not begun to answer, or either of them after that. When it fires, the upstream's
// connection is given up, and the client's too if it is the client that stalls. A handler
// returns when all is over, so whoever holds something for the life of a request, such as
// the middleware, gives it back then.
//
// A request is sent to a second server if the first could not be connected to and nothing
// was read of the body, and only then. An answer that breaks off aborts the client's: a
// short one would pass for a whole one.
//
// What a server sends beyond the end of an answer would pass for the answer of another
// client, who has the connection next. A [wire] finds the end of each answer. If it reads
// more together with that, or before the next request is written, the connection ends, and
// the next request, which then was not sent, goes to another one. What arrives later than
// that cannot be told from an answer: HTTP/1.1 has no number to match them by. An upstream
// that is not believed so far should speak HTTP/2.
//
// # Which server
//
// A server that cannot be connected to is left alone for a second, then one request tries
// it again; each failure doubles the time up to a minute. Only connections count: a
// request that makes an application hang or crash must not take servers away from others.
// Checks, where there are any, take servers out and bring them back. If no server is left
// all are tried.
package proxy
