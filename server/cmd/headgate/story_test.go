package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// clockwork is a store whose clock the test sets.
type clockwork struct {
	*memstore.Store
	at atomic.Int64
}

func (c *clockwork) Now() int64 { return c.at.Load() }

func (c *clockwork) Apply(ctx context.Context, b *headgate.Batch) error {
	b.Now = c.Now()
	return c.Store.Apply(ctx, b)
}

// shop is the server of the story.
type shop struct {
	t       *testing.T
	h       *house
	clock   *clockwork
	address string
	app     string // the token of the application
}

const storyAdmin = "a-token-of-these-tests-long-enough"

// openShop starts a server whose time is the test's, wired as serve does it.
func openShop(t *testing.T, log io.Writer, webhooks ...webhook) *shop {
	t.Helper()
	clock := &clockwork{Store: memstore.New(memstore.Config{Origin: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixMicro()})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	s := &settings{data: data, http: listener.Addr().String(), admin: autoAdmin, token: storyAdmin, store: "memory", auth: authToken}
	h := &house{
		log: slog.New(slog.NewTextHandler(log, nil)), settings: s, name: "node", at: &listeners{http: listener}, started: time.Now(),
		backend: &backend{store: clock, memory: clock.Store}, clock: func() time.Time { return time.UnixMicro(clock.Now()) },
	}
	h.metrics = newMetrics(h)
	if h.gate, err = gate.Open(t.Context(), gate.Config{Store: clock}); err != nil {
		t.Fatal(err)
	}
	end, err := h.openGuard(s)
	if err != nil {
		t.Fatal(err)
	}
	h.apply(&live{aliases: true, subjects: subjectsPlain, webhooks: webhooks})
	db, err := h.openRecords(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	tasks.Go(func() { h.follower.Run(ctx) })
	tasks.Go(func() { h.meter.Run(ctx) })
	server := h.httpDoor()
	tasks.Go(func() { server.Serve(listener) })
	t.Cleanup(func() {
		server.Close()
		cancel()
		tasks.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		end()
	})
	return &shop{t: t, h: h, clock: clock, address: listener.Addr().String()}
}

// at sets the clock, after what was used has been put on record, as it is every few
// seconds.
func (s *shop) at(instant string) {
	s.t.Helper()
	if err := s.h.meter.Flush(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, instant)
	if err != nil {
		s.t.Fatal(err)
	}
	s.clock.at.Store(at.UnixMicro())
}

func (s *shop) do(method, path, body string, status int, parts ...string) string {
	s.t.Helper()
	return administer(s.t, s.address, storyAdmin, method, path, body, status, parts...)
}

// buy asks n times for one, with the token of the application, and returns how many
// passed and the last answer.
func (s *shop) buy(subject string, n int) (allowed int, last string) {
	s.t.Helper()
	for range n {
		last = administer(s.t, s.address, s.app, "POST", "/v1/take", fmt.Sprintf(`{"application":"shop","operation":"buy","subject":%q}`, subject), 200)
		if strings.Contains(last, `"allowed":true,"reason"`) {
			allowed++
		}
	}
	return allowed, last
}

// expect buys and says what must come of it.
func (s *shop) expect(subject string, n, allowed int, parts ...string) {
	s.t.Helper()
	got, last := s.buy(subject, n)
	if got != allowed {
		s.t.Errorf("%s: %d of %d passed, expected %d", subject, got, n, allowed)
	}
	for _, part := range parts {
		if !strings.Contains(last, part) {
			s.t.Errorf("%s: no %s in %s", subject, part, last)
		}
	}
}

// hooks is who is told of thresholds.
type hooks struct {
	*httptest.Server
	mu   sync.Mutex
	told []string
}

func newHooks(t *testing.T, secret string) *hooks {
	h := new(hooks)
	h.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mac := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), body)
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); err != nil || r.Header.Get("Webhook-Signature") != want {
			t.Errorf("signature %q, want %q, %v", r.Header.Get("Webhook-Signature"), want, err)
		}
		var e struct {
			Type, Subject, Limit string
			Threshold            int
			PeriodEnds           time.Time `json:"period_ends"`
		}
		if err := json.Unmarshal(body, &e); err != nil {
			t.Error(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.told = append(h.told, fmt.Sprintf("%s %s %s %d%% until %s", e.Type, e.Subject, e.Limit, e.Threshold, e.PeriodEnds.Format("2006-01-02T15:04Z")))
	}))
	t.Cleanup(h.Close)
	return h
}

