// Package grpcgate lets a gate decide the calls of a grpc-go server by a whole
// policy.
//
//	g, err := gate.Open(ctx, gate.Config{PolicyFile: "headgate.yaml", Store: memstore.New(memstore.Config{})})
//	if err != nil {
//		return err
//	}
//	limits := grpcgate.NewServer(g, grpcgate.ServerConfig{Application: "shop"})
//	server := grpc.NewServer(
//		grpc.ChainUnaryInterceptor(limits.Unary),
//		grpc.ChainStreamInterceptor(limits.Stream),
//	)
//
// A Client of package client in place of the gate lets a server decide. It sends all
// metadata there, authorization too: use TLS. The functions of package grpclimit that
// find a key, such as ByMetadata, fit ServerConfig.Key.
//
// # What the policy sees
//
// A call is a request with method POST, the full name of the method as its path, such
// as /package.Service/Method, and :authority as its host. Its metadata are the header
// fields, x-api-key as X-Api-Key; binary ones, which end in -bin, are left out. A call
// is at fault whose metadata is larger than 32 KiB without the binary ones, each value
// counted with its name and 32 bytes.
//
// x-forwarded-for and x-real-ip are believed from trusted proxies only, and so are
// metadata and cookies that tell who is limited, unless they are known_only, or by
// which plan. To other parts of a policy all are shown, whoever sent them. A connection
// without an IP address, such as a pipe in memory, is no proxy's, and its calls have no
// address: set ServerConfig.Key.
//
// A stream is decided once, when it opens. Its messages are not: a policy's rule stands
// for a call, with its slots and its place in line. Let a Server of package grpclimit
// with MessageCost stand behind this one where messages count.
//
// # What a call is answered
//
//	RESOURCE_EXHAUSTED  a limit, a ban or the end of waiting refuses
//	INVALID_ARGUMENT    the cost can never pass, or the call is at fault: no key
//	                    that its limits need, a malformed x-forwarded-for
//	PERMISSION_DENIED   the deny list refuses, or no rule lets it pass
//	UNAVAILABLE         nobody would pass, as the store is away or full, or the
//	                    engine could not decide
//	INTERNAL            the policy or the program is at fault: an application or
//	                    a plan that the policy does not have, a failing Key
//
// The message of a refusal is that of its rule. Details, and the trailer
// grpc-retry-pushback-ms, are those of package grpclimit. Every answer tells of the
// limits that are the subject's own in ratelimit-policy and ratelimit or what else the
// application wants, and has headgate-reason, -limit, -degraded and -decision-id: in
// the header of an answer with a message, in the trailer of one with an error. Servers
// behind each other each add theirs.
//
// Faults end a call whatever FailOpen says: a typo never means "allow". Causes are told
// to OnError, not to the client.
//
// # Waiting and slots
//
// A call that its rule lets wait in line, or that a leaky bucket delays, waits before
// the handler runs, as long as ServerConfig.WaitCap and its deadline allow. When the
// client leaves it waits no longer and holds nothing.
//
// Slots of concurrency limits are held until the handler has returned or panicked, for
// a stream as long as it lasts, also where the client has left. They are renewed as
// long as it runs. A process that dies leaves them to their TTL, and so does a Client
// whose caller leaves in the moment between the server's answer and its arrival.
//
// # Clients
//
// [Outgoing] lets the policy decide calls that a program makes.
package grpcgate
