package forwardauth

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/problem"
)

// seen keeps the header fields that the gate was shown.
type seen struct {
	clocked
	header http.Header
}

func (s *seen) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	s.header = r.Headers.Clone()
	return s.clocked.Take(ctx, r, d)
}

// proxyOf reaches one application.
type proxyOf string

func (p proxyOf) Reaches(application string) bool { return application == string(p) }
func (p proxyOf) Everywhere() bool                { return false }
func (p proxyOf) Operates() bool                  { return false }

func TestAdmit(t *testing.T) {
	refused := &problem.Problem{Name: "unauthorized", Status: http.StatusUnauthorized, Detail: "no"}
	asks := []string{"X-Forwarded-Method: GET", "X-Forwarded-Uri: /api/x", "X-Forwarded-For: 198.51.100.9", "Authorization: Bearer client", "Headgate-Token: proxy"}
	for _, tt := range []struct {
		name, target string
		admit        func(http.Header, *http.Request) (front.Caller, *problem.Problem)
		status       int
		of           string // what a 403 stands for
	}{
		{"everybody", apiPath, nil, 204, ""},
		{"a proxy", apiPath, func(_ http.Header, r *http.Request) (front.Caller, *problem.Problem) {
			if r.Header.Get(TokenField) != "proxy" {
				t.Error("the token is gone before it was looked at")
			}
			return proxyOf("web"), nil
		}, 204, ""},
		{"of another application", apiPath, func(http.Header, *http.Request) (front.Caller, *problem.Problem) { return proxyOf("edge"), nil }, 404, ""},
		{"of another application, denying", apiPath + "?deny=403", func(http.Header, *http.Request) (front.Caller, *problem.Problem) { return proxyOf("edge"), nil }, 403, "404"},
		{"nobody", apiPath, func(http.Header, *http.Request) (front.Caller, *problem.Problem) { return nil, refused }, 401, ""},
		{"nobody, denying", apiPath + "?deny=403", func(http.Header, *http.Request) (front.Caller, *problem.Problem) { return nil, refused }, 403, "401"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &seen{clocked: newGate(t)}
			w := httptest.NewRecorder()
			mount(Config{Gate: g, Admit: tt.admit}).ServeHTTP(w, request("GET", tt.target, local, asks...))
			if w.Code != tt.status || w.Header().Get("Headgate-Status") != tt.of {
				t.Errorf("%d, Headgate-Status %q: %s", w.Code, w.Header().Get("Headgate-Status"), w.Body)
			}
			if (g.header != nil) != (tt.status == 204) || g.header[TokenField] != nil {
				t.Errorf("the gate saw %v", g.header)
			}
		})
	}
}
