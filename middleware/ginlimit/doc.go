// Package ginlimit limits the requests of a gin server.
//
//	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerMinute(60).WithBurst(10))
//	r := gin.New()
//	r.Use(gin.Logger(), gin.Recovery())
//	r.Use(ginlimit.New(lim, ginlimit.Config{
//		Skip: func(c *gin.Context) bool { return c.FullPath() == "/health" },
//	}))
//	r.GET("/api/items/:id", show)
//
// [New] is httplimit.New with functions over *gin.Context; what it answers, and when,
// stands in the documentation of package httplimit. [Wrap] lets any net/http middleware
// stand in a gin chain, such as that of package gate/httpgate, which decides by a whole
// policy, in this process or on a server.
//
// A refused request is answered and aborted: handlers further down do not run, those
// further up go on after their c.Next, and gin's loggers see status and size. Slots of
// concurrency limits are held until the handlers further down have returned or panicked;
// a panic passes on to gin's Recovery, which should stand further up.
//
// # Client addresses
//
// Without Config.Key a request is charged to the address that httplimit.ByIP finds, with
// proxies on loopback. c.ClientIP is left aside: it believes every peer unless
// SetTrustedProxies says otherwise, so each request could bring an address, and a budget,
// of its own; and it does not take IPv6 by /64. For proxies elsewhere say
//
//	Key: ginlimit.ByRequest(httplimit.ByIP(trusted))
package ginlimit
