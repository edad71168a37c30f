package admin

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/headgate/headgate/server/records"
)

const (
	freePlan   = "/v1/plans/free"
	emailApp   = "/v1/applications/email"
	webApp     = "/v1/applications/web"
	goldLimits = "# gold\nlimits:\n  - {name: daily, algorithm: quota, rate: 30/day}\n"
)

// etag is the revision that an answer says.
func etag(w *httptest.ResponseRecorder) string { return w.Header().Get("ETag") }

func TestPlan(t *testing.T) {
	s := newSite(t)
	s.do("GET", "/v1/plans", "", 200, `{"items":[{"name":"free","limits":[{"name":"daily","algorithm":"quota","rate":"10/day","timezone":"Asia/Kathmandu"},`,
		`{"name":"pro","limits":[{"name":"daily","algorithm":"quota","rate":"20/day"}]}],"next":null}`)
	w := s.do("GET", freePlan, "", 200, `{"name":"free","revision":0,"document":{"limits":[{"name":"daily"`, `"applications":["email"],"subjects":0}`)
	if etag(w) != `"0"` {
		t.Errorf("ETag %s", etag(w))
	}
	s.do("PUT", "/v1/applications/email/subject?subject=alice", `{"plan":"pro"}`, 200)
	s.do("PUT", "/v1/applications/web/subject?subject=bob", `{"plan":"pro"}`, 200)
	s.do("GET", "/v1/plans/pro", "", 200, `"applications":[],"subjects":2}`)

	w = s.yaml("PUT", "/v1/plans/gold", goldLimits, 200, `{"revision":1,"at":"2`, `"author":"bootstrap","via":"api","note":"plan gold put","warnings":[],"name":"gold","created":true}`)
	if etag(w) != `"1"` {
		t.Errorf("ETag %s", etag(w))
	}
	want := strings.Replace(subjectPolicy, "20/day}]}\n", "20/day}]}\n  gold:\n    # gold\n    limits:\n      - {name: daily, algorithm: quota, rate: 30/day}\n", 1)
	if got := s.do("GET", "/v1/policy", "", 200).Body.String(); got != want {
		t.Errorf("the policy:\n%s", got)
	}
	s.do("PUT", "/v1/plans/gold?note=more", `{"limits":[]}`, 200, `"revision":2`, `"note":"more"`, `"created":false}`)
	s.do("GET", "/v1/plans/gold", "", 200, `{"name":"gold","revision":2,"document":{"limits":[]},"applications":[],"subjects":0}`)
	s.do("DELETE", "/v1/plans/gold", "", 200, `"revision":3`, `"note":"plan gold deleted"`, `"name":"gold","created":false}`)
	if got := s.do("GET", "/v1/policy", "", 200).Body.String(); got != subjectPolicy {
		t.Errorf("the policy:\n%s", got)
	}
	log, _, err := s.records.Audits(t.Context(), records.AuditQuery{Action: "plan.", Limit: 10})
	if err != nil || len(log) != 3 || log[0].Action != "plan.delete" || log[0].Target != "gold" || log[0].Application != "" ||
		log[2].Action != "plan.put" || log[2].Name != "bootstrap" || log[2].Detail != `{"lines_added":4,"lines_removed":0,"note":"plan gold put"}` {
		t.Errorf("the audit log: %+v, %v", log, err)
	}
}

func TestApplication(t *testing.T) {
	s := newSite(t)
	s.do("GET", "/v1/applications", "", 200, `{"items":[{"name":"email","default_plan":"free","limits":[],"rules":1},{"name":"web","default_plan":"","limits":[],"rules":1}],"next":null}`)
	s.do("GET", webApp, "", 200, `{"name":"web","revision":0,"document":{"rules":[{"name":"r","match":{"operation":"x"},"limits":[{"name":"w","rate":"1/h"}]}]}}`)
	s.yaml("PUT", "/v1/applications/sms", "default_plan: pro", 200, `"note":"application sms put"`, `"name":"sms","created":true}`)
	s.do("GET", "/v1/plans/pro", "", 200, `"applications":["sms"]`)
	s.do("GET", "/v1/applications/sms", "", 200, `"revision":1,"document":{"default_plan":"pro"}}`)
	s.do("DELETE", "/v1/applications/sms", "", 200, `"revision":2`)
	s.do("GET", "/v1/audit?application=sms", "", 200, `"action":"application.delete","application":"sms","subject":"","target":"sms"`, `"action":"application.put"`)
	s.do("DELETE", webApp, "", 200)
	s.do("DELETE", emailApp, "", 400, `"detail":"applications: is empty: a policy without applications decides nothing"`, `"pointer":"/applications"`)
}

