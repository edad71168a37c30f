package httpgate

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/store/memstore"
)

// proxyTo returns a reverse proxy for an application that answers with h.
func proxyTo(t *testing.T, h http.HandlerFunc) http.Handler {
	t.Helper()
	upstream := httptest.NewServer(h)
	t.Cleanup(upstream.Close)
	to, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
}

// TestOurFieldsGoOut: a handler cannot change them or take them away, and may send those
// of other conventions.
func TestOurFieldsGoOut(t *testing.T) {
	theirs := func(h http.Header) {
		h.Set("RateLimit", `"theirs";r=999;t=1`)
		h.Set("RateLimit-Policy", `"theirs";q=999;w=1`)
		h.Set("X-RateLimit-Remaining", "999")
		h.Set("RateLimit-Remaining", "998")
		h.Set("Headgate-Reason", "theirs")
		h.Set("Headgate-Decision-Id", "theirs")
		h.Set("Headgate-Degraded", "theirs")
	}
	changing := func(write func(http.ResponseWriter)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			theirs(w.Header())
			write(w)
		}
	}
	for name, h := range map[string]http.Handler{
		"reverse proxy": proxyTo(t, changing(func(w http.ResponseWriter) { w.WriteHeader(201) })),
		"status":        changing(func(w http.ResponseWriter) { w.WriteHeader(201) }),
		"body":          changing(func(w http.ResponseWriter) { w.Write([]byte("x")) }),
		"string":        changing(func(w http.ResponseWriter) { io.WriteString(w, "x") }),
		"copy":          changing(func(w http.ResponseWriter) { w.(io.ReaderFrom).ReadFrom(strings.NewReader("x")) }),
		"flusher":       changing(func(w http.ResponseWriter) { w.(http.Flusher).Flush() }),
		"controller":    changing(func(w http.ResponseWriter) { http.NewResponseController(w).Flush() }),
		"early hints":   changing(func(w http.ResponseWriter) { w.WriteHeader(103); theirs(w.Header()); w.WriteHeader(200) }),
		"nothing":       changing(func(http.ResponseWriter) {}),
	} {
		t.Run(name, func(t *testing.T) {
			g := inMemory(t)
			server := httptest.NewServer(New(g, Config{Headers: new(policy.HeadersIETF | policy.HeadersXDelta)})(h))
			defer server.Close()
			res, err := http.Get(server.URL + "/api/x")
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if got := res.Header["Ratelimit"]; len(got) != 2 || !strings.HasPrefix(got[0], `"api/burst";r=1`) || got[1] != `"theirs";r=999;t=1` {
				t.Errorf("RateLimit %q", got)
			}
			if got := res.Header["Ratelimit-Policy"]; len(got) != 2 || !strings.HasPrefix(got[0], `"api/burst";q=2`) {
				t.Errorf("RateLimit-Policy %q", got)
			}
			for name, want := range map[string]string{"X-Ratelimit-Remaining": "1", "Ratelimit-Remaining": "998", "Headgate-Reason": "ok"} {
				if got := res.Header[name]; !slices.Equal(got, []string{want}) {
					t.Errorf("%s: got %q, want %s", name, got, want)
				}
			}
			if got := res.Header["Headgate-Decision-Id"]; len(got) != 1 || len(got[0]) != 32 {
				t.Errorf("decision %q", got)
			}
		})
	}
}

// TestFieldsTakenAway: a handler that empties its header does not empty ours.
func TestFieldsTakenAway(t *testing.T) {
	h := New(inMemory(t), Config{})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { clear(w.Header()); w.WriteHeader(204) }))
	w := serve(h, request("/api/x"))
	if got := w.Result().Header; got.Get("RateLimit") == "" || got.Get("RateLimit-Policy") == "" || got.Get("Headgate-Limit") != "api/burst" {
		t.Errorf("got %s", dump(w))
	}
}