const storyPolicy = `
version: 1
plans:
  free:
    limits: [{name: daily, algorithm: quota, rate: 10/day, timezone: Europe/Paris}, {name: monthly, algorithm: quota, rate: 200/month, timezone: Europe/Paris}]
applications:
  shop:
    default_plan: free
    rules: [{name: buy, match: {operation: buy}}]
`

// TestStory: an application, two plans and a token; a customer meets the daily quota of
// the free plan, is moved to premium in the middle of the day and gets an override for a
// weekend; another one abuses, is banned, and forgiven; the month is closed and exported;
// and the audit log tells the story back.
func TestStory(t *testing.T) {
	const secret = "what only billing and we know of each other"
	hooks := newHooks(t, secret)
	var log bytes.Buffer
	s := openShop(t, &log, webhook{name: "billing", url: hooks.URL, secret: secret})

	s.at("2026-03-09T11:00:00Z") // a Monday
	s.do("PUT", "/v1/policy?note=opening", storyPolicy, 200, `"revision":2`)
	s.do("PUT", "/v1/plans/premium", `{"limits":[{"name":"daily","algorithm":"quota","rate":"100/day","timezone":"Europe/Paris"}]}`, 200, `"revision":3`)
	var made struct{ Token string }
	if err := json.Unmarshal([]byte(s.do("POST", "/v1/tokens", `{"name":"shop-backend","scopes":["decide"],"applications":["shop"]}`, 201)), &made); err != nil {
		t.Fatal(err)
	}
	s.app = made.Token

	s.expect("alice", 11, 10, `"reason":"quota_exceeded"`, `"bound_by":"plan/daily"`, `"resets_at":"2026-03-10T00:00:00+01:00"`, `"retry_after_ms":43200000`)
	s.do("PUT", "/v1/applications/shop/subject?subject=alice", `{"plan":"premium","note":"bought at noon"}`, 200, `"effective_plan":"premium"`, `"used":10,"remaining":90`)
	s.expect("alice", 20, 20, `"used":30,"remaining":70`)
	s.do("PUT", "/v1/applications/shop/subject?subject=alice", `{"plan":"premium","overrides":[{"limit":"plan/daily","rate":"500/day",
		"from":"2026-03-14T00:00:00+01:00","until":"2026-03-16T00:00:00+01:00","note":"fair"}]}`, 200)
	s.at("2026-03-13T22:59:59Z") // Friday, one second to midnight in Paris
	s.expect("alice", 101, 100, `"bound_by":"plan/daily"`, `"limit":100`)
	s.at("2026-03-14T09:00:00Z")
	s.expect("alice", 150, 150, `"limit":500,"used":150`)
	s.at("2026-03-15T23:00:00Z") // Monday in Paris
	s.expect("alice", 101, 100, `"limit":100,"used":100`)

	s.at("2026-03-16T10:00:00Z")
	s.expect("mallory", 30, 10, `"reason":"quota_exceeded"`)
	s.do("GET", "/v1/top?by=denied&application=shop", "", 200, `{"application":"shop","subject":"mallory","count":20,`)
	s.do("POST", "/v1/applications/shop/subject/ban?subject=mallory", `{"for":"24h","reason":"hammers the checkout"}`, 200)
	s.expect("mallory", 1, 0, `"reason":"banned"`, `"retry_after_ms":86400000`)
	s.do("DELETE", "/v1/applications/shop/subject/ban?subject=mallory", "", 200, `"ban":null`)
	s.do("POST", "/v1/applications/shop/subject/reset?subject=mallory", `{"limits":"daily"}`, 200, `"used":0`)
	s.expect("mallory", 1, 1)

	s.at("2026-03-31T23:30:00Z") // 1 April in Paris, 31 March in UTC
	s.expect("alice", 1, 1)
	s.at("2026-04-01T05:00:00Z")
	bill := s.do("GET", "/v1/usage?application=shop&period=month&from=2026-03&to=2026-04&format=csv", "", 200)
	want := []string{
		"application,subject,operation,plan,unit,from,to,timezone,allowed,denied,cost,overage,revision,final",
		"shop,alice,buy,free,requests,2026-03-01T00:00:00+01:00,2026-04-01T00:00:00+02:00,Europe/Paris,10,1,10,0,*,true",
		"shop,alice,buy,premium,requests,2026-03-01T00:00:00+01:00,2026-04-01T00:00:00+02:00,Europe/Paris,370,2,370,0,*,true",
		"shop,mallory,buy,free,requests,2026-03-01T00:00:00+01:00,2026-04-01T00:00:00+02:00,Europe/Paris,11,20,11,0,*,true",
		"shop,mallory,buy,,requests,2026-03-01T00:00:00+01:00,2026-04-01T00:00:00+02:00,Europe/Paris,0,1,0,0,*,true", // a ban has no plan
	}
	slices.Sort(want[1:])
	got := strings.Split(strings.TrimSpace(strings.ReplaceAll(bill, "\r", "")), "\n")
	slices.Sort(got[1:])
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("not billed: %s", want[i])
		case i >= len(want):
			t.Errorf("billed: %s", got[i])
		default:
			fields := strings.Split(got[i], ",")
			if i > 0 {
				fields[len(fields)-2] = "*"
			}
			if line := strings.Join(fields, ","); line != want[i] {
				t.Errorf("billed\n%s, expected\n%s", line, want[i])
			}
		}
	}
	if again := s.do("GET", "/v1/usage?application=shop&period=month&from=2026-03&to=2026-04&format=csv", "", 200); again != bill {
		t.Errorf("exported again:\n%s\nbefore:\n%s", again, bill)
	}

	var audit struct {
		Items []struct{ Actor, Action, Subject, Target string }
	}
	if err := json.Unmarshal([]byte(s.do("GET", "/v1/audit?limit=100", "", 200)), &audit); err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range slices.Backward(audit.Items) {
		told = append(told, strings.TrimSpace(e.Action+" "+e.Subject))
	}
	story := "policy.put, policy.put, plan.put, token.create, subject.put alice, subject.put alice, subject.ban mallory, subject.unban mallory, subject.reset mallory"
	if got := strings.Join(told, ", "); got != story {
		t.Errorf("the audit log says\n%s, expected\n%s", got, story)
	}

	wanted := []string{
		"quota.threshold alice plan/daily 50% until 2026-03-09T23:00Z", "quota.threshold alice plan/daily 80% until 2026-03-09T23:00Z", "quota.threshold alice plan/daily 100% until 2026-03-09T23:00Z",
		"quota.threshold alice plan/daily 50% until 2026-03-13T23:00Z", "quota.threshold alice plan/daily 80% until 2026-03-13T23:00Z", "quota.threshold alice plan/daily 100% until 2026-03-13T23:00Z",
		"quota.threshold alice plan/daily 50% until 2026-03-16T23:00Z", "quota.threshold alice plan/daily 80% until 2026-03-16T23:00Z", "quota.threshold alice plan/daily 100% until 2026-03-16T23:00Z",
		"quota.threshold mallory plan/daily 50% until 2026-03-16T23:00Z", "quota.threshold mallory plan/daily 80% until 2026-03-16T23:00Z", "quota.threshold mallory plan/daily 100% until 2026-03-16T23:00Z",
	}
	slices.Sort(wanted)
	var heard []string
	for start := time.Now(); ; <-time.After(10 * time.Millisecond) {
		hooks.mu.Lock()
		heard = slices.Sorted(slices.Values(hooks.told))
		hooks.mu.Unlock()
		if len(heard) >= len(wanted) || time.Since(start) > patience {
			break
		}
	}
	if !slices.Equal(heard, wanted) {
		t.Errorf("webhooks were told\n%s\nexpected\n%s", strings.Join(heard, "\n"), strings.Join(wanted, "\n"))
	}
	if strings.Contains(log.String(), secret) || strings.Contains(log.String(), s.app) || strings.Contains(log.String(), storyAdmin) {
		t.Error("a secret is in the log")
	}
}