// Whoever names a revision changes that one or nothing, and who names none loses nothing
// that others do at the same time.
func TestPartStale(t *testing.T) {
	s := newSite(t)
	w := s.do("PUT", "/v1/plans/gold", "{}", 200)
	for match, status := range map[string]int{`"0"`: 412, `"2"`: 412, "x": 400} {
		wantAnswer(t, s.as(testToken, "PUT", "/v1/plans/gold", "{}", "If-Match", match), status)
		wantAnswer(t, s.as(testToken, "DELETE", "/v1/plans/gold", "", "If-Match", match), status)
	}
	wantAnswer(t, s.as(testToken, "DELETE", "/v1/plans/gold", "", "If-Match", etag(w)), 200, `"revision":2`)

	// Two nodes do nine changes each, so that one change is tried ten times at most.
	one := s.handler
	s.pin("")
	nodes := []http.Handler{one, s.handler}
	var writers sync.WaitGroup
	for i := range 6 {
		writers.Go(func() {
			for j := range 3 {
				w := httptest.NewRecorder()
				nodes[i%2].ServeHTTP(w, request("PUT", fmt.Sprintf("/v1/plans/p%d-%d", i, j), "{}"))
				if w.Code != 200 || !strings.Contains(w.Body.String(), `"created":true`) {
					t.Errorf("%d: %s", w.Code, w.Body)
				}
			}
		})
	}
	writers.Wait()
	var list struct{ Items []struct{ Name string } }
	if err := json.Unmarshal(s.do("GET", "/v1/plans", "", 200).Body.Bytes(), &list); err != nil || len(list.Items) != 20 {
		t.Errorf("%d plans, %v: %v", len(list.Items), err, list)
	}
}

func TestPartInUse(t *testing.T) {
	s := newSite(t)
	const used = `
version: 1
plans:
  free: {limits: [{name: weekly, algorithm: quota, rate: 10/week}]}
  pro: {}
  left: {limits: [{name: rare, rate: 1/h}]}
applications:
  email:
    default_plan: free
    limits: [{name: a, per: subject, rate: 5/s, plans: {free: {rate: 6/s}}}]
    rules:
      - name: send
        match: {operation: send}
        limits: [{name: w, rate: 3/h, plans: {pro: unlimited, free: {rate: 4/h}}}]
        candidate: {limits: [{name: w, rate: 3/h, plans: {pro: unlimited}}]}
  web: {default_plan: free}
  sms: {}
subjects:
  email/a~lice: {plan: free}
  sms/bob: {overrides: [{limit: plan/rare, rate: 7/h}]}
`
	s.yaml("PUT", "/v1/policy", used, 200)
	s.do("DELETE", freePlan, "", 409, "urn:headgate:problem:in_use",
		`"detail":"plan free is in use by 2 default_plans, 2 limits, 1 subject of the policy: give them another plan first"`,
		`{"pointer":"/subjects/email~1a~0lice","detail":"names plan free"}`, `"pointer":"/applications/email/default_plan"`, `"pointer":"/applications/web/default_plan"`,
		`"pointer":"/applications/email/limits/0/plans/free"`, `"pointer":"/applications/email/rules/0/limits/0/plans/free"`)
	s.do("GET", freePlan, "", 200, `"applications":["email","web"]`)
	s.do("DELETE", "/v1/plans/pro", "", 409, "in use by 2 limits:", `"pointer":"/applications/email/rules/0/candidate/limits/0/plans/pro"`)
	s.do("DELETE", "/v1/plans/left", "", 409, "in_use", `plan left is in use: without it subjects[\"sms/bob\"].overrides[0].limit: `)
	s.do("DELETE", "/v1/applications/sms", "", 409, `"detail":"application sms is in use by 1 subject of the policy: delete them first"`)

	// Subjects on record use it too, banned ones their application alone.
	s.yaml("PUT", "/v1/policy", subjectPolicy, 200)
	for _, subject := range []string{"alice", "bob"} {
		s.do("PUT", "/v1/applications/web/subject?subject="+subject, `{"plan":"pro"}`, 200)
	}
	s.do("POST", "/v1/applications/web/subject/ban?subject=mallory", `{"for":"1h"}`, 200)
	s.do("DELETE", "/v1/plans/pro", "", 409, "plan pro is in use by 2 subjects on record: give them another plan first")
	s.do("DELETE", webApp, "", 409, "application web is in use by 3 subjects on record: delete them first")
	for _, subject := range []string{"alice", "bob"} {
		s.do("DELETE", "/v1/applications/web/subject?subject="+subject, "", 200)
	}
	s.do("DELETE", "/v1/plans/pro", "", 200)
	s.do("DELETE", webApp, "", 409, "1 subject on record")
	s.do("DELETE", "/v1/applications/web/subject/ban?subject=mallory", "", 200)
	s.do("DELETE", webApp, "", 200)
}

