package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/problem"
)

// caller reaches some applications; nil is for all.
type caller struct{ applications []string }

func (c *caller) Reaches(application string) bool {
	return c.applications == nil || slices.Contains(c.applications, application)
}

func (c *caller) Everywhere() bool { return c.applications == nil }
func (c *caller) Operates() bool   { return false }

// as admits everybody as a caller for some applications.
func as(applications ...string) func(http.Header, *http.Request) (front.Caller, *problem.Problem) {
	c := &caller{applications}
	return func(http.Header, *http.Request) (front.Caller, *problem.Problem) { return c, nil }
}

// Who is not admitted gets no decision on any route, and what the problem says of it.
// Whether the server lives is for everybody.
func TestNotAdmitted(t *testing.T) {
	s, f := serve(t, Config{Admit: func(answer http.Header, r *http.Request) (front.Caller, *problem.Problem) {
		answer.Set("WWW-Authenticate", "Bearer")
		return nil, &problem.Problem{Name: "unauthorized", Status: http.StatusUnauthorized, Detail: "no"}
	}})
	for _, r := range Routes() {
		if r.Method != http.MethodPost {
			resp, err := http.Get(s.URL + r.Path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("%s: %d", r.Path, resp.StatusCode)
			}
			continue
		}
		resp, body := send(t, post1(t, s.URL+r.Path, `{"broken`))
		wantProblem(t, resp, body, 401, "", "no")
		if got := resp.Header.Get("WWW-Authenticate"); got != "Bearer" {
			t.Errorf("%s: WWW-Authenticate %q", r.Path, got)
		}
	}
	if n := f.asked.Load(); n != 0 {
		t.Errorf("the gate was asked %d times", n)
	}
}

// Other applications than the caller's are answered as unknown ones, and nothing is
// charged.
func TestReaches(t *testing.T) {
	g, store := realGate(t)
	const known, unknown = `{"application":"a","operation":"o","subject":"s"}`, `{"application":"b","operation":"o","subject":"s"}`
	open, _ := serve(t, Config{Gate: g})
	_, reserved := send(t, post1(t, open.URL+"/v1/reserve", known))
	_, ticket, _ := strings.Cut(reserved, `"ticket":"`)
	ticket, _, _ = strings.Cut(ticket, `"`)
	charged := store.applied.Load()

	other, _ := serve(t, Config{Gate: g, Admit: as("b")})
	const detail = `application: "a" is not in the policy`
	for _, path := range []string{"/v1/take", "/v1/peek", "/v1/explain", "/v1/reserve"} {
		resp, body := send(t, post1(t, other.URL+path, known))
		wantProblem(t, resp, body, 404, "application", detail)
		_, truly := send(t, post1(t, open.URL+path, unknown))
		if strings.ReplaceAll(truly, `\"b\"`, `\"a\"`) != body {
			t.Errorf("%s: an unknown application gets\n%s, another one's\n%s", path, truly, body)
		}
	}
	for _, path := range []string{"/v1/settle", "/v1/renew", "/v1/release"} {
		for _, application := range []string{"", `,"application":"a"`} {
			resp, body := send(t, post1(t, other.URL+path, `{"ticket":"`+ticket+`"`+application+`}`))
			wantProblem(t, resp, body, 404, "ticket", `ticket: is of application "a"`)
		}
	}
	resp, body := send(t, post1(t, other.URL+"/v1/take/batch", `{"items":[`+unknown+`,`+known+`],"atomic":true}`))
	wantProblem(t, resp, body, 404, "items.1.application", `items.1.application: "a" is not in the policy`)
	if _, body := send(t, post1(t, other.URL+"/v1/take/batch", `{"items":[`+known+`]}`)); !strings.HasPrefix(body, `{"results":[{"problem":{"type":"urn:headgate:problem:not_found"`) {
		t.Errorf("a batch with an item of another application: %s", body)
	}
	resp, body = send(t, post1(t, other.URL+"/v1/throttle", `{"key":"k","rate":"5/1s","burst":9}`))
	wantProblem(t, resp, body, 403, "", notEverywhere.Detail)
	if n := store.applied.Load(); n != charged {
		t.Errorf("the store was asked %d times", n-charged)
	}

	ours, _ := serve(t, Config{Gate: g, Admit: as("a")})
	if _, body := send(t, post1(t, ours.URL+"/v1/take/batch", `{"items":[`+unknown+`,`+known+`,{"operation":"o"}]}`)); !strings.Contains(body, `[{"problem":{"type":"urn:headgate:problem:not_found"`) ||
		!strings.Contains(body, `"allowed":true`) || !strings.Contains(body, "application: is required") {
		t.Errorf("a batch with items of several applications: %s", body)
	}
	if _, body := send(t, post1(t, ours.URL+"/v1/settle", `{"ticket":"`+ticket+`"}`)); !strings.Contains(body, `"held":true`) {
		t.Errorf("settle: %s", body)
	}
	every, _ := serve(t, Config{Gate: g, Admit: as()})
	if _, body := send(t, post1(t, every.URL+"/v1/throttle", `{"key":"k","rate":"5/1s","burst":9}`)); !strings.Contains(body, `"allowed":true`) {
		t.Errorf("throttle: %s", body)
	}
	if _, body := send(t, post1(t, every.URL+"/v1/take", known)); !strings.Contains(body, `"decision_id"`) {
		t.Errorf("take: %s", body)
	}
}

// An atomic batch with an item of another application is refused whole, before it is
// charged.
func TestAtomicReaches(t *testing.T) {
	s, f := serve(t, Config{Admit: as("a")})
	resp, body := send(t, post1(t, s.URL+"/v1/take/batch", `{"items":[{"application":"a"},{"application":"b"}],"atomic":true}`))
	wantProblem(t, resp, body, 404, "items.1.application", `items.1.application: "b" is not in the policy`)
	if n := f.asked.Load(); n != 0 {
		t.Errorf("the gate was asked %d times", n)
	}
}
