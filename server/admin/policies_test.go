package admin

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/headgate/headgate/server/records"
)

// yaml does a request whose body is a policy.
func (s *site) yaml(method, path, body string, status int, parts ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	w := s.as(testToken, method, path, body, "Content-Type", "application/yaml")
	wantAnswer(s.t, w, status, parts...)
	return w
}

func TestPolicy(t *testing.T) {
	s := newSite(t)
	w := s.do("GET", "/v1/policy", "", 200, "plans:\n  free:")
	if w.Body.String() != subjectPolicy || w.Header().Get("ETag") != `"0"` || w.Header().Get("Content-Type") != "application/yaml" {
		t.Errorf("%v\n%s", w.Header(), w.Body)
	}
	next := strings.Replace(subjectPolicy, "10/day", "30/day", 1)
	w = s.yaml("PUT", "/v1/policy?note=more", next, 200, `{"revision":1,"at":"`, `"author":"bootstrap","via":"api","note":"more","warnings":[]}`)
	if w.Header().Get("ETag") != `"1"` {
		t.Errorf("ETag %s", w.Header().Get("ETag"))
	}
	if got := s.do("GET", "/v1/policy", "", 200).Body.String(); got != next {
		t.Errorf("read again:\n%s", got)
	}
	for match, status := range map[string]int{`"0"`: 412, `"2"`: 412, `x`: 400} {
		wantAnswer(t, s.as(testToken, "PUT", "/v1/policy", subjectPolicy, "Content-Type", "application/yaml", "If-Match", match), status)
	}
	wantAnswer(t, s.as(testToken, "PUT", "/v1/policy", subjectPolicy, "Content-Type", "application/yaml", "If-Match", `"1"`), 200, `"revision":2`)
	s.do("POST", "/v1/policy/rollback", `{"revision":1}`, 200, `"revision":3`, `"note":"rollback to revision 1"`)
	if got := s.do("GET", "/v1/policy", "", 200).Body.String(); got != next {
		t.Errorf("rolled back:\n%s", got)
	}
	if got := s.do("GET", "/v1/policy?revision=2", "", 200).Body.String(); got != subjectPolicy {
		t.Errorf("revision 2:\n%s", got)
	}
	var page struct {
		Items []struct{ Revision int64 }
		Next  *string
	}
	if err := json.Unmarshal(s.do("GET", "/v1/policy/revisions?limit=2", "", 200).Body.Bytes(), &page); err != nil || fmt.Sprint(page.Items) != "[{3} {2}]" || page.Next == nil {
		t.Errorf("%+v, %v", page, err)
	}
	s.do("GET", "/v1/policy/revisions?limit=2&cursor="+*page.Next, "", 200, `"revision":1`, `"next":null`)
	log, _, err := s.records.Audits(t.Context(), records.AuditQuery{Action: "policy.", Limit: 10})
	if err != nil || len(log) != 3 || log[0].Action != "policy.rollback" || log[0].Target != "revision 1" || log[2].Detail != `{"lines_added":1,"lines_removed":1,"note":"more"}` {
		t.Errorf("the audit log: %+v, %v", log, err)
	}
}

func TestPolicyFaults(t *testing.T) {
	s := newSite(t)
	s.yaml("PUT", "/v1/policy", strings.Replace(subjectPolicy, "10/day", "10/d", 1)+"colour: red\n", 400, `"pointer":"/plans/free/limits/0/rate"`, `"pointer":"/colour"`, "and 1 more")
	s.yaml("PUT", "/v1/policy", "", 400, "the file is empty")
	s.yaml("PUT", "/v1/policy?note="+strings.Repeat("x", 257), subjectPolicy, 400, "at most 256")
	s.yaml("PUT", "/v1/policy?force=true", subjectPolicy, 400, "unknown parameter")
	s.yaml("PUT", "/v1/policy", strings.Repeat("#", 5<<20), 413)
	wantAnswer(t, s.as(testToken, "PUT", "/v1/policy", subjectPolicy, "Content-Type", "text/plain"), 415, "application/yaml")
	s.do("GET", "/v1/policy?revision=0", "", 400, "number of a revision")
	s.do("GET", "/v1/policy?revision=9", "", 404, "nothing is on record")
	s.do("POST", "/v1/policy/rollback", `{"revision":9}`, 404, "nothing is on record")
	s.do("POST", "/v1/policy/rollback", `{}`, 400, "revision is required")
	s.do("POST", "/v1/policy/rollback", `{"revision":"1"}`, 400, "must be a whole number")
	s.do("POST", "/v1/policy/rollback", `{"revision":1,"x":2}`, 400, "unknown field")
	s.do("POST", "/v1/policy/rollback", `{"revision":1,"note":"`+strings.Repeat("x", 207)+`"}`, 400, "at most 206")
	s.do("POST", "/v1/policy/rollback", `{"revision":1,"note":"a\u0000"}`, 400, "at most 206")
	s.yaml("PUT", "/v1/policy?note=%00", subjectPolicy, 400, "at most 256")
	s.yaml("PUT", "/v1/policy?note=%ff", subjectPolicy, 400, "at most 256")
	s.yaml("POST", "/v1/policy/validate", subjectPolicy, 200, `{"valid":true,"warnings":[`)
	s.yaml("POST", "/v1/policy/validate", "version: 2\n", 400, "version 2 is not known here")
	for _, path := range []string{"/v1/policy", "/v1/policy/revisions", "/v1/tokens"} {
		wantAnswer(t, s.as("emailer", "GET", path, ""), 403)
	}
	wantAnswer(t, s.as("reader", "PUT", "/v1/policy", subjectPolicy), 403, "lacks the scope admin")
	if _, err := s.records.Policy(t.Context(), 0); err == nil {
		t.Error("a policy was written")
	}
}

