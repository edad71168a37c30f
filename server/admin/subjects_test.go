package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/records"
	"github.com/headgate/headgate/store/memstore"
)

const subjectPolicy = `
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 10/day, timezone: Asia/Kathmandu}, {name: monthly, algorithm: quota, rate: 100/month}]}
  pro: {limits: [{name: daily, algorithm: quota, rate: 20/day}]}
applications:
  email: {default_plan: free, ban: {after: 2, within: 1h, for: 1h}, rules: [{name: send, match: {operation: send}, limits: [{name: w, rate: 3/h}]}]}
  web: {rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: 1/h}]}]}
`

// site is the administration over a real gate and real records.
type site struct {
	t       *testing.T
	handler http.Handler
	gate    *gate.Gate
	records *records.DB
	guard   *access.Guard
	log     bytes.Buffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteOver(t, memstore.New(memstore.Config{}))
}

// What was read can be sent back.
func TestSubjectBack(t *testing.T) {
	s := newSite(t)
	const at = "/v1/applications/email/subject?subject=alice"
	s.do("PUT", at, `{"plan":"pro","note":"x","overrides":[{"limit":"plan/daily","rate":"30/day"}]}`, 200)
	s.do("PUT", at, `{"plan":"","timezone":"","anchor":0,"note":"","overrides":[]}`, 200, `"known":true,"plan":"","timezone":"","anchor":0,"note":"","overrides":[]`)
	s.do("PUT", at, `{"plan":"","plan":"pro"}`, 400)
	s.do("PUT", at, `{"plan":"nothing"}`, 400, `/plan`)
}

// A change that was refused to somebody is in the audit log, and not too often.
func TestRefusalsOnRecord(t *testing.T) {
	s := newSite(t)
	wantAnswer(t, s.as("reader", "PUT", "/v1/applications/email/subject?subject=alice", `{}`), 403)
	wantAnswer(t, s.as("emailer", "POST", "/v1/policy/rollback", `{"revision":1}`), 403)
	s.do("PUT", "/v1/applications/email/subject?subject=alice", `{}`, 200)
	wantAnswer(t, s.as(testToken, "PUT", "/v1/applications/email/subject?subject=alice", `{}`, "If-Match", `"9"`), 412)
	s.pin("policy.yaml")
	s.do("PUT", "/v1/policy", `{}`, 409)
	s.do("GET", "/v1/audit", "", 200,
		`"action":"put","application":"","subject":"","target":"/v1/policy","refused":"something stands in the way"`,
		`"actor":"bootstrap","via":"api","address":"192.0.2.1","action":"put","application":"email","subject":"alice","target":"/v1/applications/email/subject","refused":"somebody else was faster"`,
		`"actor":"emailer","via":"api","address":"192.0.2.1","action":"post","application":"","subject":"","target":"/v1/policy/rollback","refused":"the token does not permit it"`,
		`"actor":"reader","via":"api","address":"192.0.2.1","action":"put","application":"email","subject":"alice"`)
	for range 50 {
		s.as("reader", "PUT", "/v1/applications/email/subject?subject=alice", `{}`)
	}
	list, _, err := s.records.Audits(t.Context(), records.AuditQuery{Actor: "reader", Limit: 100})
	if err != nil || len(list) != 10 {
		t.Errorf("%d entries of 51 refusals, %v", len(list), err)
	}
}

// Who administers one application reaches no budgets of others, nor a copy of all state.
func TestOneApplication(t *testing.T) {
	s := newSite(t)
	s.guard.Learn([]records.Token{{ID: "w", Name: "webadmin", Digest: sha256.Sum256([]byte("webadmin")), Scopes: []records.Scope{records.Admin}, Applications: []string{"web"}}}, false)
	wantAnswer(t, s.as("webadmin", "POST", "/v1/backup", ""), 403)
	for _, limit := range []string{`"across":"all"`, `"per":"global"`} {
		part := `{"limits":[{"name":"d","rate":"10/day","per":"subject",` + limit + `}]}`
		part = strings.Replace(part, `"per":"subject","per"`, `"per"`, 1)
		wantAnswer(t, s.as("webadmin", "PUT", "/v1/applications/web", part), 403, "limit d is a budget that applications share")
		s.do("PUT", "/v1/applications/web", part, 200)
	}
}

