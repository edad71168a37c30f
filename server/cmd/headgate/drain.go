package main

import (
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

const (
	// farewell is how long clients are told that their connection ends before
	// it does.
	farewell = time.Second
	// lastCalls is how long the connections that have begun may take to come
	// in before the listener is closed.
	lastCalls = 100 * time.Millisecond
)

// connections counts the open connections of a server and can send clients
// away.
//
// A client that keeps its connection may write the next request at any time,
// also in the moment in which Shutdown closes the connection because it is
// idle; the request is then lost. So each one is answered with Connection:
// close first. SetKeepAlivesEnabled does not do: it closes idle ones at once.
type connections struct {
	open   atomic.Int64
	ending atomic.Bool
	none   chan struct{}
}

// newConnections wraps the handler of a server that does not serve yet.
func newConnections(server *http.Server) *connections {
	c := &connections{none: make(chan struct{}, 1)}
	h := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.ending.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
	server.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			c.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			if c.open.Add(-1) == 0 && c.ending.Load() {
				c.leave()
			}
		}
	}
	return c
}

func (c *connections) leave() {
	select {
	case c.none <- struct{}{}:
	default:
	}
}

// sendAway answers with Connection: close from now on, and returns when no
// connection is open, at the latest after the given time.
func (c *connections) sendAway(within time.Duration) {
	c.ending.Store(true)
	if c.open.Load() == 0 {
		return
	}
	select {
	case <-c.none:
	case <-time.After(within):
	}
}

// turnAway removes the path of a unix socket, so that nobody connects any more,
// and gives those who have the time to come in: the kernel resets what a closed
// listener has not accepted, and clients that were sent away connect again at
// once. TCP knows no such way; there a new connection may be reset in the
// moment of the stop.
func turnAway(l net.Listener) error {
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil
	}
	u.SetUnlinkOnClose(false) // by then the path may be the next server's
	if err := os.Remove(u.Addr().String()); err != nil {
		return err
	}
	<-time.After(lastCalls)
	return nil
}
