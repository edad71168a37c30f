package grpcapi

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/headgate/headgate/server/front"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// linking are credentials whose connections tell their calls when they have ended.
type linking struct {
	credentials.TransportCredentials
}

// link is what calls know of their connection.
type link struct {
	credentials.AuthInfo
	conn *linked
}

// linked is a connection that remembers that it was closed, and lets others go first after
// each part of what it has always more of.
type linked struct {
	net.Conn
	closed atomic.Bool
	more   bool // the last read has left something, it seems
}

// part is how much is read in one go, which may be some thirty calls. What goes past the
// buffer is one message.
const part = 1 << 10

// ServerHandshake does the handshake of the credentials.
func (l linking) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := l.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	c := &linked{Conn: conn}
	return c, link{info, c}, nil
}

// Clone returns a copy.
func (l linking) Clone() credentials.TransportCredentials {
	return linking{l.TransportCredentials.Clone()}
}

// Read reads.
func (c *linked) Read(p []byte) (n int, err error) {
	if len(p) > buffer {
		return c.Conn.Read(p)
	}
	if c.more {
		front.Yield()
	}
	n, err = c.Conn.Read(p[:min(len(p), part)])
	c.more = n == part
	return n, err
}

// Close closes the connection. The calls on it end after that.
func (c *linked) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// linkedTo reports whether the connection of a call is still there.
func linkedTo(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	l, ok := p.AuthInfo.(link)
	return ok && !l.conn.closed.Load()
}