// A plan that subjects on record have does not go without a word.
func TestOrphans(t *testing.T) {
	s := newSite(t)
	s.do("PUT", "/v1/applications/email/subject?subject=alice", `{"plan":"pro"}`, 200)
	without := strings.ReplaceAll(subjectPolicy, "  pro: {limits: [{name: daily, algorithm: quota, rate: 20/day}]}\n", "")
	w := s.as(testToken, "PUT", "/v1/policy", without, "Content-Type", "application/yaml")
	wantAnswer(t, w, 200, `plan pro is gone, and 1 subject on record named it`)
}

// The audit log says what a token may do, and takes whatever is in a request.
func TestAuditTexts(t *testing.T) {
	s := newSite(t)
	s.do("POST", "/v1/tokens", `{"name":"app","scopes":["decide"],"applications":["email"],"for":"24h"}`, 201)
	wantAnswer(t, s.as("reader", "DELETE", "/v1/plans/%00%ff", ""), 403)
	s.do("PUT", "/v1/applications/email/subject?subject=alice", `{"note":"a\u0000b"}`, 400, "NUL")
	s.do("POST", "/v1/applications/email/subject/reset?subject=alice", `{"limits":["\u0000"]}`, 400)
	s.do("GET", "/v1/audit", "", 200, `"detail":{"name":"app","scopes":["decide"],"applications":["email"],"for":"24h"}`, "/v1/plans/��")
}

// absent is a store that cannot be asked.
type absent struct{ headgate.Store }

func (absent) Apply(context.Context, *headgate.Batch) error {
	return &headgate.Error{Code: headgate.Unavailable, Err: errors.New("down")}
}

// Who must be banned while the store is away is banned, and the answer says so.
func TestSubjectWithoutStore(t *testing.T) {
	s := newSiteOver(t, absent{memstore.New(memstore.Config{})})
	const at = "/v1/applications/email/subject?subject=alice"
	s.do("PUT", at, `{"plan":"pro"}`, 200, `"plan":"pro"`, `"limits":null`, `"degraded":"store_unavailable"`)
	s.do("POST", "/v1/applications/email/subject/ban?subject=alice", `{"for":"1h"}`, 200, `"ban":{"until":`, `"limits":null`)
	s.do("GET", at, "", 200, `"plan":"pro"`, `"degraded":"store_unavailable"`)
	s.do("POST", "/v1/applications/email/subject/reset?subject=alice", `{"limits":"all"}`, 503)
	s.do("DELETE", "/v1/applications/email/subject/ban?subject=alice", "", 503)
}

func newSiteOver(t *testing.T, store headgate.Store) *site {
	t.Helper()
	s := &site{t: t}
	var err error
	if s.gate, err = gate.Open(t.Context(), gate.Config{Policy: []byte(subjectPolicy), Store: store}); err != nil {
		t.Fatal(err)
	}
	if s.records, err = records.Open(t.Context(), records.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "records.db")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.records.Close() })
	limiter, err := headgate.New(memstore.New(memstore.Config{MaxBytes: 1 << 20}), headgate.PerMinute(10))
	if err != nil {
		t.Fatal(err)
	}
	guard := access.New(access.Config{Token: testToken, Failures: limiter})
	guard.Learn([]records.Token{
		{ID: "r", Name: "reader", Digest: sha256.Sum256([]byte("reader")), Scopes: []records.Scope{records.Read}},
		{ID: "e", Name: "emailer", Digest: sha256.Sum256([]byte("emailer")), Scopes: []records.Scope{records.Operate}, Applications: []string{"email"}},
	}, true)
	s.guard = guard
	s.pin("")
	return s
}

// pin makes the routes those of a server whose policy is in a file, "" for none.
func (s *site) pin(file string) {
	mux := http.NewServeMux()
	for pattern, h := range Routes(Config{
		Gate: s.gate, Journal: journal.New(journal.Config{}), Guard: s.guard, Records: s.records, Pinned: file, Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
	}) {
		mux.Handle(pattern, h)
	}
	s.handler = mux
}