func TestPartFaults(t *testing.T) {
	s := newSite(t)
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               []string
	}{
		{"GET", "/v1/plans/gold", "", 404, []string{`plan: \"gold\" is not in the policy`}},
		{"DELETE", "/v1/plans/gold", "", 404, []string{`plan: \"gold\" is not in the policy`}},
		{"DELETE", "/v1/plans/a%20b", "", 404, []string{"not in the policy"}},
		{"GET", "/v1/applications/nope", "", 404, []string{`application: \"nope\" is not in the policy`}},
		{"DELETE", "/v1/applications/nope", "", 404, []string{`application: \"nope\" is not in the policy`}},
		{"PUT", "/v1/plans/a%2Fb", "{}", 400, []string{`"field":"plan"`, "is not one of a-z"}},
		{"PUT", "/v1/plans/" + strings.Repeat("x", 65), "{}", 400, []string{"must be 1 to 64"}},
		{"PUT", freePlan, "", 400, []string{"plans.free: is empty: must be a mapping", `"pointer":"/plans/free"`}},
		{"PUT", freePlan, "[]", 400, []string{"must be a mapping, not a list"}},
		{"PUT", freePlan, "limits: []\nx: [", 400, []string{"line 2: not valid YAML or JSON"}},
		{"PUT", freePlan, "limits: [{name: daily, algorithm: quota, rate: 10/d}]\ncolour: red", 400,
			[]string{`"pointer":"/plans/free/limits/0/rate"`, `"pointer":"/plans/free/colour"`, "and 1 more"}},
		{"PUT", freePlan, "limits: [{name: a, rate: 1/s}, {name: a, rate: 1/s}]", 400, []string{`the name a is taken: another limit of this list has it"`}},
		{"PUT", freePlan, "limits: []\nlimits: []", 400, []string{`duplicate key"`}},
		{"PUT", emailApp, "default_plan: gold", 400, []string{`there is no plan \"gold\"`, `"pointer":"/applications/email/default_plan"`}},
		{"PUT", freePlan + "?note=" + strings.Repeat("x", 257), "{}", 400, []string{"at most 256"}},
		{"PUT", freePlan + "?note=%00", "{}", 400, []string{"note: must be a text"}},
		{"PUT", freePlan + "?force=true", "{}", 400, []string{"unknown parameter"}},
		{"GET", freePlan + "?revision=1", "", 400, []string{"unknown parameter"}},
		{"GET", emailApp + "?revision=1", "", 400, []string{"unknown parameter"}},
		{"GET", "/v1/plans?limit=1", "", 400, []string{"unknown parameter"}},
		{"GET", "/v1/applications?limit=1", "", 400, []string{"unknown parameter"}},
		{"PUT", freePlan, "x: '" + strings.Repeat("x", 4<<20) + "'", 413, []string{"larger than 4194304 bytes"}},
		{"POST", freePlan, "{}", 405, []string{"use DELETE, GET, HEAD, PUT"}},
	} {
		s.yaml(tt.method, tt.path, tt.body, tt.status, tt.want...)
	}
	wantAnswer(t, s.as(testToken, "PUT", freePlan, "{}", "Content-Type", "text/plain"), 415, "one plan as a policy has it")
	if _, err := s.records.Policy(t.Context(), 0); !errors.Is(err, records.ErrNotFound) {
		t.Errorf("a policy was written: %v", err)
	}
	s.pin("/etc/headgate.yaml")
	s.do("PUT", freePlan, "{}", 409, "urn:headgate:problem:pinned", "--policy /etc/headgate.yaml, which rules")
	s.do("DELETE", emailApp, "", 409, "pinned")
	s.do("GET", freePlan, "", 200, `"name":"free"`)
}

