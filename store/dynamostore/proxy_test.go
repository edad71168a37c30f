package dynamostore

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/store/dynamostore/dynamotest"
)

// proxy stands between a store and the shared server, and does to what passes as a
// test says.
type proxy struct {
	*httptest.Server
	mu sync.Mutex
	// meddle is told the name of an operation, as "PutItem", and says what becomes of
	// it; nil lets all pass.
	meddle func(op string) fate
	shift  time.Duration // of the dates of answers
	asked  int
}

// count returns how many requests came.
func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// fate is what becomes of a request. The zero value lets it pass.
type fate struct {
	drop bool // the connection is closed before the server has heard of it
	lose bool // or after that, without an answer
	wait <-chan struct{}
	code int // of an answer that is given instead of the server's
	kind string
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	to := dynamotest.Shared(t).Endpoint()
	p := new(proxy)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		op := r.Header.Get("X-Amz-Target")
		op = op[strings.LastIndexByte(op, '.')+1:]
		p.mu.Lock()
		meddle, shift := p.meddle, p.shift
		p.asked++
		p.mu.Unlock()
		var f fate
		if meddle != nil {
			f = meddle(op)
		}
		if f.wait != nil {
			select {
			case <-f.wait:
			case <-r.Context().Done():
			}
		}
		if f.drop {
			panic(http.ErrAbortHandler)
		}
		date := func(from string) {
			if shift != 0 {
				from = time.Now().Add(shift).UTC().Format(http.TimeFormat)
			}
			w.Header().Set("Date", from)
		}
		if f.code != 0 {
			date(time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
			w.WriteHeader(f.code)
			_, _ = io.WriteString(w, `{"__type":"com.amazonaws.dynamodb.v20120810#`+f.kind+`","message":"as the test says"}`)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		ask, err := http.NewRequest(r.Method, to, bytes.NewReader(body))
		if err != nil {
			panic(err)
		}
		ask.Header = r.Header
		answer, err := http.DefaultClient.Do(ask)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil || f.lose {
			panic(http.ErrAbortHandler)
		}
		maps.Copy(w.Header(), answer.Header)
		date(answer.Header.Get("Date"))
		w.WriteHeader(answer.StatusCode)
		_, _ = w.Write(text)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) meddleWith(meddle func(op string) fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meddle = meddle
}

func (p *proxy) shiftBy(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shift = by
}

// url returns the URL of a table by way of the proxy.
func (p *proxy) url(t *testing.T, table string) string {
	return dynamotest.Shared(t).URL(table, "endpoint="+p.URL)
}

// always answers an operation so, and lets others pass.
func always(op string, f fate) func(string) fate {
	return func(o string) fate {
		if o == op {
			return f
		}
		return fate{}
	}
}
