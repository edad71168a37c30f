package resp

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/internal/faultlog"
)

// ErrClosed is returned by [Server.Serve] after [Server.Shutdown].
var ErrClosed = errors.New("resp: server closed")

// Server is a door. Make one with [New].
type Server struct {
	Config
	began   time.Time
	life    context.Context // of all connections
	end     context.CancelFunc
	closing atomic.Bool
	numbers atomic.Uint64 // of connections, as CLIENT ID says them
	faults  faultlog.Faults
	refused atomic.Uint64
	turns   chan struct{} // of clients that ask without a pause

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	drained   chan struct{} // closed when the last connection has gone after closing
}

// New returns a door. Panics if c has no Gate.
func New(c Config) *Server {
	if c.Gate == nil {
		panic("resp: Config without Gate")
	}
	s := &Server{
		Config: c.withDefaults(), began: time.Now(), listeners: make(map[net.Listener]struct{}), conns: make(map[*conn]struct{}),
		drained: make(chan struct{}), turns: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)),
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Open returns the number of connections.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Refused returns the number of connections that were one too many.
func (s *Server) Refused() uint64 { return s.refused.Load() }

// Serve accepts connections until [Server.Shutdown], after which it returns
// ErrClosed, or until the listener fails. It closes the listener. Connections with
// TLS are those of [tls.NewListener].
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		return ErrClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	var pause time.Duration
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.welcome(nc)
		case s.closing.Load():
			return ErrClosed
		case !passes(err):
			return err
		default:
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.Logger.Warn("a connection could not be accepted", "error", err, "again in", pause)
			select {
			case <-time.After(pause):
			case <-s.life.Done():
			}
		}
	}
}

// passes reports whether an error of Accept goes by: it is of one connection, or
// there are too many files open.
func passes(err error) bool {
	var passing interface{ Temporary() bool }
	return errors.As(err, &passing) && passing.Temporary()
}

var tooMany = []byte("-ERR max number of clients reached\r\n")

// welcome starts a connection.
func (s *Server) welcome(nc net.Conn) {
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		nc.Close()
		return
	}
	if len(s.conns) >= s.MaxConns {
		s.mu.Unlock()
		s.refused.Add(1)
		if _, encrypted := nc.(*tls.Conn); !encrypted {
			nc.SetWriteDeadline(time.Now().Add(time.Second))
			nc.Write(tooMany)
		}
		nc.Close()
		return
	}
	c := newConn(s, nc)
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	go func() {
		defer s.goodbye(c)
		c.serve()
	}()
}

// goodbye ends a connection, also one that a panic has ended.
func (s *Server) goodbye(c *conn) {
	if p := recover(); p != nil {
		s.Logger.Error("panic in a command", "peer", c.peer, "panic", p, "stack", string(debug.Stack()))
		s.Panicked()
	}
	c.nc.Close()
	c.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.drainedLocked()
}

// drainedLocked tells Shutdown that nobody is left.
func (s *Server) drainedLocked() {
	if !s.closing.Load() || len(s.conns) > 0 {
		return
	}
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}

// Shutdown accepts no more connections, answers what was read, and waits until
// all connections are closed. When ctx ends before that, requests that still wait in
// line are ended and their clients told so; half a second later what is left is
// closed. The error is that of ctx then.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing.Store(true)
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.nc.SetReadDeadline(longAgo)
	}
	s.drainedLocked()
	s.mu.Unlock()
	defer s.end()
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
	}
	s.end()
	select {
	case <-s.drained:
		return ctx.Err()
	case <-time.After(2 * farewell):
	}
	s.mu.Lock()
	for c := range s.conns {
		c.nc.Close()
	}
	s.mu.Unlock()
	<-s.drained
	return ctx.Err()
}

// longAgo ends reads that are under way.
var longAgo = time.Unix(1, 0)
