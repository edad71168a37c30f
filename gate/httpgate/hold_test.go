package httpgate

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/store/memstore"
)

var clientAddress = netip.MustParseAddr("203.0.113.9")

// used returns how much of the first limit of /target a stranger at 203.0.113.9 has used.
func used(t *testing.T, g *gate.Gate, target string) int64 {
	t.Helper()
	var d gate.Decision
	q := gate.Request{Application: "default", Method: "GET", Path: target, IP: clientAddress, Releases: true}
	if err := g.Peek(t.Context(), &q, &d); err != nil {
		t.Fatal(err)
	}
	return d.Limits()[0].Used
}

// A slot is taken while the handler runs and free again however it ends.
func TestSlotLastsAsLongAsTheHandler(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ended bool
		end   func()
	}{
		{"returns", false, func() {}},
		{"returns, hook", true, func() {}},
		{"panics", false, func() { panic(http.ErrAbortHandler) }},
		{"panics, hook", true, func() { panic(http.ErrAbortHandler) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, c, status := inMemory(t), Config{}, -1
			if tt.ended {
				c.Ended = func(_ *http.Request, by Passed, s int, _ time.Duration) {
					if status = s; by.Rule != "slots" {
						t.Errorf("rule %q", by.Rule)
					}
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			h := New(g, c)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				second := serve(New(g, Config{})(teapot), request("/slots"))
				if second.Code != 429 || second.Header().Get("Headgate-Reason") != "concurrency_exceeded" || used(t, g, "/slots") != 1 {
					t.Errorf("a second request beside the first: got %s", dump(second))
				}
				cancel() // the client leaves before the handler ends
				w.WriteHeader(202)
				tt.end()
			}))
			func() {
				defer func() { recover() }()
				serve(h, request("/slots").WithContext(ctx))
			}()
			if n := used(t, g, "/slots"); n != 0 {
				t.Errorf("%d slots are held", n)
			}
			if want := map[bool]int{true: 202, false: -1}[tt.ended]; status != want {
				t.Errorf("the hook was told %d, want %d", status, want)
			}
		})
	}
}

// TestSlotOfBrokenHook: a hook that panics keeps no slot.
func TestSlotOfBrokenHook(t *testing.T) {
	g := inMemory(t)
	h := New(g, Config{Decided: func(*gate.Decision, time.Duration) { panic(http.ErrAbortHandler) }})(teapot)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		serve(h, request("/slots"))
	}()
	if n := used(t, g, "/slots"); n != 0 {
		t.Errorf("%d slots are held", n)
	}
}

func TestNeverMoreThanSlots(t *testing.T) {
	var running, most, passed atomic.Int64
	g := inMemory(t)
	h := New(g, Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		passed.Add(1)
		running.Add(-1)
	}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				serve(h, request("/slots"))
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 || passed.Load() < 100 || used(t, g, "/slots") != 0 {
		t.Errorf("%d in flight of 1 slot, %d passed, %d held", most.Load(), passed.Load(), used(t, g, "/slots"))
	}
}

// TestRenewal: a handler that runs for longer than the TTL keeps its slot, although its
// client has left and a renewal fails now and then, and no longer than it runs.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inMemory(t)
		renewals := 0
		e := engine{Gate: g, renew: func(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
			if renewals++; renewals%3 != 0 {
				return errors.New("lost on the way")
			}
			return g.Renew(ctx, c, d)
		}}
		var told []error
		ctx, cancel := context.WithCancel(t.Context())
		h := New(e, Config{OnError: func(_ *http.Request, err error) { told = append(told, err) }})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			cancel()
			for range 39 {
				<-time.After(9 * time.Second)
				if n := used(t, g, "/slots"); n != 1 {
					t.Errorf("%d slots are held", n)
				}
			}
		}))
		serve(h, request("/slots").WithContext(ctx))
		if n := used(t, g, "/slots"); n != 0 {
			t.Errorf("%d slots are held", n)
		}
		if renewals != 46 || len(told) != 31 || told[0].Error() != "renew: lost on the way" { // each 7.5 of 351 s
			t.Errorf("%d renewals, told %v", renewals, told)
		}
		<-time.After(time.Hour)
		if renewals != 46 {
			t.Errorf("%d renewals after the end", renewals-46)
		}
	})
}

// TestLostSlot: what is lost is told once, and not asked for again.
func TestLostSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inMemory(t)
		renewals := 0
		e := engine{Gate: g, renew: func(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
			renewals++
			return g.Renew(ctx, c, d)
		}}
		var told []error
		h := New(e, Config{OnError: func(_ *http.Request, err error) { told = append(told, err) }})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			if _, err := g.Reset(t.Context(), "default", "203.0.113.9", func(*gate.LimitState) bool { return true }); err != nil {
				t.Error(err)
			}
			<-time.After(time.Hour)
		}))
		serve(h, request("/slots"))
		if renewals != 1 || len(told) != 1 || !errors.Is(told[0], inlet.ErrLost) {
			t.Errorf("%d renewals, told %v", renewals, told)
		}
	})
}

