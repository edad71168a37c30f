package httpgate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/store/memstore"
)

// TestFaults holds what becomes of requests that cannot be decided as they stand: the
// client's faults are 400, the program's 500, and none passes although FailOpen is set.
func TestFaults(t *testing.T) {
	key := func(s string, err error) func(*http.Request) (string, error) {
		return func(*http.Request) (string, error) { return s, err }
	}
	for _, tt := range []struct {
		name, target string
		config       Config
		change       func(*http.Request)
		want         int
		field        string
	}{
		{"no subject", "/one", Config{Application: "strict"}, nil, 400, "subject"},
		{"line break in the key", "/api/x", Config{Key: key("a\r\nSet-Cookie: x", nil)}, nil, 400, "subject"},
		{"line break in the key's field", "/api/x", Config{}, func(r *http.Request) { r.RemoteAddr, r.Header["X-Api-Key"] = "10.0.0.1:1", []string{"a\nb"} }, 400, "subject"},
		{"long key", "/api/x", Config{Key: key(strings.Repeat("k", 513), nil)}, nil, 400, "subject"},
		{"empty key", "/api/x", Config{Key: key("", nil)}, nil, 400, "subject"},
		{"key says what is missing", "/api/x", Config{Key: key("", &headgate.Error{Code: headgate.InvalidRequest, Field: "request.headers.X", Err: errors.New("is missing")})}, nil, 400, "request.headers.X"},
		{"key fails", "/api/x", Config{Key: key("", errors.New("database is away"))}, nil, 500, ""},
		{"escape in the path", "/api/x", Config{}, func(r *http.Request) { r.RequestURI = "/api/%zz" }, 400, "request.path"},
		{"control character in the path", "/api/x", Config{}, func(r *http.Request) { r.RequestURI = "/api/%00" }, 400, "request.path"},
		{"long path", "/api/x", Config{}, func(r *http.Request) { r.RequestURI = "/" + strings.Repeat("a", 8192) }, 400, "request.path"},
		{"cost below 0", "/api/x", Config{Cost: func(*http.Request) int64 { return -1 }}, nil, 400, "cost"},
		{"unknown application", "/api/x", Config{Application: "lost"}, nil, 500, ""},
		{"unknown application, proxies said", "/api/x", Config{Application: "lost", TrustedProxies: []netip.Prefix{}}, nil, 500, ""},
		{"unknown plan", "/one", Config{Application: "strict", Plan: func(*http.Request) string { return "lost" }}, func(r *http.Request) { r.Header.Set("X-Api-Key", "k") }, 500, ""},
		{"unknown unit", "/api/x", Config{Costs: func(*http.Request) map[string]int64 { return map[string]int64{"tons": 1} }}, nil, 500, ""},
		{"unit that nobody says", "/words", Config{}, nil, 500, ""},
		{"cost of a unit below 0", "/words", Config{Costs: func(*http.Request) map[string]int64 { return map[string]int64{"tokens": -1} }}, nil, 400, "costs.tokens"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var told error
			tt.config.FailOpen = true
			tt.config.OnError = func(_ *http.Request, err error) { told = err }
			r := request(tt.target)
			if tt.change != nil {
				tt.change(r)
			}
			w := serve(New(inMemory(t), tt.config)(teapot), r)
			if w.Code != tt.want || told == nil || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("told %v, got %s, want %d", told, dump(w), tt.want)
			}
			if tt.field != "" && !strings.Contains(w.Body.String(), "as it stands: "+tt.field+`"`) {
				t.Errorf("got %s, want the field %s", w.Body, tt.field)
			}
		})
	}
}