// Warnings point into the policy, and name no lines.
func TestPartWarnings(t *testing.T) {
	s := newSite(t)
	s.yaml("PUT", "/v1/plans/gold", "limits: [{name: daily, rate: 1/s, burst: 1000}]", 200, `"warnings":[{"pointer":"/plans/gold/limits/0/burst","detail":"burst 1000 is more than`)
}

// A token for some applications sees and changes those alone.
func TestPartScopes(t *testing.T) {
	s := newSite(t)
	s.do("PUT", "/v1/applications/email/subject?subject=alice", `{"plan":"pro"}`, 200)
	s.do("PUT", "/v1/applications/web/subject?subject=bob", `{"plan":"pro"}`, 200)
	s.do("PUT", webApp, `{"default_plan":"free","limits":[{"name":"w","rate":"1/s","burst":1000}]}`, 200, `"pointer":"/applications/web/limits/0/burst"`)
	s.guard.Learn([]records.Token{{ID: "o", Name: "owner", Digest: sha256.Sum256([]byte("owner")), Scopes: []records.Scope{records.Admin}, Applications: []string{"email", "new"}}}, false)
	for _, tt := range []struct {
		token, method, path, body string
		status                    int
		want                      string
	}{
		{"reader", "GET", freePlan, "", 200, `"applications":["email","web"]`},
		{"reader", "HEAD", webApp, "", 200, ""},
		{"reader", "PUT", freePlan, "{}", 403, "lacks the scope admin"},
		{"reader", "DELETE", emailApp, "", 403, "lacks the scope admin"},
		{"emailer", "PUT", emailApp, "{}", 403, "lacks the scope admin"},
		{"emailer", "GET", emailApp, "", 200, `"name":"email"`},
		{"emailer", "GET", webApp, "", 404, `application: \"web\" is not in the policy`},
		{"emailer", "GET", "/v1/applications", "", 200, `{"items":[{"name":"email",`},
		{"emailer", "GET", "/v1/plans", "", 200, `"name":"pro"`},
		{"emailer", "GET", freePlan, "", 200, `"applications":["email"]`},
		{"emailer", "GET", "/v1/plans/pro", "", 200, `"subjects":1}`},
		{"owner", "PUT", freePlan, "{}", 403, "not for all applications"},
		{"owner", "DELETE", freePlan, "", 403, "not for all applications"},
		{"owner", "PUT", webApp, "{}", 404, "not in the policy"},
		{"owner", "DELETE", webApp, "", 404, "not in the policy"},
		{"owner", "PUT", "/v1/applications/new", `{"limits":[{"name":"w","rate":"1/s","burst":2000}]}`, 200, `"warnings":[{"pointer":"/applications/new/limits/0/burst","detail":"burst 2000`},
		{"owner", "DELETE", "/v1/applications/new", "", 200, `"warnings":[]`},
	} {
		w := s.as(tt.token, tt.method, tt.path, tt.body)
		wantAnswer(t, w, tt.status, tt.want)
		if tt.token != "reader" && tt.status == 200 && strings.Contains(w.Body.String(), "web") {
			t.Errorf("%s %s %s tells of another application: %s", tt.token, tt.method, tt.path, w.Body)
		}
	}
}

// A part of a policy that is written so that it cannot be changed alone is not changed.
func TestPartEntangled(t *testing.T) {
	s := newSite(t)
	entangled := "version: 1\nplans:\n  a: {}\n  b: {limits: []}\napplications:\n  web:\n    rules: [{name: r, match: {operation: o}, message: x}]\n  sms:\n    rules:\n    - name: r\n      match: {operation: o}\n      message: |+\n        x\n\n"
	s.yaml("PUT", "/v1/policy", entangled, 200)
	s.yaml("PUT", "/v1/applications/new", "{}", 400, "application new cannot be changed without the rest of the policy", "use PUT /v1/policy")
	s.yaml("PUT", "/v1/plans/a", "limits: []", 200)
}
