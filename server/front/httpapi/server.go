package httpapi

import (
	"log/slog"
	"net/http"
	"time"
)

// writeTimeout is longer than readTimeout, so that a body that is too slow gets
// its answer, and longer than requests wait behind a proxy: forwardauth does not
// ask for more time.
const (
	readTimeout  = 10 * time.Second
	writeTimeout = 15 * time.Second
)

// NewServer returns a server for the door with the time-outs and bounds that
// keep slow and greedy clients from holding it. BaseContext and Addr are left
// to the caller; the number of connections is bounded by the listener.
//
// Headers may be larger than what nginx lets through by default (32 KiB): a
// proxy that passes on the headers of a client would take our refusal to read
// them for a failure, and where it then lets requests pass, the client would.
//
// HTTP/2 is off, with TLS too: a connection would carry hundreds of requests
// past the bound on connections, and those it resets at once would be charged.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