// TestUndecided: an engine that cannot decide at all, such as a client without a server.
func TestUndecided(t *testing.T) {
	for _, tt := range []struct {
		code   headgate.Code
		open   bool
		want   int
		reason string
	}{
		{headgate.Unavailable, false, 503, "store_unavailable"},
		{headgate.Unavailable, true, 418, ""},
		{headgate.Overloaded, false, 503, "overloaded"},
		{headgate.Closed, false, 503, "store_unavailable"},
		{headgate.Closed, true, 418, ""},
		{headgate.Overloaded, true, 503, "overloaded"},
		{headgate.Unknown, true, 503, "store_unavailable"},
		{headgate.NotFound, true, 500, ""},
		{headgate.InvalidRequest, true, 400, ""},
	} {
		var told error
		away := &headgate.Error{Code: tt.code, Err: errors.New("secret address")}
		e := engine{Gate: inMemory(t), take: func(context.Context, *gate.Request, *gate.Decision) error { return away }}
		w := serve(New(e, Config{FailOpen: tt.open, OnError: func(_ *http.Request, err error) { told = err }})(teapot), request("/api/x"))
		if w.Code != tt.want || w.Header().Get("Headgate-Reason") != tt.reason || told != away || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%v, open %v: told %v, got %s", tt.code, tt.open, told, dump(w))
		}
		degraded := map[int]string{503: "closed", 418: "open"}[tt.want]
		if got := w.Header().Get("Headgate-Degraded"); got != degraded {
			t.Errorf("%v, open %v: degraded %q, want %q", tt.code, tt.open, got, degraded)
		}
		retry := map[int]string{503: "1"}[tt.want]
		if got := w.Header().Get("Retry-After"); got != retry {
			t.Errorf("%v, open %v: Retry-After %q, want %q", tt.code, tt.open, got, retry)
		}
	}
}

// TestLogged: without OnError the log is told of what no client has done, of each kind once
// in ten seconds.
func TestLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		defer slog.SetDefault(slog.Default())
		slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
		var err error
		e := engine{Gate: inMemory(t), take: func(context.Context, *gate.Request, *gate.Decision) error { return err }}
		h := New(e, Config{FailOpen: true})(teapot)
		check := func(want ...string) {
			t.Helper()
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			if out.Len() == 0 {
				lines = nil
			}
			if !slices.EqualFunc(lines, want, strings.HasSuffix) {
				t.Errorf("logged\n%swant %q", out.String(), want)
			}
			out.Reset()
		}
		for range 3 {
			err = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("gone")}
			serve(h, request("/api/x"))
			err = &headgate.Error{Code: headgate.NotFound, Field: "application", Err: errors.New("lost")}
			serve(h, request("/api/x"))
			err = &headgate.Error{Code: headgate.InvalidRequest, Field: "subject", Err: errors.New("the client's")}
			serve(h, request("/api/x"))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			serve(h, request("/api/x").WithContext(ctx))
		}
		const away = `level=ERROR msg="no decision" application=default code=unavailable error=gone`
		check(away, `level=ERROR msg="no decision" application=default code=not_found error="application: lost"`)
		<-time.After(logEvery - time.Nanosecond)
		err = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("gone")}
		serve(h, request("/api/x"))
		check()
		<-time.After(time.Nanosecond)
		serve(h, request("/api/x"))
		check(away + " more=3")
	})
}

// TestGoneIsNotAway: a client that has left is no reason to run the handler.
func TestGoneIsNotAway(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e := engine{Gate: inMemory(t), take: func(context.Context, *gate.Request, *gate.Decision) error {
		cancel()
		return &headgate.Error{Code: headgate.Unavailable, Err: errors.New("the request was ended")}
	}}
	if w := serve(New(e, Config{FailOpen: true})(teapot), request("/api/x").WithContext(ctx)); w.Code != 503 || w.Header().Get("Headgate-Degraded") != "" {
		t.Errorf("got %s", dump(w))
	}
}

// TestNotUTF8: what makes an engine behind a wire fail is the client's fault, and does not
// let it pass.
func TestNotUTF8(t *testing.T) {
	e := engine{Gate: inMemory(t), take: func(context.Context, *gate.Request, *gate.Decision) error { return errors.New("cannot be sent") }}
	h := New(e, Config{FailOpen: true})(teapot)
	for name, change := range map[string]func(*http.Request){
		"header": func(r *http.Request) { r.Header["X-A"] = []string{"ok", "\xff"} },
		"path":   func(r *http.Request) { r.RequestURI = "/\xff" },
		"host":   func(r *http.Request) { r.Host = "\xff" },
	} {
		r := request("/api/x")
		change(r)
		if w := serve(h, r); w.Code != 400 {
			t.Errorf("%s: got %s", name, dump(w))
		}
	}
	if w := serve(h, request("/api/grün")); w.Code != 503 {
		t.Errorf("UTF-8: got %s", dump(w))
	}
}

