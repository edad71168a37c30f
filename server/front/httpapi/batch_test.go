package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// result is one result of a batch: a decision or a problem.
type result struct {
	Decision *answer `json:"decision"`
	Problem  *struct {
		Type, Title, Detail, Field string
		Status                     int
		Errors                     []struct{ Pointer, Detail string }
	} `json:"problem"`
}

// short is the result in a few words.
func (r *result) short() string {
	switch {
	case r.Decision != nil && r.Problem == nil:
		return r.Decision.Subject + " " + r.Decision.Reason
	case r.Problem != nil && r.Decision == nil && len(r.Problem.Errors) == 1:
		return fmt.Sprintf("%d %s %s", r.Problem.Status, r.Problem.Errors[0].Pointer, r.Problem.Detail)
	case r.Problem != nil && r.Decision == nil:
		return fmt.Sprintf("%d %s", r.Problem.Status, r.Problem.Detail)
	}
	return fmt.Sprintf("%+v", *r)
}

func results(t *testing.T, resp *http.Response, body string) []string {
	t.Helper()
	var m struct {
		Results []result `json:"results"`
	}
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %s: %v", resp.StatusCode, body, err)
	}
	list := make([]string, len(m.Results))
	for i := range m.Results {
		list[i] = m.Results[i].short()
	}
	return list
}

func wantResults(t *testing.T, got []string, want ...string) {
	t.Helper()
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func item(rest string) string { return `{"application":"a","operation":"o",` + rest + `}` }

func TestBatch(t *testing.T) {
	g, _ := realGate(t)
	var reasons []headgate.Reason
	s, _ := serve(t, Config{Gate: g, Decided: func(d *gate.Decision, _ time.Duration) { reasons = append(reasons, d.Reason) }})
	resp, body := send(t, post1(t, s.URL+"/v1/take/batch", `{"items":[`+strings.Join([]string{
		item(`"subject":"alice"`), item(`"subject":"bob","cost":2`), item(`"subject":"alice","cost":-1`), item(`"subject":"alice"`),
		`{"application":"nowhere","operation":"o","subject":"x"}`, item(`"subject":"alice"`), item(`"subject":"x","max_wait_ms":1`), item(`"subject":"x","max_wait_ms":0`),
		item(`"subject":"x","subjet":"y"`), item(`"cost":1`), item(`"subject":"x","attributes":{"a":{}}`),
	}, ",")+`]}`))
	wantResults(t, results(t, resp, body),
		"alice ok", "bob ok", "400 /items/2/cost items.2.cost: -1: must not be negative", "alice ok",
		`404 /items/4/application items.4.application: "nowhere" is not in the policy`, "alice rate_limited",
		"400 /items/6/max_wait_ms items.6.max_wait_ms: items of a batch do not wait: leave it out", "x ok",
		"400 /items/8/subjet items.8.subjet: unknown field", "400 /items/9/subject items.9.subject: is required by limit o/burst",
		"400 /items/10/attributes/a items.10.attributes.a: must be a string, not an object",
	)
	if fmt.Sprint(reasons) != "[ok ok ok rate_limited ok]" {
		t.Errorf("reported %v", reasons)
	}
}

func TestAtomicBatch(t *testing.T) {
	g, store := realGate(t)
	s, _ := serve(t, Config{Gate: g})
	ask := func(items ...string) (*http.Response, string) {
		return send(t, post1(t, s.URL+"/v1/take/batch", `{"atomic":true,"items":[`+strings.Join(items, ",")+`]}`))
	}
	for _, tt := range []struct {
		name          string
		items         []string
		status        int
		field, detail string
	}{
		{"cost", []string{item(`"subject":"alice"`), item(`"subject":"a"`), item(`"subject":"a"`), item(`"cost":-1`)}, 400, "items.3.cost", "items.3.cost: -1: must not be negative"},
		{"application", []string{item(`"subject":"alice"`), `{"application":"b","operation":"o"}`}, 404, "items.1.application", `items.1.application: "b" is not in the policy`},
		{"subject", []string{item(`"subject":"alice"`), item(`"cost":1`)}, 400, "items.1.subject", "items.1.subject: is required by limit o/burst"},
		{"key", []string{item(`"subject":"alice","idempotency_key":"k"`)}, 400, "items.0.idempotency_key", "items.0.idempotency_key: only with atomic: false"},
		{"wait", []string{item(`"subject":"alice","max_wait_ms":1`)}, 400, "items.0.max_wait_ms", "items.0.max_wait_ms: items of a batch do not wait: leave it out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := ask(tt.items...)
			wantProblem(t, resp, body, tt.status, tt.field, tt.detail)
			if pointer := `"pointer":"/` + strings.ReplaceAll(tt.field, ".", "/") + `"`; !strings.Contains(body, pointer) {
				t.Errorf("%s is not in %s", pointer, body)
			}
		})
	}
	if n := store.applied.Load(); n != 0 {
		t.Errorf("the store was asked %d times for batches with a fault", n)
	}
	resp, body := ask(item(`"subject":"alice"`), item(`"subject":"bob","cost":3`), item(`"subject":"carol"`))
	wantResults(t, results(t, resp, body), "alice batch_refused", "bob cost_exceeds_limit", "carol batch_refused")
	resp, body = ask(item(`"subject":"alice"`), item(`"subject":"bob","cost":2`), item(`"subject":"alice"`))
	wantResults(t, results(t, resp, body), "alice ok", "bob ok", "alice ok")
	resp, body = ask(item(`"subject":"carol"`), item(`"subject":"alice"`))
	wantResults(t, results(t, resp, body), "carol batch_refused", "alice rate_limited")
	if n := store.applied.Load(); n != 3 {
		t.Errorf("the store was asked %d times, want once for each batch", n)
	}
}

