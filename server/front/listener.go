package front

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// MaxConns is the usual bound on connections.
const MaxConns = 10_000

const (
	// MaxAccepts is how many connections are accepted in a second for each processor, when
	// MaxBurst have come in one go.
	MaxAccepts = 2000
	MaxBurst   = 1000
	// rest is for how long none is accepted then. Timers are no finer.
	rest = 2 * time.Millisecond
)

// Listener bounds the connections that are open at one time. One too many is
// accepted and closed: its client learns at once that it must go elsewhere.
// Left in the kernel's queue it would be answered when it has long given up,
// and be charged for that.
//
// It also bounds how fast they are accepted, by [MaxAccepts]. Where clients come and go
// without end, all processors would always have work that is ready, and what others have
// sent on their connections is looked for when one has none.
type Listener struct {
	net.Listener
	most    int64
	open    atomic.Int64
	refused atomic.Uint64
	every   time.Duration // between connections
	next    time.Time     // the instant of the next one, if they come evenly
}

// Bound returns l with at most the given number of open connections; 0 means
// [MaxConns].
func Bound(l net.Listener, most int) *Listener {
	if most == 0 {
		most = MaxConns
	}
	return &Listener{Listener: l, most: int64(most), every: time.Second / time.Duration(MaxAccepts*runtime.GOMAXPROCS(0))}
}

// Open returns the number of connections that are open.
func (l *Listener) Open() int { return int(l.open.Load()) }

// Refused returns the number of connections that were one too many.
func (l *Listener) Refused() uint64 { return l.refused.Load() }

// Accept returns the next connection within the bound.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		l.pace()
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

// pace rests if connections come too fast. It is called by who accepts, of whom there is
// one.
func (l *Listener) pace() {
	now := time.Now()
	if full := now.Add(-MaxBurst * l.every); l.next.Before(full) {
		l.next = full
	}
	if early := l.next.Sub(now); early > 0 {
		time.Sleep(early + rest)
	}
	l.next = l.next.Add(l.every)
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
