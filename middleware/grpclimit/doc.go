// Package grpclimit limits the calls of a grpc-go server, and those that a
// client makes.
//
//	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerMinute(60).WithBurst(10))
//	limits := grpclimit.NewServer(lim, grpclimit.ServerConfig{})
//	server := grpc.NewServer(grpc.ChainUnaryInterceptor(limits.Unary), grpc.ChainStreamInterceptor(limits.Stream))
//
// Every call is charged to its client, an IP address unless ServerConfig.Key
// says otherwise; a stream once, when it opens, and with
// ServerConfig.MessageCost also for every message that it receives.
//
// # What a call is answered
//
//	RESOURCE_EXHAUSTED  a limit of the client's refuses
//	INVALID_ARGUMENT    the cost is more than the limit can ever hold, or the
//	                    call is at fault: no key, a malformed x-forwarded-for
//	UNAVAILABLE         the store could not decide, or nobody would pass
//	INTERNAL            the program is at fault: an unknown plan, a failing Key
//
// A refusal carries the details QuotaFailure, with a violation for each limit
// that refuses, RetryInfo, unless it can never pass, and ErrorInfo of the domain
// "headgate", whose reason is that of the decision in capitals. Nothing in them
// tells the key, which may be a secret. The trailer grpc-retry-pushback-ms says
// the wait to clients with a retry policy; it is -1, do not retry, where the call
// can never pass or the wait is longer than ServerConfig.MaxRetryHint.
//
// Every answer tells of the limits in ratelimit-policy and ratelimit
// (draft-ietf-httpapi-ratelimit-headers-11). They are in the header of an answer
// with a message and in the trailer of one with an error: a client does not
// retry what has begun with a header, so an error must not come with one. For
// that reason they are set when the handler of a unary call has returned, and in
// a stream with the first message. A handler that calls grpc.SendHeader itself
// moves them to the trailer.
//
// # When nothing could be decided
//
// A store that cannot be reached or is full is not a reason to let everybody
// in: the call is answered with UNAVAILABLE. FailOpen chooses the other way for
// limits that are a courtesy. Either is said in headgate-degraded and told to
// OnError; of a message that passes so OnError alone is told. Faults of the call or of the program end it whatever FailOpen says: a
// typo never means "allow".
//
// # Concurrency limits
//
// A limiter with a concurrency limit holds a slot until the call has ended: its
// handler has returned or panicked, or, on the client's side, the answer or the
// end of the stream is there. Give the limit a TTL longer than the longest
// stream: after it the slot frees itself. A leaky bucket's delay is waited for
// before the handler runs; a call that cannot wait so long has spent its token.
//
// # Clients
//
// [Client] keeps a program within what it may ask of others: calls wait for its
// limiter, or fail before anything is sent. With ClientConfig.MaxPause it also
// heeds a server that says when to come back, so that a thousand calls do not
// learn it one by one. [NewClientOver] lets a policy decide in a limiter's place,
// with a budget such as that of package grpcgate.
package grpclimit
