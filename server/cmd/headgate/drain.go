package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/front/httpapi"
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

// door is a server and where it listens.
type door struct {
	name     string
	listener net.Listener
	server   *http.Server
}

// errStopping is what requests that still wait in line near the end of the
// drain are told.
var errStopping = &headgate.Error{Code: headgate.Closed, Err: errors.New("the server is stopping")}

// serveUntil serves until ctx ends, then sends clients away and lets requests
// end, for as long as drain. Those that wait in line may do so for nine tenths
// of it, and are answered then. If a door fails, all are closed.
func serveUntil(ctx context.Context, doors []door, drain time.Duration, log *slog.Logger) error {
	requests, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	conns := make([]*connections, len(doors))
	failed := make(chan error, len(doors))
	for i, d := range doors {
		d.server.BaseContext = func(net.Listener) context.Context { return requests }
		conns[i] = newConnections(d.server)
		go func() {
			if err := d.server.Serve(httpapi.Bound(d.listener, 0)); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", d.name, err)
				return
			}
			failed <- nil
		}()
		log.Info("listening", "door", d.name, "address", addressOf(d.listener))
	}
	select {
	case err := <-failed:
		for _, d := range doors {
			d.server.Close()
		}
		for range len(doors) - 1 {
			<-failed
		}
		return err
	case <-ctx.Done():
	}
	log.Info("stopping", "because", context.Cause(ctx))
	var stops sync.WaitGroup
	for i, d := range doors {
		stops.Go(func() { stop(d, conns[i], drain, cut, log) })
	}
	stops.Wait()
	for range doors {
		<-failed
	}
	log.Info("stopped")
	return nil
}

// stop ends one door.
func stop(d door, conns *connections, drain time.Duration, cut context.CancelCauseFunc, log *slog.Logger) {
	conns.sendAway(min(farewell, drain/10))
	if err := turnAway(d.listener); err != nil {
		log.Warn("clients that connect now may be cut off", "door", d.name, "error", err)
	}
	waiting := time.AfterFunc(drain/10*9, func() { cut(errStopping) })
	defer waiting.Stop()
	ending, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if err := d.server.Shutdown(ending); err != nil {
		log.Warn("requests were cut off", "door", d.name, "error", err)
		d.server.Close()
	}
}

func addressOf(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return l.Addr().String()
}
