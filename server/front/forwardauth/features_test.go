package forwardauth

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

const featuresPolicy = `
version: 1
applications:
  web:
    identity: [ip]
    allow: [198.51.100.7/32]
    deny: [203.0.113.0/24]
    rules:
      - {name: one, match: {path: /one}, limits: [{name: burst, rate: 1/min}], ban: {after: 2, within: 1min, for: 15min}}
      - {name: held, match: {path: /held}, limits: [{name: inflight, algorithm: concurrency, max: 1, ttl: 30s}]}
      - {name: ttl, match: {path: /ttl}, limits: [{name: inflight, algorithm: concurrency, max: 1, ttl: 30s, release: ttl}]}
      - {name: line, match: {path: /line}, limits: [{name: burst, rate: 1/5s, burst: 1}], max_wait: 1min}
      - {name: long, match: {path: /long}, limits: [{name: burst, rate: 1/20s, burst: 1}], max_wait: 1min}
`

func newFeatures(t *testing.T) http.Handler {
	t.Helper()
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(featuresPolicy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
	if err != nil {
		t.Fatal(err)
	}
	return mount(Config{Gate: g})
}

// visit asks about a client's request for a path.
func visit(door http.Handler, path, client, query string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	door.ServeHTTP(w, request("GET", apiPath+query, local, "X-Original-Method: GET", "X-Original-URI: "+path, "X-Real-IP: "+client))
	return w
}

func TestLists(t *testing.T) {
	door := newFeatures(t)
	w := visit(door, "/one", "203.0.113.9", "")
	if w.Code != 403 || w.Header().Get("Headgate-Reason") != "deny_listed" || w.Header().Get("Retry-After") != "" || !strings.Contains(w.Body.String(), "this client may not pass") {
		t.Errorf("%s", dump(w))
	}
	for range 3 {
		if w := visit(door, "/one", "198.51.100.7", ""); w.Code != 204 || w.Header().Get("Headgate-Reason") != "allow_listed" {
			t.Errorf("%s", dump(w))
		}
	}
}

// TestBan: whoever is banned is told for how long, and of his budgets only.
func TestBan(t *testing.T) {
	door := newFeatures(t)
	for _, want := range []struct {
		status int
		reason string
	}{{204, "ok"}, {429, "rate_limited"}, {429, "banned"}} {
		w := visit(door, "/one", "198.51.100.9", "")
		h := w.Header()
		if w.Code != want.status || h.Get("Headgate-Reason") != want.reason || strings.Contains(h.Get("RateLimit-Policy")+h.Get("RateLimit"), "ban") || h.Get("RateLimit") == "" {
			t.Errorf("want %v: %s", want, dump(w))
		}
		if want.reason == "banned" && (h.Get("Retry-After") != "900" && h.Get("Retry-After") != "899" || h.Get("Headgate-Limit") != "one/ban") {
			t.Errorf("%s", dump(w))
		}
	}
}

// TestUnfitPolicy: a limit whose slots this door cannot release is a fault of
// the policy. No client passes by it.
func TestUnfitPolicy(t *testing.T) {
	door := newFeatures(t)
	const sentence = "limit held/inflight holds slots until they are released, which callers of this protocol cannot do: give it release: ttl in the policy"
	for query, status := range map[string]int{"": 500, "?deny=403": 403} {
		w := visit(door, "/held", "198.51.100.9", query)
		var p struct {
			Type, Detail string
			Status       int
		}
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if w.Code != status || p.Status != 500 || p.Type != "urn:headgate:problem:policy_unfit" || !strings.Contains(p.Detail, sentence) {
			t.Errorf("%s", dump(w))
		}
		if query != "" && w.Header().Get("Headgate-Status") != "500" {
			t.Errorf("%s", dump(w))
		}
	}
	for _, want := range []int{204, 429} {
		if w := visit(door, "/ttl", "198.51.100.9", ""); w.Code != want {
			t.Errorf("want %d: %s", want, dump(w))
		}
	}
}

// TestWait: requests wait in line, and no longer than behind a proxy they can.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door := newFeatures(t)
		for i, path := range []string{"/line", "/line", "/long", "/long"} {
			began := time.Now()
			w := visit(door, path, "198.51.100.9", "")
			want, waited := 204, time.Duration(0)
			switch i {
			case 1:
				waited = 5 * time.Second
			case 3:
				want = 429 // would pass after 20 s, within its max_wait
			}
			if w.Code != want || time.Since(began) != waited {
				t.Errorf("%s, %d after %v: %s", path, i, time.Since(began), dump(w))
			}
		}
	})
}

// TestClientLeaves: a wait ends with its client.
func TestClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door := newFeatures(t)
		visit(door, "/line", "198.51.100.9", "")
		ctx, leave := context.WithCancel(t.Context())
		r := request("GET", apiPath, local, "X-Original-Method: GET", "X-Original-URI: /line", "X-Real-IP: 198.51.100.9").WithContext(ctx)
		began, w, ended := time.Now(), httptest.NewRecorder(), make(chan struct{})
		go func() {
			defer close(ended)
			door.ServeHTTP(w, r)
		}()
		synctest.Wait()
		leave()
		<-ended
		if w.Code != 503 || time.Since(began) != 0 {
			t.Errorf("after %v: %s", time.Since(began), dump(w))
		}
	})
}