// as does a request with a token and header fields by pairs.
func (s *site) as(token, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := request(method, path, body)
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

func (s *site) do(method, path, body string, status int, parts ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	w := s.as(testToken, method, path, body)
	wantAnswer(s.t, w, status, parts...)
	return w
}

// take asks for a decision.
func (s *site) take(subject string, n int) (allowed int) {
	s.t.Helper()
	var d gate.Decision
	for range n {
		if err := s.gate.Take(s.t.Context(), &gate.Request{Application: "email", Operation: "send", Subject: subject}, &d); err != nil {
			s.t.Fatal(err)
		}
		if d.Allowed {
			allowed++
		}
	}
	return allowed
}

func TestSubject(t *testing.T) {
	s := newSite(t)
	const alice = "/v1/applications/email/subject?subject=alice"
	w := s.do("GET", alice, "", 200, `"known":false`, `"plan":""`, `"effective_plan":"free"`, `"overrides":[]`, `"ban":null`, `"version":0`, `"changed_at":null`,
		`{"id":"send/w","algorithm":"token_bucket","owner":"subject","unit":"requests","allowed":true,"limit":3,"used":0,"remaining":3,"overage":0,"retry_after_ms":0,"reset_after_ms":0,"resets_at":null,"mode":"enforce","exact":true}`,
		`"id":"plan/daily"`, `"id":"app/ban"`, `+05:45"`)
	if got := w.Header().Get("ETag"); got != `"0"` {
		t.Errorf("ETag %s", got)
	}
	const full = `{"plan":"pro","timezone":"Europe/Paris","anchor":31,"note":"n","overrides":[{"limit":"daily","rate":"77/day","until":"2100-01-01T00:00:00Z"},{"limit":"w","rate":"unlimited"}]}`
	w = s.do("PUT", alice, full, 200, `"known":true`, `"plan":"pro"`, `"timezone":"Europe/Paris"`, `"anchor":31`, `"note":"n"`, `"changed_by":"bootstrap"`,
		`"overrides":[{"limit":"plan/daily","rate":"77/day","until":"2100-01-01T00:00:00Z"},{"limit":"send/w","rate":"unlimited"}]`)
	etag := w.Header().Get("ETag")
	s.do("GET", alice, "", 200, `"plan":"pro"`)

	// Lost updates are refused.
	wantAnswer(t, s.as(testToken, "PUT", alice, `{"plan":"free"}`, "If-Match", `"0"`), 412, "urn:headgate:problem:stale")
	wantAnswer(t, s.as(testToken, "DELETE", alice, "", "If-Match", `"0"`), 412, "stale")
	wantAnswer(t, s.as(testToken, "PUT", alice, `{"plan":"free"}`, "If-Match", "yes"), 400, "If-Match")
	wantAnswer(t, s.as(testToken, "PUT", alice, `{"plan":"free"}`, "If-Match", etag), 200, `"plan":"free"`, `"overrides":[]`)

	s.do("DELETE", alice, "", 200, `"known":false`)
	s.do("DELETE", alice, "", 404, "nothing is on record")
	if log, _, err := s.records.Audits(t.Context(), records.AuditQuery{Subject: "alice", Limit: 10}); err != nil || len(log) != 5 ||
		log[0].Action != "subject.delete" || log[2].Refused == "" || log[3].Refused == "" || log[4].Action != "subject.put" || log[4].Name != "bootstrap" || log[4].Detail != full {
		t.Errorf("the audit log: %+v, %v", log, err)
	}
}

func TestSubjectFaults(t *testing.T) {
	s := newSite(t)
	const alice = "/v1/applications/email/subject?subject=alice"
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/applications/nope/subject?subject=alice", "", 404, "not in the policy"},
		{"GET", "/v1/applications/email/subject", "", 400, "subject is required"},
		{"GET", "/v1/applications/email/subject?subject=a&subject=b", "", 400, "given twice"},
		{"GET", "/v1/applications/email/subject?subject=a&colour=red", "", 400, "unknown parameter"},
		{"GET", "/v1/applications/email/subject?subject=a%0Ab", "", 400, "line break"},
		{"GET", "/v1/applications/email/subject?subject=%ff", "", 400, "UTF-8"},
		{"GET", "/v1/applications/email/subject?subject=" + strings.Repeat("x", 513), "", 400, "at most 512"},
		{"POST", alice, "{}", 405, "use DELETE, GET, HEAD, PUT"},
		{"PUT", alice, `{"plan":"gold"}`, 400, `{"pointer":"/plan","detail":"there is no plan \"gold\"`},
		{"PUT", alice, `{"overrides":[{"limit":"w","rate":"1/m"}]}`, 400, `"pointer":"/overrides/0/rate"`},
		{"PUT", alice, `{"plan":"gold","anchor":99}`, 400, "and 1 more"},
		{"PUT", alice, `{"overrides":[{"limit":"w","rate":"1/h"},{"limit":"send/w","rate":"2/h"}]}`, 400, "hold at once"},
		{"PUT", alice, `plan: free`, 400, "not JSON"},
		{"PUT", alice, `[]`, 400, "must be a JSON object"},
		{"PUT", alice, `{"note":"` + strings.Repeat("x", 70_000) + `"}`, 413, "at most"},
		{"PUT", alice, "{\"note\":\"\xff\"}", 400, "not JSON"},
		{"POST", "/v1/applications/email/subject/reset?subject=alice", `{}`, 400, "limits is required"},
		{"POST", "/v1/applications/email/subject/reset?subject=alice", `{"limits":"some"}`, 400, "must be"},
		{"POST", "/v1/applications/email/subject/reset?subject=alice", `{"limits":[]}`, 400, "must be"},
		{"POST", "/v1/applications/email/subject/reset?subject=alice", `{"limits":["gone"]}`, 404, "no limit gone"},
		{"POST", "/v1/applications/email/subject/reset?subject=alice", `{"limits":"all","x":1}`, 400, "unknown field"},
		{"POST", "/v1/applications/email/subject/ban?subject=alice", `{}`, 400, "for is required"},
		{"POST", "/v1/applications/email/subject/ban?subject=alice", `{"for":"0s"}`, 400, "1s to"},
		{"POST", "/v1/applications/email/subject/ban?subject=alice", `{"for":"900000000h"}`, 400, "1s to"},
		{"POST", "/v1/applications/email/subject/ban?subject=alice", `{"for":"1h","reason":"` + strings.Repeat("x", 257) + `"}`, 400, "at most 256"},
		{"GET", "/v1/applications/email/subjects?limit=0", "", 400, "1 to 500"},
		{"GET", "/v1/applications/email/subjects?banned=no", "", 400, "must be true"},
		{"GET", "/v1/applications/nope/subjects", "", 404, "not in the policy"},
	} {
		w := s.as(testToken, tt.method, tt.path, tt.body)
		if wantAnswer(t, w, tt.status); !strings.Contains(strings.ReplaceAll(w.Body.String(), "must not be larger than", "at most"), tt.want) {
			t.Errorf("%s %.80s %.80s: no %s in %s", tt.method, tt.path, tt.body, tt.want, w.Body)
		}
	}
	wantAnswer(t, s.as("reader", "GET", alice, ""), 200)
	wantAnswer(t, s.as("reader", "PUT", alice, `{}`), 403, "operate")
	wantAnswer(t, s.as("emailer", "PUT", alice, `{}`), 200)
	wantAnswer(t, s.as("emailer", "GET", "/v1/applications/web/subjects", ""), 404, "not in the policy")
	wantAnswer(t, s.as("emailer", "PUT", "/v1/applications/web/subject?subject=alice", `{}`), 404, "not in the policy")
	if err := s.records.Close(); err != nil {
		t.Fatal(err)
	}
	s.do("GET", alice, "", 503, "records_unavailable")
	s.do("PUT", alice, "{}", 503, "records_unavailable")
	s.do("POST", "/v1/applications/email/subject/reset?subject=alice", `{"limits":"all"}`, 503, "records_unavailable")
}