func TestBadBatch(t *testing.T) {
	many := func(n int) string { return `{"items":[` + strings.Repeat(`{},`, n-1) + `{}],"atomic":` }
	for _, tt := range []struct {
		name, body    string
		status        int
		field, detail string
	}{
		{"no items", `{}`, 400, "items", "items: is required"},
		{"empty", `{"items":[]}`, 400, "items", "items: must be 1 to 1000"},
		{"object", `{"items":{}}`, 400, "items", "items: must be an array, not an object"},
		{"1,001", many(1001) + `false}`, 400, "items", "items: more than 1000"},
		{"101 atomic", many(101) + `true}`, 400, "items", "items: 101: at most 100 with atomic: true"},
		{"atomic", `{"items":[{}],"atomic":1}`, 400, "atomic", "atomic: must be true or false, not a number"},
		{"unknown", `{"items":[{}],"atomics":true}`, 400, "atomics", "atomics: unknown field"},
		{"no object", `{"items":[{},7]}`, 400, "items.1", "items.1: must be an object, not a number"},
		{"broken item", `{"items":[{},{"a":]}]}`, 400, "items.1", "items.1: the body is not valid JSON: at byte 18 expected a value, found ']'"},
		{"deep", `{"items":[{"a":` + strings.Repeat(`[`, 100000), 400, "items.0", "items.0: is nested deeper than 64 levels"},
		{"not closed", `{"items":[{}`, 400, "items", "items: the body is not valid JSON: it ends at byte 12, expected ',' or ']'"},
		{"no comma", `{"items":[{} {}]}`, 400, "items", "items: the body is not valid JSON: at byte 13 expected ',' or ']', found '{'"},
		{"garbage", `{"items":[{}]}]`, 400, "", "the body is not valid JSON: at byte 14 expected the end of the body, found ']'"},
		{"large", `{"items":[{"subject":"` + strings.Repeat("x", MaxBatchBody), 413, "", "the body must not be larger than 1048576 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, f := serve(t, Config{})
			resp, body := send(t, post1(t, s.URL+"/v1/take/batch", tt.body))
			wantProblem(t, resp, body, tt.status, tt.field, tt.detail)
			if n := f.asked.Load(); n != 0 {
				t.Errorf("the gate was asked %d times", n)
			}
		})
	}
	s, f := serve(t, Config{})
	for _, body := range []string{many(1000) + `false}`, many(100) + `true}`, ` { "atomic" : false , "items" : [ { } , { } ] } `} {
		if resp, got := send(t, post1(t, s.URL+"/v1/take/batch", body)); resp.StatusCode != 200 {
			t.Errorf("%.40s: %d %.200s", body, resp.StatusCode, got)
		}
	}
	if n := f.asked.Load(); n != 1102 {
		t.Errorf("%d decisions", n)
	}
}

