package front

import (
	"net"
	"sync"
	"sync/atomic"
)

// MaxConns is the usual bound on connections.
const MaxConns = 10_000

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

// RemoteAddr is the address of the peer. On a unix socket it says nothing: a client may
// bind its own to a file that is called like an address.
func (c *conn) RemoteAddr() net.Addr {
	a := c.Conn.RemoteAddr()
	if a.Network() == "unix" {
		return &net.UnixAddr{Net: "unix"}
	}
	return a
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
