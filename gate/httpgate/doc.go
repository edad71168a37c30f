// Package httpgate lets a gate decide the requests of a net/http server by a whole
// policy.
//
//	g, err := gate.Open(ctx, gate.Config{PolicyFile: "headgate.yaml", Store: memstore.New(memstore.Config{})})
//	if err != nil {
//		return err
//	}
//	limited := httpgate.New(g, httpgate.Config{Application: "shop"})
//	mux.Handle("/api/", limited(api))
//	return http.ListenAndServe(address, mux)
//
// A Client of package client in place of the gate lets a server decide. It sends all
// header fields there, Authorization and Cookie too: use TLS. The functions of package
// httplimit that find a key, such as ByHeader, fit Config.Key.
//
// X-Forwarded-For and X-Real-IP are believed from trusted proxies only, and so are header
// fields and cookies that tell who is limited, unless they are known_only, or by which
// plan. To other parts of a policy all fields are shown, whoever sent them.
//
// # Answers
//
// What passes and what does not carries the same header fields: those of the rate limit
// conventions that the application wants, Headgate-Reason, -Limit, -Degraded and
// -Decision-Id, and Retry-After. A refusal is written as the client's Accept asks:
// application/problem+json (RFC 9457), which is the default, text/html, which says when to
// come again too, or text/plain. It carries the rule's message, and the status 429 for
// limits, bans and the end of waiting, 422 for a cost that can never pass, 403 for the deny
// list and where no rule lets it pass, and 503 where the policy refuses because the store is
// away or full, or the engine cannot decide.
//
// A request that is at fault is answered with 400, such as one with a malformed
// X-Forwarded-For, or without the key that its limits need, or with a path that has a
// segment . or .. in any spelling: rules are found by the path to which it leads, and
// handlers perhaps by another one. An escaped slash is a slash to rules; where a router
// takes it for a letter, match with {name...}. Faults of the policy and the
// program are answered with 500, and so is an application that the policy does not have.
//
// # Whose fields go out
//
// A handler, such as a reverse proxy, cannot change or take away what was set here.
// RateLimit and RateLimit-Policy are lists: what the handler adds stands behind ours. Of
// the fields that hold one value ours goes out. Those of conventions that are not sent
// here are the handler's. Where the handler is another httpgate its decision came later,
// and the fields that hold one value are its own. Over a connection that it took over a
// handler writes what it likes.
//
// # Waiting and slots
//
// A request that its rule lets wait in line, or that a leaky bucket delays, waits before
// the handler runs, as long as Config.WaitCap allows. When the client leaves it waits no
// longer and holds nothing.
//
// Slots of concurrency limits are held until the handler has returned or panicked, also
// where it took over the connection or the client has left: a handler that serves a
// WebSocket holds its slot until it returns. They are renewed as long as it runs. A
// process that dies leaves them to their TTL, and so does a Client whose caller leaves in
// the moment between the server's answer and its arrival.
package httpgate
