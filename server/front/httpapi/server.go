package httpapi

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// writeTimeout is longer than readTimeout, so that a body that is too slow gets
// its answer, and longer than requests wait behind a proxy: forwardauth does not
// ask for more time.
const (
	readTimeout  = 10 * time.Second
	writeTimeout = 15 * time.Second
)

// MaxConns is the usual bound on connections.
const MaxConns = 10_000

// NewServer returns a server for the door with the time-outs and bounds that
// keep slow and greedy clients from holding it. BaseContext and Addr are left
// to the caller; the number of connections is bounded by the listener, see
// [Bound].
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

// Listener bounds the connections that are open at one time. One too many is
// accepted and closed: its client learns at once that it must go elsewhere.
// Left in the kernel's queue it would be answered when it has long given up,
// and be charged for that.
type Listener struct {
	net.Listener
	most    int64
	open    atomic.Int64
	refused atomic.Uint64
}

// Bound returns l with at most the given number of open connections; 0 means
// [MaxConns].
func Bound(l net.Listener, most int) *Listener {
	if most == 0 {
		most = MaxConns
	}
	return &Listener{Listener: l, most: int64(most)}
}

// Open returns the number of connections that are open.
func (l *Listener) Open() int { return int(l.open.Load()) }

// Refused returns the number of connections that were one too many.
func (l *Listener) Refused() uint64 { return l.refused.Load() }

// Accept returns the next connection within the bound.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.most {
			return &conn{Conn: c, listener: l}, nil
		}
		l.open.Add(-1)
		l.refused.Add(1)
		c.Close()
	}
}

// conn is a connection that is counted until it is closed.
type conn struct {
	net.Conn
	listener *Listener
	once     sync.Once
}

// Close closes the connection.
func (c *conn) Close() error {
	c.once.Do(func() { c.listener.open.Add(-1) })
	return c.Conn.Close()
}

// CloseWrite ends what is sent. net/http does so before it closes a connection
// of which it has not read everything: the answer would be lost otherwise.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}