// TestBatchAtOneInstant: the clock is read once for all items, and a large batch
// is sent as it comes.
func TestBatchAtOneInstant(t *testing.T) {
	store := memstore.New(memstore.Config{MaxBytes: 1 << 20})
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(testPolicy), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	readings := 0
	c := &instants{Gate: g}
	s, _ := serve(t, Config{Gate: c, Now: func() int64 { readings++; return store.Now() }})
	body := `{"items":[` + strings.Repeat(item(`"subject":"alice"`)+",", 999) + item(`"subject":"alice"`) + `]}`
	resp, got := send(t, post1(t, s.URL+"/v1/take/batch", body))
	list := results(t, resp, got)
	if len(list) != 1000 || list[1] != "alice ok" || list[2] != "alice rate_limited" || list[999] != "alice rate_limited" {
		t.Errorf("%d results: %v", len(list), list)
	}
	if readings != 1 || len(c.at) != 1 || c.at[0] == 0 || resp.ContentLength != -1 {
		t.Errorf("%d readings, instants %v, length %d", readings, c.at, resp.ContentLength)
	}
}

// instants keeps the different instants at which it was asked to decide.
type instants struct {
	*gate.Gate
	at []int64
}

func (c *instants) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	if n := len(c.at); n == 0 || c.at[n-1] != r.Now {
		c.at = append(c.at, r.Now)
	}
	return c.Gate.Take(ctx, r, d)
}

// TestPanicInBatch: an answer that has begun is broken off, and not ended like
// a whole one.
func TestPanicInBatch(t *testing.T) {
	var panics int
	s, _ := serve(t, Config{Panicked: func() { panics++ }})
	for _, before := range []int{1, 500} {
		body := `{"items":[` + strings.Repeat(`{},`, before) + `{"subject":"bug"}]}`
		resp, err := http.DefaultClient.Do(post1(t, s.URL+"/v1/take/batch", body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if before == 1 {
			wantProblem(t, resp, string(got), 500, "", "the server failed; its log says how")
		} else if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if panics != 2 {
		t.Errorf("%d panics were counted", panics)
	}
}

// TestStoreAwayInBatch: problems inside are told of each item, and nothing of
// the inside.
func TestStoreAwayInBatch(t *testing.T) {
	s, _ := serve(t, Config{})
	resp, body := send(t, post1(t, s.URL+"/v1/take/batch", `{"items":[{"subject":"store away"},{"subject":"b"},{"subject":"broken"}]}`))
	wantResults(t, results(t, resp, body), "503 the store cannot decide at the moment", "b ok", "500 the server could not decide; its log says why")
	resp, body = send(t, post1(t, s.URL+"/v1/take/batch", `{"atomic":true,"items":[{"subject":"b"},{"subject":"store away"}]}`))
	wantProblem(t, resp, body, 503, "", "the store cannot decide at the moment")
}

// TestEndedBatch: what is left of a batch whose request was ended is not charged.
func TestEndedBatch(t *testing.T) {
	f := &fakeGate{}
	ctx, end := context.WithCancel(t.Context())
	end()
	w := httptest.NewRecorder()
	New(Config{Gate: f}).ServeHTTP(w, post1(t, "/v1/take/batch", `{"items":[{},{"cost":-1}]}`).WithContext(ctx))
	wantResults(t, results(t, w.Result(), w.Body.String()), "503 the server is stopping", "400 /items/1/cost items.1.cost: -1: must not be negative")
	if n := f.asked.Load(); n != 0 {
		t.Errorf("the gate was asked %d times", n)
	}
}
