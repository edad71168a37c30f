package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
)

// answerWriter takes an answer without keeping more than its size.
type answerWriter struct {
	header http.Header
	status int
	n      int
}

func (w *answerWriter) Header() http.Header         { return w.header }
func (w *answerWriter) WriteHeader(status int)      { w.status = status }
func (w *answerWriter) Write(b []byte) (int, error) { w.n += len(b); return len(b), nil }

// again is a body that can be read more than once.
type again struct{ *strings.Reader }

func (again) Close() error { return nil }

// repeat returns what asks a door on a real gate that never refuses, each
// time with the same request.
func repeat(tb testing.TB, c Config, path, body string) func() *answerWriter {
	tb.Helper()
	store := memstore.New(memstore.Config{MaxBytes: 1 << 20})
	g, err := gate.Open(tb.Context(), gate.Config{Policy: []byte(strings.ReplaceAll(testPolicy, "2/h", "1000000/ms")), Store: store})
	if err != nil {
		tb.Fatal(err)
	}
	c.Gate, c.Now = g, store.Now
	door := New(c)
	reader := strings.NewReader(body)
	r := httptest.NewRequest("POST", path, again{reader})
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = int64(len(body))
	w := &answerWriter{header: http.Header{}}
	return func() *answerWriter {
		reader.Reset(body)
		w.n, w.status = 0, 0
		door.ServeHTTP(w, r)
		return w
	}
}

// TestTakeAllocations: the body's text is all that a decision leaves to the
// collector.
func TestTakeAllocations(t *testing.T) {
	racetest.Alone(t) // it drops a quarter of what pools are given
	for name, c := range map[string]Config{"open": {}, "admitted": {Admit: as("a")}} {
		send := repeat(t, c, "/v1/take", `{"application":"a","operation":"o","subject":"alice","cost":1}`)
		if n := testing.AllocsPerRun(200, func() {
			if w := send(); w.n < 300 || w.status != 0 {
				t.Fatalf("%s: status %d, %d bytes", name, w.status, w.n)
			}
		}); n > 1 {
			t.Errorf("%s: %v allocations, want 1", name, n)
		}
	}
}

// TestBatchMemory: a thousand items need the memory of their text and of a few
// decisions, not of a thousand.
func TestBatchMemory(t *testing.T) {
	one := item(`"subject":"alice"`)
	send := repeat(t, Config{}, "/v1/take/batch", `{"items":[`+strings.Repeat(one+",", 999)+one+`]}`)
	send()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const runs = 10
	for range runs {
		if w := send(); w.n < 300_000 || w.status != 0 {
			t.Fatalf("status %d, %d bytes", w.status, w.n)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / runs; each > 500<<10 {
		t.Errorf("%d bytes for each batch", each)
	}
}

// BenchmarkTake is the door and the whole engine behind it, without the
// network and net/http's own work.
func BenchmarkTake(b *testing.B) {
	g, err := gate.Open(b.Context(), gate.Config{Policy: []byte(strings.ReplaceAll(testPolicy, "2/h", "1000000/ms")), Store: memstore.New(memstore.Config{})})
	if err != nil {
		b.Fatal(err)
	}
	h := New(Config{Gate: g})
	const body = `{"application":"a","operation":"o","subject":"alice","cost":1}`
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w := &answerWriter{header: http.Header{}}
		reader := strings.NewReader(body)
		r := httptest.NewRequest("POST", "/v1/take", again{reader})
		r.Header.Set("Content-Type", "application/json")
		r.ContentLength = int64(len(body))
		for pb.Next() {
			reader.Reset(body)
			w.n, w.status = 0, 0
			h.ServeHTTP(w, r)
			if w.n < 300 || w.status != 0 {
				b.Errorf("status %d, %d bytes", w.status, w.n)
				return
			}
		}
	})
}

// bare is the least that a handler of net/http can do for a decision: it reads a
// body and answers with one.
type bare struct{ answer []byte }

func (h bare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.ReadAll(r.Body); err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(h.answer)
}

// BenchmarkLoopback compares the door, and the engine behind it, with a bare
// handler: both over the loopback device, with a client that does as little as
// possible.
func BenchmarkLoopback(b *testing.B) {
	g, err := gate.Open(b.Context(), gate.Config{Policy: []byte(strings.ReplaceAll(testPolicy, "2/h", "1000000/ms")), Store: memstore.New(memstore.Config{})})
	if err != nil {
		b.Fatal(err)
	}
	const body = `{"application":"a","operation":"o","subject":"alice","cost":1}`
	request := fmt.Sprintf("POST /v1/take HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	door := New(Config{Gate: g})
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/v1/take", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	door.ServeHTTP(w, r)
	for name, h := range map[string]http.Handler{"bare": bare{w.Body.Bytes()}, "take": door} {
		b.Run(name, func(b *testing.B) {
			s := httptest.NewUnstartedServer(nil)
			s.Config = NewServer(h, slog.New(slog.DiscardHandler))
			s.Start()
			defer s.Close()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				conn, err := net.Dial("tcp", s.Listener.Addr().String())
				if err != nil {
					b.Error(err)
					return
				}
				defer conn.Close()
				in := make([]byte, 4096)
				for pb.Next() {
					if _, err := io.WriteString(conn, request); err != nil {
						b.Error(err)
						return
					}
					n, err := conn.Read(in)
					if err != nil || !bytes.HasPrefix(in[:n], []byte("HTTP/1.1 200 OK")) || !bytes.HasSuffix(in[:n], []byte("}\n")) {
						b.Errorf("%s %v", in[:n], err)
						return
					}
				}
			})
		})
	}
}
