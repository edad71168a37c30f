// Package httplimit limits the requests of a net/http server.
//
//	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerMinute(60).WithBurst(10))
//	mux.Handle("/api/", httplimit.New(lim, httplimit.Config{})(api))
//
// Every request is charged to its client, an IP address unless Config.Key says
// otherwise. A refused one is answered with 429, Retry-After and, as its Accept
// asks, application/problem+json (RFC 9457), which is the default, a page that
// says when to come again, or the text alone; every answer tells of the limits in RateLimit-Policy and
// RateLimit (draft-ietf-httpapi-ratelimit-headers-11).
//
// # When nothing could be decided
//
// A store that cannot be reached or is full is not a reason to let everybody
// in: the request is answered with 503, as most limits stand in front of
// something that the flood would break. Config.FailOpen chooses the other way
// for limits that are a courtesy. Either is said in the answer's
// Headgate-Degraded and told to Config.OnError. Faults of the request (a
// malformed X-Forwarded-For, one that contradicts X-Real-IP, a cost out of
// range) are answered with 400, faults
// of the program (an unknown plan, a failing Key) with 500, whatever FailOpen
// says: a typo never means "allow".
//
// # Concurrency limits
//
// A limiter with a concurrency limit holds a slot until the handler returns or
// panics. Give the limit a TTL longer than the slowest handler: after it the
// slot frees itself. A leaky bucket's delay is waited for before the handler
// runs; a request that ends meanwhile has spent its token, and is answered with
// 503.
//
// # Outgoing requests
//
// [Transport] keeps a program within what it may ask of others: requests wait for
// its limiter, or fail before anything is sent, and servers that say when to come
// back are heeded.
//
//	lim, err := headgate.New(store, headgate.PerSecond(10).WithName("partner"))
//	client := &http.Client{Transport: httplimit.NewTransport(lim, nil, httplimit.TransportConfig{
//		MaxWait: 10 * time.Second, MaxPause: time.Minute, Retries: 2,
//	})}
//
// # Coming from rateguard
//
//	rateguard          here
//	requestsPerMinute  headgate.PerMinute(n)
//	capacity           headgate.PerMinute(n).WithBurst(capacity)
//	store              the first argument of headgate.New: memstore, redisstore, ...
//	identifier         Config.Key: ByIP, ByHeader or a function
//	skip               Config.Skip
//	message            Config.Message
//	admin reset        Limiter.Reset(ctx, key), behind a handler of your own
package httplimit
