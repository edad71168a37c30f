package httpapi

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate"
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
type again struct{ *bytes.Reader }

func (again) Close() error { return nil }

// BenchmarkTake is the door and the whole engine behind it, without the
// network and net/http's own work.
func BenchmarkTake(b *testing.B) {
	g, err := gate.Open(b.Context(), gate.Config{Policy: []byte(strings.ReplaceAll(testPolicy, "2/h", "1000000/ms")), Store: memstore.New(memstore.Config{})})
	if err != nil {
		b.Fatal(err)
	}
	h := New(Config{Gate: g})
	body := []byte(`{"application":"a","operation":"o","subject":"alice","cost":1}`)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w := &answerWriter{header: http.Header{}}
		reader := bytes.NewReader(body)
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