// Why a revision is taken back stands in the list.
func TestRollbackNote(t *testing.T) {
	s := newSite(t)
	s.yaml("PUT", "/v1/policy", subjectPolicy, 200, `"revision":1`)
	note := strings.Repeat("x", 206)
	s.do("POST", "/v1/policy/rollback", `{"revision":1,"note":"`+note+`"}`, 200, `"revision":2`, `"note":"rollback to revision 1: `+note+`"`)
}

// A policy that a file rules is not to be changed here, and is told as it is.
func TestPinned(t *testing.T) {
	s := newSite(t)
	s.pin("/etc/headgate.yaml")
	s.yaml("PUT", "/v1/policy", subjectPolicy, 409, "urn:headgate:problem:pinned", "--policy /etc/headgate.yaml, which rules")
	s.do("POST", "/v1/policy/rollback", `{"revision":1}`, 409, "pinned")
	if got := s.do("GET", "/v1/policy", "", 200).Body.String(); got != subjectPolicy {
		t.Error(got)
	}
	s.do("PUT", "/v1/applications/email/subject?subject=alice", `{"plan":"pro"}`, 200)
}

func TestTokens(t *testing.T) {
	s := newSite(t)
	w := s.do("POST", "/v1/tokens", `{"name":"CI","scopes":["read","decide","read"],"applications":["email"],"for":"720h"}`, 201,
		`"name":"CI","scopes":["decide","read"],"applications":["email"]`, `"created_by":"bootstrap"`, `"revoked_at":null`, `"token":"hgt_`)
	var made tokenItem
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil {
		t.Fatal(err)
	}
	every := s.do("POST", "/v1/tokens", `{"name":"all","scopes":["admin"],"applications":["*"]}`, 201, `"applications":["*"]`, `"expires_at":null`)
	list := s.do("GET", "/v1/tokens", "", 200, `"name":"CI"`, `"name":"all"`).Body.String()
	if strings.Contains(list, made.Token) || strings.Contains(list, "hgt_") || every.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("a token is shown twice, or kept: %s", list)
	}
	s.do("DELETE", "/v1/tokens?id="+made.ID, "", 200, `"revoked_at":"2`)
	s.do("DELETE", "/v1/tokens?id="+made.ID, "", 404, "nothing is on record")
	for body, want := range map[string]string{
		`{"scopes":["read"]}`:                                          "name: must be",
		`{"name":"a\nb","scopes":["read"]}`:                            "name: must be",
		`{"name":"x"}`:                                                 "scopes is required",
		`{"name":"x","scopes":["write"]}`:                              "must be decide, read, operate or admin",
		`{"name":"x","scopes":"read"}`:                                 "scopes: must be a list, not string",
		`{"name":"x","scopes":["read"],"applications":["a b"]}`:        "no name of an application",
		`{"name":"x","scopes":["read"],"applications":[]}`:             "is empty",
		`{"name":"x","scopes":["read"],"for":"1s"}`:                    "must be a time of",
		`{"name":"x","scopes":["read"],"expires_at":"2030-01-01"}`:     "unknown field",
		`{"name":"` + strings.Repeat("x", 65) + `","scopes":["read"]}`: "name: must be",
	} {
		s.do("POST", "/v1/tokens", body, 400, want)
	}
	s.do("DELETE", "/v1/tokens", "", 400, "id is required")
	s.do("DELETE", "/v1/tokens?id=bootstrap", "", 400, "not on record")
	log := s.do("GET", "/v1/audit?action=token.", "", 200, `"action":"token.create"`, `"action":"token.revoke","application":"","subject":"","target":"`+made.ID).Body.String()
	if strings.Contains(log, "hgt_") {
		t.Errorf("a token is in the audit log: %s", log)
	}
}

func TestAudit(t *testing.T) {
	s := newSite(t)
	for _, subject := range []string{"alice", "bob", "carol"} {
		s.do("PUT", "/v1/applications/email/subject?subject="+subject, `{"note":"`+subject+`"}`, 200)
	}
	s.do("GET", "/v1/audit?limit=2", "", 200, `{"items":[{"id":3,`, `"actor":"bootstrap","via":"api","address":"192.0.2.1","action":"subject.put","application":"email","subject":"carol","target":"","refused":"","detail":{"note":"carol"}}`, `"next":"2"}`)
	s.do("GET", "/v1/audit?limit=2&cursor=2", "", 200, `"subject":"alice"`, `"next":null}`)
	s.do("GET", "/v1/audit?subject=bob&application=email&actor=bootstrap&action=subject.put&since=1h", "", 200, `"subject":"bob"`)
	s.do("GET", "/v1/audit?actor=ann", "", 200, `{"items":[],"next":null}`)
	for query, want := range map[string]string{"since=x": "since", "limit=0": "1 to 500", "cursor=x": "cursor", "colour=red": "unknown parameter"} {
		s.do("GET", "/v1/audit?"+query, "", 400, want)
	}
	wantAnswer(t, s.as("emailer", "GET", "/v1/audit", ""), 400, "not for all applications")
	wantAnswer(t, s.as("emailer", "GET", "/v1/audit?application=email", ""), 200, `"subject":"carol"`)
	wantAnswer(t, s.as("emailer", "GET", "/v1/audit?application=web", ""), 404)
}