// TestHeaderInjection: nothing that a server says adds a field to an answer.
func TestHeaderInjection(t *testing.T) {
	const evil = "x\r\nSet-Cookie: a=b\r\n\r\n<script>"
	for _, allowed := range []bool{true, false} {
		e := engine{Gate: inMemory(t), take: func(_ context.Context, _ *gate.Request, d *gate.Decision) error {
			d.Receive(&gate.Answer{
				Decision: headgate.Decision{Allowed: allowed, Reason: headgate.RateLimited}, Message: evil, Degraded: evil, Headers: policy.HeadersIETF,
				Limits: []gate.AnsweredLimit{{State: gate.LimitState{ID: evil, Owner: "subject"}, Numbers: headgate.PerHour(1)}},
			})
			return nil
		}}
		server := httptest.NewServer(New(e, Config{})(teapot))
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "text/html")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		server.Close()
		if res.Header["Set-Cookie"] != nil || strings.Contains(string(body), "<script>") || !strings.Contains(res.Header.Get("Headgate-Limit"), "Set-Cookie") {
			t.Errorf("got %v %s", res.Header, body)
		}
	}
}

// FuzzRequest: nothing that a client sends is a fault of ours.
func FuzzRequest(f *testing.F) {
	f.Add("/api/%2e%2e//x?y#z", "203.0.113.9", "key", "text/html;q=0.5")
	f.Add("//%", "1.2.3.4, unknown", "a\r\nb", ",;q")
	f.Fuzz(func(t *testing.T, target, forwarded, key, accept string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return // net/http answers it
		}
		r := request("/")
		r.RequestURI, r.URL, r.RemoteAddr = target, u, "10.0.0.1:1"
		r.Header = http.Header{"X-Forwarded-For": {forwarded}, "X-Api-Key": {key}, "Accept": {accept}, "Cookie": {key}}
		c := Config{Cost: func(*http.Request) int64 { return int64(len(key)) }, Costs: func(*http.Request) map[string]int64 { return map[string]int64{"tokens": 1} }}
		if w := serve(New(inMemory(t), c)(teapot), r); w.Code != 418 && w.Code != 400 && w.Code != 422 && w.Code != 403 {
			t.Errorf("got %s", dump(w))
		}
	})
}

// away is a store that cannot be reached.
type away struct{}

func (away) Apply(context.Context, *headgate.Batch) error {
	return &headgate.Error{Code: headgate.Unavailable, Err: errors.New("away")}
}
func (away) Close() error { return nil }

// TestStoreAway: what the policy says of each limit is done, whatever FailOpen says.
func TestStoreAway(t *testing.T) {
	for _, tt := range []struct {
		mode           string
		local          headgate.Store
		want           int
		degraded, told string
	}{
		{"open", nil, 418, "open", "ok"},
		{"closed", nil, 503, "closed", "store_unavailable"},
		{"local", memstore.New(memstore.Config{MaxBytes: 1 << 20}), 418, "local", "ok"},
		{"local", nil, 503, "closed", "store_unavailable"},
	} {
		g, err := gate.Open(t.Context(), gate.Config{Store: away{}, Local: tt.local, Policy: []byte(`
version: 1
applications: {default: {identity: [ip], rules: [{name: r, match: {path: /x}, limits: [{name: l, rate: 1/h, on_store_error: ` + tt.mode + `}]}]}}
`)})
		if err != nil {
			t.Fatal(err)
		}
		for _, failOpen := range []bool{true, false} {
			h := New(g, Config{FailOpen: failOpen})(teapot)
			r := request("/x")
			if failOpen {
				r.RemoteAddr = "203.0.113.10:1" // with a bucket of its own
			}
			w := serve(h, r)
			if w.Code != tt.want || w.Header().Get("Headgate-Degraded") != tt.degraded || w.Header().Get("Headgate-Reason") != tt.told {
				t.Errorf("%s, local %v: got %s", tt.mode, tt.local != nil, dump(w))
			}
			if w.Code == 503 && w.Header().Get("Retry-After") != "1" {
				t.Errorf("%s: Retry-After %q", tt.mode, w.Header().Get("Retry-After"))
			}
		}
	}
}
