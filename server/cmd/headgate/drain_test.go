package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestStopLosesNoRequest stops a server that busy clients with kept connections
// ask without a pause. Each goes on until it can no longer connect.
func TestStopLosesNoRequest(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "done") })
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			ended := make(chan error, 1)
			go func() {
				ended <- serveUntil(ctx, []door{{name: "http", listener: l, service: newHTTPServer(&http.Server{Handler: h})}}, drain, slog.New(slog.NewTextHandler(t.Output(), nil)))
			}()
			var clients sync.WaitGroup
			var answered, sentAway atomic.Int64
			for range 16 {
				clients.Go(func() {
					transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
					}}
					defer transport.CloseIdleConnections()
					for {
						// POST: the transport would send a GET again by itself.
						req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://server", http.NoBody)
						if err != nil {
							t.Error(err)
							return
						}
						reused := false
						req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
							GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused },
						}))
						resp, err := transport.RoundTrip(req)
						if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
							return
						}
						if err != nil {
							// The kernel resets TCP connections that nobody has accepted.
							if network == "unix" || reused || sentAway.Load() == 0 {
								t.Errorf("a request was lost (connection kept: %v): %v", reused, err)
							}
							return
						}
						body, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err != nil || string(body) != "done" {
							t.Errorf("answer %q, %v", body, err)
						}
						if resp.Close {
							sentAway.Add(1)
						}
						if answered.Add(1) == 1000 {
							stop()
						}
					}
				})
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			clients.Wait()
			if sentAway.Load() == 0 {
				t.Error("no client was told that its connection ends")
			}
		})
	}
}

// TestSendAwayWaits only as long as somebody is there.
func TestSendAwayWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &http.Server{Handler: http.NotFoundHandler()}
		c := newConnections(server)
		sendAway := func(want time.Duration) {
			t.Helper()
			began := time.Now()
			c.sendAway(time.Minute)
			if took := time.Since(began); took != want {
				t.Errorf("took %v, want %v", took, want)
			}
		}
		sendAway(0)
		server.ConnState(nil, http.StateNew)
		time.AfterFunc(time.Second, func() { server.ConnState(nil, http.StateClosed) })
		sendAway(time.Second)
		server.ConnState(nil, http.StateNew)
		sendAway(time.Minute)
	})
}

// TestStopAnswersWaiters stops a server while requests wait for longer than the
// drain: one that looks is told, one that does not is cut off.
func TestStopAnswersWaiters(t *testing.T) {
	entered, never := make(chan struct{}, 2), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		if r.URL.Path == "/deaf" {
			<-never
		}
		<-r.Context().Done()
		io.WriteString(w, context.Cause(r.Context()).Error())
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- serveUntil(ctx, []door{{name: "http", listener: l, service: newHTTPServer(&http.Server{Handler: h})}, {name: "admin", listener: other, service: newHTTPServer(&http.Server{Handler: h})}},
			300*time.Millisecond, slog.New(slog.NewTextHandler(t.Output(), nil)))
	}()
	answers := map[string]chan string{"/": make(chan string, 1), "/deaf": make(chan string, 1)}
	for path, answer := range answers {
		go func() {
			resp, err := http.Get("http://" + l.Addr().String() + path)
			if err != nil {
				answer <- "cut off"
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				body = []byte(err.Error())
			}
			answer <- string(body)
		}()
		<-entered
	}
	stop()
	if got := <-answers["/"]; got != "the server is stopping" {
		t.Errorf("the one that waits got %q", got)
	}
	if got := <-answers["/deaf"]; got != "cut off" {
		t.Errorf("the deaf one got %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(never)
	for _, l := range []net.Listener{l, other} {
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			c.Close()
			t.Errorf("%v still listens", l.Addr())
		}
	}
}

// TestOneDoorFails and takes the others with it.
func TestOneDoorFails(t *testing.T) {
	var ls [2]net.Listener
	for i := range ls {
		var err error
		if ls[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	ls[1].Close()
	err := serveUntil(t.Context(), []door{{name: "http", listener: ls[0], service: newHTTPServer(&http.Server{})}, {name: "admin", listener: ls[1], service: newHTTPServer(&http.Server{})}}, drain, slog.New(slog.DiscardHandler))
	if err == nil || !strings.HasPrefix(err.Error(), "admin: ") {
		t.Errorf("error %v", err)
	}
	if c, err := net.Dial("tcp", ls[0].Addr().String()); err == nil {
		c.Close()
		t.Error("the other door still listens")
	}
}
