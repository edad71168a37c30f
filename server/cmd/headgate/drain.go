package main

import (
	"context"
	"crypto/tls"
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
	"github.com/headgate/headgate/server/front"
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
	tls      *tls.Config // nil for none, and where the server does it
	bounded  bounded     // who bounds its connections: the service, or a front.Listener around this one, which nil is made to
	service  service
}

// bounded knows how many connections there are, and how many were one too many.
type bounded interface {
	Open() int
	Refused() uint64
}

// service answers what comes in at a listener.
type service interface {
	// serve returns nil after stop or close, and an error before. HTTP requests get
	// contexts that end with ctx.
	serve(ctx context.Context, l net.Listener) error
	// leave asks clients to go elsewhere, and gives them so long where they can be asked.
	leave(within time.Duration)
	// stop lets the requests that have begun end, and returns an error where ctx ended
	// first.
	stop(ctx context.Context) error
	// close cuts all off.
	close()
}

// httpServer is a server of HTTP. conns is there once it serves.
type httpServer struct {
	*http.Server
	conns *connections
}

func newHTTPServer(s *http.Server) *httpServer { return &httpServer{s, newConnections(s)} }

func (s *httpServer) serve(ctx context.Context, l net.Listener) error {
	s.BaseContext = func(net.Listener) context.Context { return ctx }
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *httpServer) leave(within time.Duration)     { s.conns.sendAway(within) }
func (s *httpServer) stop(ctx context.Context) error { return s.Shutdown(ctx) }
func (s *httpServer) close()                         { s.Close() }

// lastCalled is ctx for what cuts off by itself who still waits near its end: it ends
// after nine tenths of the time, so that there is some for the answers.
func lastCalled(ctx context.Context) (context.Context, context.CancelFunc) {
	by, _ := ctx.Deadline()
	return context.WithTimeout(ctx, time.Until(by)/10*9)
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
	failed := make(chan error, len(doors))
	for _, d := range doors {
		go func() {
			l := d.listener
			switch b := d.bounded.(type) {
			case nil:
				l = front.Bound(l, 0)
			case *front.Listener:
				l = b
			}
			if d.tls != nil {
				l = tls.NewListener(l, d.tls)
			}
			if err := d.service.serve(requests, l); err != nil {
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
			d.service.close()
		}
		for range len(doors) - 1 {
			<-failed
		}
		return err
	case <-ctx.Done():
	}
	log.Info("stopping", "because", context.Cause(ctx))
	var stops sync.WaitGroup
	for _, d := range doors {
		stops.Go(func() { stop(d, drain, cut, log) })
	}
	stops.Wait()
	for range doors {
		<-failed
	}
	log.Info("stopped")
	return nil
}

// stop ends one door.
func stop(d door, drain time.Duration, cut context.CancelCauseFunc, log *slog.Logger) {
	d.service.leave(min(farewell, drain/10))
	if err := turnAway(d.listener); err != nil {
		log.Warn("clients that connect now may be cut off", "door", d.name, "error", err)
	}
	waiting := time.AfterFunc(drain/10*9, func() { cut(errStopping) })
	defer waiting.Stop()
	ending, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if err := d.service.stop(ending); err != nil {
		log.Warn("requests were cut off", "door", d.name, "error", err)
		d.service.close()
	}
}

// addressOf is where a listener is, as a flag says it; "" for none.
func addressOf(l net.Listener) string {
	if l == nil {
		return ""
	}
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return l.Addr().String()
}
