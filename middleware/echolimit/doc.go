// Package echolimit limits the requests of an echo server, version 5.
//
//	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerMinute(60).WithBurst(10))
//	e := echo.New()
//	e.Use(middleware.RequestLogger(), middleware.Recover())
//	e.Use(echolimit.New(lim, echolimit.Config{
//		Skip: func(c *echo.Context) bool { return c.Path() == "/health" },
//	}))
//	e.GET("/api/items/:id", show)
//
// [New] is httplimit.New with functions over *echo.Context; what it answers, and when,
// stands in the documentation of package httplimit. [Wrap] lets any net/http middleware
// stand in an echo chain, such as that of package gate/httpgate, which decides by a whole
// policy, in this process or on a server.
//
// A refused request is answered here and not by echo's error handler, unless
// Config.OnLimited returns an error. Slots of concurrency limits are held until the next
// handler has returned or panicked; a panic passes on to echo's Recover, which should
// stand further out. An error of the next handler is returned as it is.
//
// # Client addresses
//
// Without Config.Key a request is charged to the address that httplimit.ByIP finds, with
// proxies on loopback. c.RealIP is left aside: it is what the server's IPExtractor makes
// of the request, and does not take IPv6 by /64. For proxies elsewhere say
//
//	Key: echolimit.ByRequest(httplimit.ByIP(trusted))
package echolimit
