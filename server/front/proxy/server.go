package proxy

import (
	"log/slog"
	"net/http"
	"time"
)

// The bounds of a listener. The number of connections is bounded by that itself.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 75 * time.Second
	maxHeader         = 16 << 10
	maxStreams        = 100 // of an HTTP/2 connection, at one time
)

// NewServer returns a server for p with the time-outs and bounds that keep slow and
// greedy clients from holding it. Bodies and answers are bounded by [Config.ClientTimeout]
// between two pieces, not as a whole: they stream.
func NewServer(p http.Handler, log *slog.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: p,
		// OPTIONS * would be answered without a decision.
		DisableGeneralOptionsHandler: true,
		Protocols:                    &protocols,
		ReadHeaderTimeout:            readHeaderTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 60 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
