package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/store/memstore"
)

func newHouse(t testing.TB, policy string) *house {
	t.Helper()
	store := memstore.New(memstore.Config{MaxBytes: 1 << 20})
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return houseOf(g, store)
}

// houseOf is what serve makes of a gate and a store in memory.
func houseOf(g *gate.Gate, store *memstore.Store) *house {
	h := &house{settings: &settings{}, at: &listeners{}, gate: g, backend: &backend{store: store, memory: store}, journal: journal.New(journal.Config{}), log: slog.New(slog.DiscardHandler)}
	h.metrics = newMetrics(h)
	return h
}

// handlerAt is the HTTP door as if it listened there.
func (h *house) handlerAt(l net.Listener) http.Handler {
	h.at = &listeners{http: l}
	return h.httpDoor().Handler
}

func (h *house) scrape() string {
	w := httptest.NewRecorder()
	h.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestFailuresAreCounted(t *testing.T) {
	h := newHouse(t, scriptPolicy)
	refused := &problem.Problem{Name: "rate_limited", Status: 429}
	tests := []struct {
		name, path string
		serve      http.HandlerFunc
		want       string // the series that grows, "" for none
	}{
		{"answer", "/v1/take", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }, ""},
		{"problem", "/v1/take", problem.BadRequest("cost", "no").ServeHTTP, `{code="invalid_request",door="http"} 1`},
		{"problem under another status", "/v1/forward-auth/a", func(w http.ResponseWriter, r *http.Request) {
			problem.BadRequest("x", "no").WriteAs(w, 403)
		}, `{code="invalid_request",door="forward_auth"} 1`},
		{"refused client", "/v1/forward-auth/a", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Headgate-Reason", "rate_limited")
			refused.ServeHTTP(w, r)
		}, ""},
		{"no problem", "/v1/take", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 400) }, ""},
		{"failure inside", "/v1/take", (&problem.Problem{Name: "unavailable", Status: 503}).ServeHTTP, `{code="unavailable",door="http"} 1`},
	}
	grown := 0
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h.countFailures(tt.serve).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", tt.path, nil))
			got := h.scrape()
			if tt.want != "" {
				grown++
			}
			if !strings.Contains(got, "headgate_request_errors_total"+tt.want) && tt.want != "" || strings.Count(got, "headgate_request_errors_total{") != grown {
				t.Errorf("want %q and %d series in\n%s", tt.want, grown, got)
			}
		})
	}
}

// TestTooLargeEndsTheConnection as it does without countFailures: the rest of
// the body is not read.
func TestTooLargeEndsTheConnection(t *testing.T) {
	h := newHouse(t, scriptPolicy)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server := httptest.NewServer(h.handlerAt(l))
	defer server.Close()
	resp, err := http.Post(server.URL+"/v1/take", "application/json", strings.NewReader(`{"subject":"`+strings.Repeat("x", 100_000)+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 || !resp.Close {
		t.Errorf("status %d, closes: %v", resp.StatusCode, resp.Close)
	}
}
