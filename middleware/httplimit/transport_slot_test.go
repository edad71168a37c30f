package httplimit

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

func TestTransportHoldsUntilTheAnswerIsRead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(int, *http.Request) (*http.Response, error)
		end    func(*http.Response)
		held   bool // until end
	}{
		{"closed", nil, func(r *http.Response) { r.Body.Close() }, true},
		{"closed twice", nil, func(r *http.Response) { r.Body.Close(); r.Body.Close() }, true},
		{"read to its end", nil, func(r *http.Response) { io.Copy(io.Discard, r.Body) }, true},
		{"read and closed", nil, func(r *http.Response) { io.Copy(io.Discard, r.Body); r.Body.Close() }, true},
		{"broken", func(int, *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF))}, nil
		}, func(r *http.Response) { r.Body.Read(make([]byte, 1)) }, true},
		{"no body", func(int, *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
		}, func(*http.Response) {}, false},
		{"error", func(int, *http.Request) (*http.Response, error) { return nil, errors.New("no route") }, func(*http.Response) {}, false},
		{"panic", func(int, *http.Request) (*http.Response, error) { panic("base") }, func(*http.Response) {}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var releases atomic.Int64
			store := contextCounter{memstore.New(memstore.Config{}), &releases}
			tr := NewTransport(limiter(t, store, headgate.InFlight(1, time.Hour)), &upstream{answer: tt.answer}, TransportConfig{})
			ctx, cancel := context.WithCancel(t.Context())
			var resp *http.Response
			func() {
				defer func() { recover() }()
				resp, _ = tr.RoundTrip(outgoing(t, nil).WithContext(ctx))
			}()
			if held := releases.Load() == 0; held != tt.held {
				t.Errorf("before its end: held is %v, want %v", held, tt.held)
			}
			if tt.held {
				if _, err := tr.RoundTrip(outgoing(t, nil)); limited(t, err).Decision.Reason != headgate.ConcurrencyExceeded {
					t.Errorf("a second request: got %v", err)
				}
			}
			cancel() // the slot is freed all the same
			tt.end(resp)
			if releases.Load() != 1 {
				t.Errorf("released %d times", releases.Load())
			}
			func() {
				defer func() { recover() }()
				_, err := tr.RoundTrip(outgoing(t, nil))
				if _, refused := errors.AsType[*LimitedError](err); refused {
					t.Errorf("a slot was lost: %v", err)
				}
			}()
		})
	}
}

// contextCounter counts Releases whose context has not ended.
type contextCounter struct {
	headgate.Store
	releases *atomic.Int64
}

func (c contextCounter) Apply(ctx context.Context, b *headgate.Batch) error {
	if b.Op == headgate.Release && ctx.Err() == nil {
		c.releases.Add(1)
	}
	return c.Store.Apply(ctx, b)
}

// The body of a 101 is written to as well.
func TestTransportUpgrade(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := rw.ReadString('\n')
		io.WriteString(conn, line)
	}))
	defer srv.Close()
	tr := NewTransport(inMemory(t, headgate.InFlight(1, time.Hour)), srv.Client().Transport, TransportConfig{})
	client := &http.Client{Transport: tr}
	upgrade := func() (*http.Response, error) {
		r, err := http.NewRequest("GET", srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Connection", "upgrade")
		r.Header.Set("Upgrade", "echo")
		return client.Do(r)
	}
	resp, err := upgrade()
	if err != nil {
		t.Fatal(err)
	}
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatalf("the body of %s is a %T, which cannot be written to", resp.Status, resp.Body)
	}
	io.WriteString(rw, "hello\n")
	if _, err := upgrade(); limited(t, err).Decision.Reason != headgate.ConcurrencyExceeded {
		t.Errorf("beside it: got %v", err)
	}
	if b, err := io.ReadAll(rw); err != nil || string(b) != "hello\n" {
		t.Errorf("got %q, %v", b, err)
	}
	rw.Close()
	if resp, err = upgrade(); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestTransportReleaseFails(t *testing.T) {
	lim := limiter(t, fakeStore{func(b *headgate.Batch) error {
		if b.Op == headgate.Release {
			return errors.New("lost")
		}
		b.Allowed = true
		return nil
	}}, headgate.InFlight(1, time.Hour))
	var told error
	tr := NewTransport(lim, &upstream{}, TransportConfig{OnError: func(_ *http.Request, err error) { told = err }})
	if err := get(t, tr); err != nil || told == nil || told.Error() != "release: lost" {
		t.Errorf("got %v, OnError was told %v", err, told)
	}
}