// TestPartOfTheSlotsLost: what is left is renewed, and the loss is told once.
func TestPartOfTheSlotsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := open(t, `
version: 1
applications:
  default:
    identity: [ip]
    rules:
      - name: two
        match: {path: /two}
        limits: [{name: doors, algorithm: concurrency, max: 1, ttl: 30s}, {name: seats, algorithm: concurrency, max: 1, ttl: 5m}]
`, memstore.New(memstore.Config{MaxBytes: 1 << 20}))
		var told []error
		h := New(g, Config{OnError: func(_ *http.Request, err error) { told = append(told, err) }})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			lose := func(l *gate.LimitState) bool { return l.ID == "two/seats" }
			if _, err := g.Reset(t.Context(), "default", "203.0.113.9", lose); err != nil {
				t.Error(err)
			}
			<-time.After(time.Hour)
			if n := used(t, g, "/two"); n != 1 {
				t.Errorf("%d doors are held", n)
			}
		}))
		serve(h, request("/two"))
		if len(told) != 1 || !errors.Is(told[0], inlet.ErrLost) || used(t, g, "/two") != 0 {
			t.Errorf("told %v, %d are held", told, used(t, g, "/two"))
		}
	})
}

// TestEndWhileRenewing: the end of a handler ends a renewal that is under way, and waits
// for it.
func TestEndWhileRenewing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inMemory(t)
		var renewing, released atomic.Bool
		e := engine{Gate: g,
			renew: func(ctx context.Context, _ *gate.Claim, _ *gate.Decision) error {
				renewing.Store(true)
				<-ctx.Done()
				renewing.Store(false)
				return ctx.Err()
			},
			release: func(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
				if renewing.Load() {
					t.Error("released while it is renewed")
				}
				released.Store(true)
				return g.Release(ctx, c, d)
			},
		}
		h := New(e, Config{OnError: func(_ *http.Request, err error) { t.Error(err) }})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			<-time.After(11 * time.Second)
			if !renewing.Load() {
				t.Error("no renewal is under way")
			}
		}))
		serve(h, request("/slots"))
		if !released.Load() || used(t, g, "/slots") != 0 {
			t.Error("not released")
		}
	})
}

func TestReleaseOutlivesTheClient(t *testing.T) {
	var ended, told error
	e := engine{Gate: inMemory(t), release: func(ctx context.Context, c *gate.Claim, _ *gate.Decision) error {
		ended = ctx.Err()
		return errors.New("lost")
	}}
	ctx, cancel := context.WithCancel(t.Context())
	h := New(e, Config{OnError: func(_ *http.Request, err error) { told = err }})
	serve(h(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel() })), request("/slots").WithContext(ctx))
	if ended != nil || told == nil || told.Error() != "release: lost" {
		t.Errorf("released with %v, told %v", ended, told)
	}
}

// TestUpgrade: a handler that took the connection over holds its slot until it returns,
// which it does when the client has gone.
func TestUpgrade(t *testing.T) {
	g := inMemory(t)
	returned := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = "203.0.113.9:1"
		New(g, Config{})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(conn, rw) // until the client leaves
		})).ServeHTTP(w, r)
		close(returned)
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET /slots HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nping\n")
	lines := bufio.NewReader(conn)
	for line := ""; line != "ping\n"; {
		if line, err = lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if n := used(t, g, "/slots"); n != 1 {
		t.Errorf("%d slots are held while the connection lives", n)
	}
	conn.Close()
	<-returned
	if n := used(t, g, "/slots"); n != 0 {
		t.Errorf("%d slots are held after it", n)
	}
}

// TestClientLeavesAServer: the same with a client of a real server that hangs up.
func TestClientLeavesAServer(t *testing.T) {
	g := inMemory(t)
	in, returned := make(chan struct{}), make(chan struct{})
	h := New(g, Config{})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(in)
		<-r.Context().Done()
	}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = "203.0.113.9:1"
		h.ServeHTTP(w, r)
		close(returned)
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET /slots HTTP/1.1\r\nHost: a\r\n\r\n")
	<-in
	if n := used(t, g, "/slots"); n != 1 {
		t.Errorf("%d slots are held while the client waits", n)
	}
	conn.Close()
	<-returned
	if n := used(t, g, "/slots"); n != 0 {
		t.Errorf("%d slots are held after it", n)
	}
}

// TestTicketOfUnknownSlots: what a newer server holds, of which nothing is known here, is
// released and not renewed.
func TestTicketOfUnknownSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		e := engine{
			Gate: inMemory(t),
			take: func(_ context.Context, _ *gate.Request, d *gate.Decision) error {
				d.Receive(&gate.Answer{Decision: headgate.Decision{Allowed: true}, Ticket: "t"})
				return nil
			},
			renew: func(context.Context, *gate.Claim, *gate.Decision) error {
				asked = append(asked, "renew")
				return nil
			},
			release: func(_ context.Context, c *gate.Claim, _ *gate.Decision) error {
				asked = append(asked, "release "+c.Ticket)
				return nil
			},
		}
		serve(New(e, Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-time.After(time.Hour) })), request("/"))
		if !slices.Equal(asked, []string{"release t"}) {
			t.Errorf("asked %v", asked)
		}
	})
}

func TestDelayIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var starts []time.Duration
		begin := time.Now()
		h := New(inMemory(t), Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			starts = append(starts, time.Since(begin))
		}))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { serve(h, request("/leaky")) })
			synctest.Wait()
		}
		wg.Wait()
		if len(starts) != 3 || starts[0] != 0 || starts[1] != time.Second || starts[2] != 2*time.Second {
			t.Errorf("handlers started after %v, want 0s, 1s and 2s", starts)
		}
	})
}

// TestTooManyWait: where the gate tells the delay, as too many wait in it already, the
// request still begins no earlier.
func TestTooManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inMemory(t)
		e := engine{Gate: g, take: func(ctx context.Context, q *gate.Request, d *gate.Decision) error {
			q.NoWait = true
			return g.Take(ctx, q, d)
		}}
		h := New(e, Config{})(teapot)
		serve(h, request("/leaky"))
		begin := time.Now()
		if w := serve(h, request("/leaky")); w.Code != http.StatusTeapot || time.Since(begin) != time.Second {
			t.Errorf("began after %v: %s", time.Since(begin), dump(w))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if w := serve(h, request("/leaky").WithContext(ctx)); w.Code != 503 {
			t.Errorf("a client that left: %s", dump(w))
		}
	})
}

// TestWaitInLine: a request waits for its turn, or until its rule or WaitCap ends it.
func TestWaitInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := open(t, lines, memstore.New(memstore.Config{MaxBytes: 1 << 20}))
		h := New(g, Config{})(teapot)
		begin := time.Now()
		serve(h, request("/r"))
		if w := serve(h, request("/r")); w.Code != http.StatusTeapot || time.Since(begin) != 4*time.Second {
			t.Errorf("after %v: %s", time.Since(begin), dump(w))
		}
		var first, second *httptest.ResponseRecorder
		var wg sync.WaitGroup
		wg.Go(func() { first = serve(h, request("/r")) })
		synctest.Wait()
		wg.Go(func() { second = serve(h, request("/r")) })
		wg.Wait()
		if first.Code != http.StatusTeapot || second.Code != 429 {
			t.Errorf("first %s, second %s", dump(first), dump(second))
		}
		begin = time.Now()
		w := serve(New(g, Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			if w := serve(h, request("/c")); w.Code != 429 || w.Header().Get("Headgate-Reason") != "wait_timeout" {
				t.Errorf("waited %v: %s", time.Since(begin), dump(w))
			}
			if time.Since(begin) != DefaultWaitCap {
				t.Errorf("waited %v, want %v", time.Since(begin), DefaultWaitCap)
			}
		})), request("/c"))
		if w.Code != 200 || g.Waiting() != 0 {
			t.Errorf("%d wait, got %s", g.Waiting(), dump(w))
		}
	})
}

const lines = `
version: 1
applications:
  default:
    identity: [ip]
    rules:
      - {name: r, match: {path: /r}, limits: [{name: w, rate: 15/min, burst: 1}], max_wait: 5s}
      - {name: c, match: {path: /c}, limits: [{name: doors, algorithm: concurrency, max: 1}], max_wait: 5m}
      - {name: l, match: {path: /l}, limits: [{name: doors, algorithm: concurrency, max: 9}, {name: drip, algorithm: leaky_bucket, rate: 1/s, burst: 9}]}
`

// TestClientLeavesTheLine: who leaves while it waits holds nothing and is not waited for.
func TestClientLeavesTheLine(t *testing.T) {
	for _, target := range []string{"/c", "/l"} {
		synctest.Test(t, func(t *testing.T) {
			g := open(t, lines, memstore.New(memstore.Config{MaxBytes: 1 << 20}))
			var told error
			ran := 0
			decided := 0
			h := New(g, Config{
				FailOpen: true, OnError: func(_ *http.Request, err error) { told = err },
				Decided: func(*gate.Decision, time.Duration) { decided++ },
			})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				ran++
				<-time.After(time.Minute)
			}))
			var wg sync.WaitGroup
			wg.Go(func() { serve(h, request(target)) })
			synctest.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			var left *httptest.ResponseRecorder
			wg.Go(func() { left = serve(h, request(target).WithContext(ctx)) })
			synctest.Wait()
			if g.Waiting() != 1 {
				t.Errorf("%s: %d wait, want 1", target, g.Waiting())
			}
			cancel()
			synctest.Wait()
			if g.Waiting() != 0 || used(t, g, target) != 1 || !errors.Is(told, context.Canceled) || left.Code != 503 {
				t.Errorf("%s: %d wait, %d are held, told %v, got %s", target, g.Waiting(), used(t, g, target), told, dump(left))
			}
			wg.Wait()
			// What a leaky bucket has charged stays so, and is counted.
			if want := map[string]int{"/c": 1, "/l": 2}[target]; ran != 1 || used(t, g, target) != 0 || decided != want {
				t.Errorf("%s: %d ran, %d are held, %d decisions", target, ran, used(t, g, target), decided)
			}
		})
	}
}