// TestStacked: of gates and limiters behind each other all speak, and the last decision
// is the one that is told.
func TestStacked(t *testing.T) {
	outer := New(inMemory(t), Config{Application: "strict", Headers: new(policy.HeadersIETF | policy.HeadersXDelta), Key: func(*http.Request) (string, error) { return "k", nil }})
	inner := New(inMemory(t), Config{Headers: new(policy.HeadersIETF | policy.HeadersXDelta)})
	wrapped := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(struct{ unwrapper }{unwrapper{w}}, r) })
	}
	h := outer(wrapped(inner(teapot)))
	do := func(path string) *http.Response { return serve(h, request(path)).Result() }
	res := do("/one")
	if got := res.Header["Ratelimit-Policy"]; len(got) != 2 || got[0] != `"one/burst";q=1;w=3600` || got[1] != `"plan/daily";q=1000;w=86400` {
		t.Errorf("policies %q", got)
	}
	if got := res.Header["X-Ratelimit-Limit"]; !slices.Equal(got, []string{"1000"}) || res.Header.Get("Headgate-Limit") != "plan/daily" {
		t.Errorf("got %v", res.Header)
	}

	away := engine{Gate: inMemory(t), take: func(context.Context, *gate.Request, *gate.Decision) error {
		return &headgate.Error{Code: headgate.Unavailable, Err: errors.New("away")}
	}}
	h = New(inMemory(t), Config{})(New(away, Config{})(teapot))
	if res = do("/other"); res.Header.Get("Headgate-Reason") != "store_unavailable" || res.Header.Get("Headgate-Degraded") != "closed" {
		t.Errorf("one inside that is away: %d %v", res.StatusCode, res.Header)
	}

	lim, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerHour(1).WithName("login"))
	if err != nil {
		t.Fatal(err)
	}
	h = New(inMemory(t), Config{})(httplimit.New(lim, httplimit.Config{})(teapot))
	do("/api/x")
	if res = do("/api/x"); res.StatusCode != 429 || len(res.Header["Ratelimit"]) != 2 || res.Header.Get("Headgate-Reason") != "ok" {
		t.Errorf("a limiter inside: %d %v", res.StatusCode, res.Header)
	}
}

type unwrapper struct{ http.ResponseWriter }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// TestEnded holds what the hook is told of requests over real connections.
func TestEnded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		want    int
	}{
		{"status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 404},
		{"body", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") }, 200},
		{"nothing", func(http.ResponseWriter, *http.Request) {}, 200},
		{"file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, 200},
		{"early hints", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(500) }, 500},
		{"stream", func(w http.ResponseWriter, _ *http.Request) {
			rc := http.NewResponseController(w)
			if err := errors.Join(rc.SetWriteDeadline(time.Now().Add(time.Minute)), rc.EnableFullDuplex(), rc.Flush()); err != nil {
				t.Error(err)
			}
		}, 200},
		{"hijack", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: close\r\n\r\n")
			conn.Close()
		}, 101},
		{"panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 500},
		{"panic after the header", func(w http.ResponseWriter, _ *http.Request) {
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			type end struct {
				path, rule string
				status     int
				took       time.Duration
			}
			ended := make(chan end, 1)
			server := httptest.NewServer(New(inMemory(t), Config{Ended: func(r *http.Request, by Passed, status int, took time.Duration) {
				ended <- end{r.URL.Path, by.Rule, status, took}
			}})(tt.handler))
			defer server.Close()
			if res, err := http.Get(server.URL + "/api/x"); err == nil {
				res.Body.Close()
			}
			if got := <-ended; got.path != "/api/x" || got.rule != "api" || got.status != tt.want || got.took <= 0 || got.took > time.Minute {
				t.Errorf("got %+v, want %d", got, tt.want)
			}
		})
	}
}

// TestEndedOnlyOfWhatPassed: refused requests have not begun; of what nobody decided there
// is no decision.
func TestEndedOnlyOfWhatPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took []time.Duration
		decided := true
		c := Config{FailOpen: true, Ended: func(_ *http.Request, by Passed, status int, d time.Duration) {
			if took = append(took, d); (by != Passed{}) != decided || status != 200 {
				t.Errorf("%+v, status %d", by, status)
			}
		}}
		slow := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-time.After(time.Second) })
		h := New(inMemory(t), c)(slow)
		serve(h, request("/polite"))
		serve(h, request("/polite"))
		decided = false
		e := engine{Gate: inMemory(t), take: func(context.Context, *gate.Request, *gate.Decision) error {
			return &headgate.Error{Code: headgate.Unavailable, Err: errors.New("away")}
		}}
		serve(New(e, c)(slow), request("/polite"))
		if !slices.Equal(took, []time.Duration{time.Second, time.Second}) {
			t.Errorf("took %v", took)
		}
	})
}

// TestStreaming: what a handler flushes arrives while it runs.
func TestStreaming(t *testing.T) {
	goOn := make(chan struct{})
	server := httptest.NewServer(New(inMemory(t), Config{})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		<-goOn
		io.WriteString(w, "second\n")
	})))
	defer server.Close()
	res, err := http.Get(server.URL + "/api/x")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	if line, err := lines.ReadString('\n'); line != "first\n" {
		t.Errorf("got %q, %v", line, err)
	}
	close(goOn)
	if line, err := lines.ReadString('\n'); line != "second\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

// TestStaleWriter: a handler that writes after its end does not meet another request.
func TestStaleWriter(t *testing.T) {
	var stale http.ResponseWriter
	h := New(inMemory(t), Config{})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if stale == nil {
			stale = w
			return
		}
		stale.Header().Set("Secret", "of the first")
		io.WriteString(stale, "of the first")
	}))
	serve(h, request("/api/x"))
	if w := serve(h, request("/api/x")); w.Body.Len() > 0 || w.Header().Get("Secret") != "" {
		t.Errorf("the second got %s", dump(w))
	}
}