// A mode is put on record, where other nodes find it; without that it is in force here.
func TestModeOnRecord(t *testing.T) {
	s := newSite(t)
	s.do("PUT", "/v1/mode", `{"application":"email","rule":"send","mode":"shadow","for":"30m"}`, 200, `"rule":"send"`)
	var at records.Cursor
	v, err := s.records.Next(t.Context(), &at)
	if err != nil || len(v.Modes) != 1 || v.Modes[0].Rule != "send" || !v.Modes[0].Shadow || v.Modes[0].Author != "bootstrap" {
		t.Errorf("%+v, %v", v.Modes, err)
	}
	s.do("GET", "/v1/audit?action=mode.put", "", 200, `"application":"email","subject":"","target":"shadow send 30m"`)
	if err := s.records.Close(); err != nil {
		t.Fatal(err)
	}
	s.do("PUT", "/v1/mode", `{"application":"web","mode":"shadow","for":"30m"}`, 503, "in force on this node alone")
	if n := len(s.gate.Modes()); n != 2 {
		t.Errorf("%d modes", n)
	}
}

func TestSubjects(t *testing.T) {
	s := newSite(t)
	for i := range 7 {
		s.do("PUT", fmt.Sprintf("/v1/applications/email/subject?subject=c%d", i), fmt.Sprintf(`{"plan":%q}`, []string{"free", "pro"}[i%2]), 200)
	}
	s.do("PUT", "/v1/applications/web/subject?subject=c9", `{}`, 200)
	s.do("POST", "/v1/applications/email/subject/ban?subject=mallory", `{"for":"1h","reason":"spam"}`, 200)
	list := func(query string) (names string) {
		t.Helper()
		cursor := ""
		for range 10 {
			w := s.do("GET", "/v1/applications/email/subjects?limit=2&"+query+"&cursor="+cursor, "", 200)
			var page struct {
				Items []struct{ Subject string }
				Next  *string
			}
			if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
				t.Fatal(err)
			}
			for _, item := range page.Items {
				names += item.Subject + " "
			}
			if page.Next == nil {
				return names
			}
			cursor = *page.Next
		}
		t.Fatal("no end")
		return ""
	}
	for query, want := range map[string]string{
		"": "c0 c1 c2 c3 c4 c5 c6 mallory ", "prefix=c": "c0 c1 c2 c3 c4 c5 c6 ", "plan=pro": "c1 c3 c5 ", "banned=true": "mallory ", "prefix=x": "",
	} {
		if got := list(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

func TestResetAndBan(t *testing.T) {
	s := newSite(t)
	const reset, ban = "/v1/applications/email/subject/reset?subject=alice", "/v1/applications/email/subject/ban?subject=alice"
	if n := s.take("alice", 2); n != 2 {
		t.Fatalf("%d pass", n)
	}
	used := func(want string) {
		t.Helper()
		state, err := s.gate.Inspect(t.Context(), "email", "alice")
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, l := range state.Limits {
			got.WriteString(fmt.Sprint(l.Used, " "))
		}
		if got.String() != want {
			t.Errorf("used %s, want %s", got.String(), want)
		}
	}
	used("2 2 2 0 ")
	s.do("POST", reset, `{"limits":"daily"}`, 200, `"id":"plan/daily","algorithm":"quota"`)
	used("2 0 2 0 ")
	s.do("POST", reset, `{"limits":["monthly"]}`, 200)
	used("2 0 0 0 ")
	s.do("POST", reset, `{"limits":"rate"}`, 200)
	used("0 0 0 0 ")
	if s.take("alice", 6); s.take("alice", 1) != 0 {
		t.Error("not banned")
	}
	s.do("POST", reset, `{"limits":"all"}`, 200)
	if s.take("alice", 1) != 0 {
		t.Error("a reset has forgiven a ban")
	}
	s.do("DELETE", ban, "", 200, `"ban":null`)
	if s.take("alice", 1) != 1 {
		t.Error("not forgiven")
	}

	w := s.do("POST", ban, `{"for":"90m","reason":"spam"}`, 200, `"reason":"spam"`, `"known":false`)
	var item stateItem
	if err := json.Unmarshal(w.Body.Bytes(), &item); err != nil || item.Ban == nil || time.Until(item.Ban.Until).Round(time.Minute) != 90*time.Minute {
		t.Errorf("%+v, %v", item.Ban, err)
	}
	s.do("PUT", "/v1/applications/email/subject?subject=alice", `{"plan":"pro"}`, 200, `"reason":"spam"`)
	s.do("DELETE", "/v1/applications/email/subject?subject=alice", "", 200, `"reason":"spam"`)
	s.do("DELETE", ban, "", 200, `"ban":null`)
	log, _, err := s.records.Audits(t.Context(), records.AuditQuery{Application: "email", Subject: "alice", Limit: 20})
	if err != nil {
		t.Fatal(err)
	}
	var actions []string
	for i := len(log) - 1; i >= 0; i-- {
		actions = append(actions, strings.TrimSpace(strings.TrimPrefix(log[i].Action, "subject.")+" "+log[i].Target))
	}
	if got := strings.Join(actions, ", "); got != "reset daily, reset monthly, reset rate, reset all, unban, ban 90m, put, delete, unban" {
		t.Errorf("the audit log: %s", got)
	}
}
