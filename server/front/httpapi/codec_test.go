package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/front"
)

// mirror is a request as encoding/json reads it.
type mirror struct {
	Application string            `json:"application"`
	Operation   string            `json:"operation"`
	Subject     string            `json:"subject"`
	Cost        *json.Number      `json:"cost"`
	Costs       map[string]int64  `json:"costs"`
	Plan        string            `json:"plan"`
	Attributes  map[string]string `json:"attributes"`
	Request     struct {
		Method  string         `json:"method"`
		Path    string         `json:"path"`
		Host    string         `json:"host"`
		Headers map[string]any `json:"headers"`
		IP      string         `json:"ip"`
	} `json:"request"`
	IdempotencyKey string `json:"idempotency_key"`
	MaxWaitMS      *int64 `json:"max_wait_ms"`
	Fields         bool   `json:"fields"`
}

const sample = `{"application":"email","operation":"sendEmail","subject":"alice","cost":5,"costs":{"tokens":3000},"plan":"","attributes":{"org":"acme"},
 "request":{"method":"POST","path":"/api/x","headers":{},"ip":"203.0.113.9"},"idempotency_key":"","max_wait_ms":0}`

// FuzzDecodeTake: what we read, encoding/json reads the same; what it cannot
// read, we refuse; and what we call broken is broken.
func FuzzDecodeTake(f *testing.F) {
	for _, s := range []string{
		sample, `{}`, `{"cost":0}`, `{"cost":-1}`, `{"cost":1e3}`, `{"cost":01}`, `{"cost":9007199254740991}`, `{"subject":"\ud83d\ude00\u00e9\n\/"}`,
		`{"subject":"\ud800"}`, `{"subject":"a"}x`, `{"subject":"a",}`, `{"attributes":{"a":"b","c":"d"}}`, `{"request":{"headers":{"x-a":"b"},"ip":"::1"}}`, `{"request":{"headers":{"a":["b","c"],"d":[]}}}`, `{"request":{"headers":{"a":[,]}}}`,
		`[1]`, `null`, "{\"subject\":\"\xff\"}", "\ufeff{}", `{"costs":{"a":1,"b":0}}`, `{"costs":{"a":-1}}`, `{"costs":{"":1}}`, `{"costs":{"a":1,"a":1}}`, `{"idempotency_key":"k\u0000","max_wait_ms":300000}`, `{"max_wait_ms":300001}`, `{"fields":true}`, `{"fields":false}`, `{"fields":truer}`, `{"a":1}`, `{"plan":null}`, "{\"plan\":\"\u2028\"}", `{"plan":"\u000g"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var c ask
		err := c.decode(body, takeFields)
		if err != nil {
			if strings.Contains(err.Error(), "not valid JSON") && json.Valid([]byte(body)) && utf8.ValidString(body) && !wrongStart(body) {
				t.Fatalf("%q is valid JSON: %v", body, err)
			}
			if headgate.CodeOf(err) != headgate.InvalidRequest {
				t.Fatalf("%q: code %v", body, headgate.CodeOf(err))
			}
			return
		}
		var m mirror
		dec := json.NewDecoder(strings.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&m); err != nil {
			t.Fatalf("%q was read, encoding/json says %v", body, err)
		}
		if _, err := dec.Token(); err != io.EOF {
			t.Fatalf("%q was read, something follows it", body)
		}
		r := &c.req
		cost := "0"
		if m.Cost != nil {
			cost = m.Cost.String()
		}
		got := fmt.Sprintf("%q %q %q %d %v %q %q %q %q", r.Application, r.Operation, r.Subject, r.Cost, r.CostSaid, r.Plan, r.Method, r.Path, r.Host)
		want := fmt.Sprintf("%q %q %q %s %v %q %q %q %q", m.Application, m.Operation, m.Subject, cost, m.Cost != nil, m.Plan, m.Request.Method, m.Request.Path, m.Request.Host)
		if got != want {
			t.Fatalf("%q\n%s\nencoding/json\n%s", body, got, want)
		}
		if !maps.Equal(r.Attributes, m.Attributes) || len(r.Headers) != len(m.Request.Headers) {
			t.Fatalf("%q: %v, %v; encoding/json %v, %v", body, r.Attributes, r.Headers, m.Attributes, m.Request.Headers)
		}
		for k, v := range m.Request.Headers {
			want := v
			if one, ok := v.(string); ok {
				want = []any{one}
			}
			if got := r.Headers.Values(k); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
				t.Fatalf("%q: header %q is %q, want %q", body, k, got, want)
			}
		}
		if (m.Request.IP == "") == r.IP.IsValid() {
			t.Fatalf("%q: ip %v of %q", body, r.IP, m.Request.IP)
		}
		if !maps.Equal(r.Costs, m.Costs) || len(r.Costs) > front.MaxUnits || r.IdempotencyKey != m.IdempotencyKey {
			t.Fatalf("%q: costs %v, key %q; encoding/json %v, %q", body, r.Costs, r.IdempotencyKey, m.Costs, m.IdempotencyKey)
		}
		if c.fields != m.Fields {
			t.Fatalf("%q: fields %v", body, c.fields)
		}
		if r.MaxWaitSaid != (m.MaxWaitMS != nil) || r.MaxWait.Milliseconds() != or(m.MaxWaitMS) || r.MaxWait > policy.MaxMaxWait {
			t.Fatalf("%q: waits %v (said %v)", body, r.MaxWait, r.MaxWaitSaid)
		}
	})
}

// FuzzDecodeBatch: a body is read if and only if encoding/json reads it, and
// each item is then read like a body of its own.
func FuzzDecodeBatch(f *testing.F) {
	for _, s := range []string{
		`{"items":[{}]}`, `{"items":[` + sample + `,{"subject":"a","cost":-1}],"atomic":true}`, `{"atomic":false,"items":[{"a":{"b":[[],{},[1,2,{"c":null}]]}}]}`,
		`{"items":[]}`, `{"items":[{},]}`, `{"items":[,{}]}`, `{"items":[{} {}]}`, `{"items":[1]}`, `{"items":{}}`, `{"items":null}`, `{"atomic":true}`, `{}`, `[]`,
		`{"items":[{"a":tru}]}`, `{"items":[{"a":-}]}`, `{"items":[{"a":[1}]}]}`, `{"items":[{"a" 1}]}`, `{"items":[{"a":"\ud800"}]}`, `{"items":[{}],"items":[{}]}`,
		`{"items":[{"a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}]}`, `{"items":[{}],"atomic":null}`, "{\"items\":[{\"a\":\"\xff\"}]}", `{"items":[{}]}x`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		b, err := decodeBatch(body)
		if err != nil {
			if strings.Contains(err.Error(), "not valid JSON") && json.Valid([]byte(body)) && utf8.ValidString(body) && !wrongStart(body) {
				t.Fatalf("%q is valid JSON: %v", body, err)
			}
			if headgate.CodeOf(err) != headgate.InvalidRequest {
				t.Fatalf("%q: code %v", body, headgate.CodeOf(err))
			}
			return
		}
		var m struct {
			Items  []json.RawMessage `json:"items"`
			Atomic bool              `json:"atomic"`
		}
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			t.Fatalf("%q was read, encoding/json says %v", body, err)
		}
		if len(m.Items) != len(b.items) || len(b.items) > MaxItems || m.Atomic != b.atomic {
			t.Fatalf("%q: %d items, atomic %v; encoding/json %d, %v", body, len(b.items), b.atomic, len(m.Items), m.Atomic)
		}
		for i, raw := range m.Items {
			var got, want ask
			gotErr := got.object(&scanner{s: body, i: b.items[i]}, takeFields)
			wantErr := want.decode(string(raw), takeFields)
			if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || gotErr == nil && !reflect.DeepEqual(got, want) {
				t.Fatalf("%q: item %d is %+v %v, alone %+v %v", body, i, got.req, gotErr, want.req, wantErr)
			}
		}
	})
}

// FuzzDecodeClaim: what is read, encoding/json reads the same.
func FuzzDecodeClaim(f *testing.F) {
	for _, s := range []string{
		`{"ticket":"t"}`, `{"ticket":"t","cost":3,"costs":{"tokens":0},"application":"a"}`, `{"ticket":"t","ttl_ms":1}`, `{"ticket":"t","ttl_ms":0}`,
		`{"ticket":"t","ttl_ms":86400001}`, `{"ticket":""}`, `{}`, `{"ticket":1}`, `{"ticket":"t","ticket":"t"}`, `{"ticket":"t"}}`, `{"cost":-1}`,
	} {
		for kind := range uint8(3) {
			f.Add(s, kind)
		}
	}
	f.Fuzz(func(t *testing.T, body string, kind uint8) {
		known := [][]string{settleFields, renewFields, releaseFields}[kind%3]
		c, err := decodeClaim(body, known)
		if err != nil {
			if strings.Contains(err.Error(), "not valid JSON") && json.Valid([]byte(body)) && utf8.ValidString(body) && !wrongStart(body) {
				t.Fatalf("%q is valid JSON: %v", body, err)
			}
			if headgate.CodeOf(err) != headgate.InvalidRequest {
				t.Fatalf("%q: code %v", body, headgate.CodeOf(err))
			}
			return
		}
		var m struct {
			Ticket      string           `json:"ticket"`
			Application string           `json:"application"`
			Cost        *int64           `json:"cost"`
			Costs       map[string]int64 `json:"costs"`
			TTLMS       *int64           `json:"ttl_ms"`
		}
		dec := json.NewDecoder(strings.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&m); err != nil {
			t.Fatalf("%q was read, encoding/json says %v", body, err)
		}
		if c.Ticket != m.Ticket || len(c.Ticket) > gate.MaxTicket || c.Application != m.Application || c.CostSaid != (m.Cost != nil) ||
			c.Cost != or(m.Cost) || !maps.Equal(c.Costs, m.Costs) || c.TTL != time.Duration(or(m.TTLMS))*time.Millisecond {
			t.Fatalf("%q: %+v; encoding/json %+v", body, c, m)
		}
		if m.TTLMS != nil && (kind%3 != 1 || *m.TTLMS < 1 || *m.TTLMS > 86_400_000) || kind%3 != 0 && (m.Cost != nil || m.Costs != nil) {
			t.Fatalf("%q was read as kind %d", body, kind%3)
		}
	})
}

// wrongStart reports whether a document is valid but no object, of which we
// say at its first byte that it is not what we expect.
func wrongStart(body string) bool {
	return !strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "{")
}

// answer is a decision as encoding/json writes it.
type answer struct {
	DecisionID     string           `json:"decision_id"`
	Allowed        bool             `json:"allowed"`
	Reason         string           `json:"reason"`
	BoundBy        *string          `json:"bound_by"`
	Retryable      bool             `json:"retryable"`
	Application    string           `json:"application"`
	Rule           string           `json:"rule"`
	Operation      string           `json:"operation"`
	Subject        string           `json:"subject"`
	Plan           string           `json:"plan"`
	Cost           int64            `json:"cost"`
	Costs          map[string]int64 `json:"costs"`
	Limit          *int64           `json:"limit"`
	Remaining      *int64           `json:"remaining"`
	RetryAfterMS   *int64           `json:"retry_after_ms"`
	ResetAfterMS   *int64           `json:"reset_after_ms"`
	Limits         []answerLimit    `json:"limits"`
	Mode           string           `json:"mode"`
	WouldDeny      *string          `json:"would_deny"`
	Candidate      *candidate       `json:"candidate"`
	Degraded       *string          `json:"degraded"`
	Replayed       bool             `json:"replayed"`
	WaitedMS       int64            `json:"waited_ms"`
	Ticket         *string          `json:"ticket"`
	PolicyRevision uint64           `json:"policy_revision"`
	DelayMS        int64            `json:"delay_ms,omitempty"`
	Message        string           `json:"message,omitempty"`
	Held           *bool            `json:"held,omitempty"`
}

type candidate struct {
	Allowed      bool          `json:"allowed"`
	Reason       string        `json:"reason"`
	BoundBy      *string       `json:"bound_by"`
	RetryAfterMS *int64        `json:"retry_after_ms"`
	Limits       []answerLimit `json:"limits"`
}

type answerLimit struct {
	ID           string  `json:"id"`
	Algorithm    string  `json:"algorithm"`
	Owner        string  `json:"owner"`
	Unit         string  `json:"unit"`
	Allowed      bool    `json:"allowed"`
	Limit        int64   `json:"limit"`
	Used         int64   `json:"used"`
	Remaining    int64   `json:"remaining"`
	Overage      int64   `json:"overage"`
	Rollover     int64   `json:"rollover,omitempty"`
	RetryAfterMS *int64  `json:"retry_after_ms"`
	ResetAfterMS int64   `json:"reset_after_ms"`
	ResetsAt     *string `json:"resets_at"`
	Mode         string  `json:"mode"`
	Exact        bool    `json:"exact"`
}

// or is what p points to, the zero value for null.
func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// marshal is what encoding/json makes of a.
func marshal(t testing.TB, a *answer) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(a); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func FuzzEncode(f *testing.F) {
	f.Add("email", "alice", "plan/daily", int64(5), int64(41_000_000_001), uint64(42), true)
	f.Add("<&>\u2028\u2029\xff\x00\x7f\"\\", "\b\f\n\r\t\x1f", "é😀\xed\xa0\x80", int64(-1), int64(0), uint64(1<<63), false)
	p := prepared(f, headgate.PerMinute(5))
	f.Fuzz(func(t *testing.T, app, subject, id string, n, wait int64, rev uint64, bound bool) {
		d := gate.Decision{
			Decision: headgate.Decision{Reason: headgate.RateLimited, Retryable: true, BoundBy: -1},
			ID:       [2]uint64{rev, uint64(n)}, Application: app, Rule: id, Operation: subject, Subject: subject, Plan: id, Cost: n, Degraded: id, Revision: rev,
		}
		a := answer{
			DecisionID: fmt.Sprintf("%016x%016x", rev, uint64(n)), Reason: "rate_limited", Retryable: true, Application: app, Rule: id, Operation: subject,
			Subject: subject, Plan: id, Cost: n, Costs: map[string]int64{}, Limits: []answerLimit{}, Mode: "enforce", PolicyRevision: rev,
		}
		if id != "" {
			a.Degraded = &id
		}
		var limits []gate.LimitState
		if bound {
			wait = max(wait, 0)
			ms := wait / 1e6
			if wait%1e6 > 0 {
				ms++
			}
			d.BoundBy, d.Limit, d.Remaining, d.RetryAfter, d.ResetAfter = 0, n, n, time.Duration(wait), time.Duration(wait)
			limits = []gate.LimitState{{ID: id, Limit: p, Owner: app, Unit: subject, Outcome: headgate.Outcome{Limit: n, Used: n, Overage: n, RetryAfter: time.Duration(wait)}}}
			a.BoundBy, a.Limit, a.Remaining, a.RetryAfterMS, a.ResetAfterMS = &id, &n, &n, &ms, &ms
			a.Limits = []answerLimit{{ID: id, Algorithm: "token_bucket", Owner: app, Unit: subject, Limit: n, Used: n, Overage: n, RetryAfterMS: &ms, Mode: "enforce", Exact: true}}
		}
		got := string(appendDecision(nil, &d, limits))
		if want := marshal(t, &a); got != want {
			t.Fatalf("got\n%s\nencoding/json\n%s", got, want)
		}
	})
}

func prepared(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// contract is the decision of the contract's example.
func contract(t testing.TB) (*gate.Decision, []gate.LimitState) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	d := &gate.Decision{
		Decision: headgate.Decision{
			Reason: headgate.QuotaExceeded, Retryable: true, Limit: 1000, Remaining: 3,
			RetryAfter: 40_999_001 * time.Microsecond, ResetAfter: 41 * time.Second,
		},
		ID:          [2]uint64{1, 2},
		Application: "email", Rule: "sendEmail", Operation: "sendEmail", Subject: "alice", Plan: "free", Cost: 5, Revision: 42,
	}
	quota := headgate.QuotaPer(1000, headgate.Day).In(paris)
	return d, []gate.LimitState{{
		ID: "plan/daily", Limit: prepared(t, quota), Owner: "subject", Unit: "requests",
		Outcome: headgate.Outcome{
			Limit: 1000, Used: 997, Remaining: 3, RetryAfter: 41 * time.Second, ResetAfter: 41 * time.Second,
			ResetsAt: time.Date(2026, 3, 9, 23, 0, 0, 0, time.UTC).UnixMicro(),
		},
	}}
}

func TestEncodeContract(t *testing.T) {
	d, limits := contract(t)
	const want = `{"decision_id":"00000000000000010000000000000002","allowed":false,"reason":"quota_exceeded","bound_by":"plan/daily","retryable":true,` +
		`"application":"email","rule":"sendEmail","operation":"sendEmail","subject":"alice","plan":"free","cost":5,"costs":{},` +
		`"limit":1000,"remaining":3,"retry_after_ms":41000,"reset_after_ms":41000,` +
		`"limits":[{"id":"plan/daily","algorithm":"quota","owner":"subject","unit":"requests","allowed":false,"limit":1000,"used":997,"remaining":3,` +
		`"overage":0,"retry_after_ms":41000,"reset_after_ms":41000,"resets_at":"2026-03-10T00:00:00+01:00","mode":"enforce","exact":true}],` +
		`"mode":"enforce","would_deny":null,"candidate":null,"degraded":null,"replayed":false,"waited_ms":0,"ticket":null,"policy_revision":42}`
	if got := string(appendDecision(nil, d, limits)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestEncodeVariants(t *testing.T) {
	tests := []struct {
		name   string
		change func(*gate.Decision, []gate.LimitState)
		want   []string
	}{
		{"never", func(d *gate.Decision, l []gate.LimitState) {
			d.Reason, d.Retryable, d.RetryAfter = headgate.CostExceedsLimit, false, 0
			l[0].Never, l[0].RetryAfter = true, 0
		}, []string{`"reason":"cost_exceeds_limit"`, `"retryable":false`, `"remaining":3,"retry_after_ms":null`, `"overage":0,"retry_after_ms":null`}},
		{"allowed", func(d *gate.Decision, l []gate.LimitState) {
			d.Allowed, d.Reason, d.RetryAfter = true, headgate.OK, 0
		}, []string{`"allowed":true,"reason":"ok","bound_by":"plan/daily"`, `"retry_after_ms":0,"reset_after_ms":41000,"limits":[`}},
		{"shadow", func(d *gate.Decision, l []gate.LimitState) {
			d.Shadow, d.WouldDeny, l[0].Shadow = true, headgate.Banned, true
		}, []string{`"mode":"shadow","exact":true}],"mode":"shadow","would_deny":"banned"`}},
		{"shared", func(d *gate.Decision, l []gate.LimitState) { l[0].Shared = true }, []string{`"mode":"enforce","exact":false}]`}},
		{"leased", func(d *gate.Decision, l []gate.LimitState) { l[0].Leased = true }, []string{`"mode":"enforce","exact":false}]`}},
		{"recovering", func(d *gate.Decision, l []gate.LimitState) { l[0].Recovering = true }, []string{`"exact":true,"recovering":true}]`}},
		{"degraded", func(d *gate.Decision, l []gate.LimitState) { d.Degraded = "local" }, []string{`"degraded":"local"`}},
		{"leaky", func(d *gate.Decision, l []gate.LimitState) { d.Delay = 1500 * time.Microsecond }, []string{`"policy_revision":42,"delay_ms":2}`}},
		{"message", func(d *gate.Decision, l []gate.LimitState) { d.Message = `Slow "down"` }, []string{`"policy_revision":42,"message":"Slow \"down\""}`}},
		{"message, allowed", func(d *gate.Decision, l []gate.LimitState) {
			d.Allowed, d.Reason, d.RetryAfter, d.Message = true, headgate.OK, 0, "Slow down"
		}, []string{`"policy_revision":42}`}},
		{"no limit, no retry", func(d *gate.Decision, l []gate.LimitState) {
			d.BoundBy, d.Retryable = -1, false
		}, []string{`"bound_by":null`, `"limit":null,"remaining":null,"retry_after_ms":null,"reset_after_ms":null`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, limits := contract(t)
			tt.change(d, limits)
			got := string(appendDecision(nil, d, limits))
			if !json.Valid([]byte(got)) {
				t.Fatalf("not JSON: %s", got)
			}
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("%s\nis not in\n%s", want, got)
				}
			}
		})
	}
}

func TestEncodeParts(t *testing.T) {
	d, limits := contract(t)
	d.Retryable = true
	var limit strings.Builder
	limit.Write(appendLimit(nil, &limits[0]))
	tests := []struct {
		name      string
		got, want string
	}{
		{"no costs", string(appendCosts(nil, nil)), `{}`},
		{"costs", string(appendCosts(nil, []gate.UnitCost{{Unit: "bytes", Cost: 0}, {Unit: "tokens", Cost: 3000}})), `{"bytes":0,"tokens":3000}`},
		{
			"candidate refuses", string(appendCandidate(nil, &d.Decision, limits)),
			`{"allowed":false,"reason":"quota_exceeded","bound_by":"plan/daily","retry_after_ms":41000,"limits":[` + limit.String() + `]}`,
		},
		{
			"candidate without limits", string(appendCandidate(nil, &headgate.Decision{Allowed: true, Reason: headgate.OK, Retryable: true, BoundBy: -1}, nil)),
			`{"allowed":true,"reason":"ok","bound_by":null,"retry_after_ms":null,"limits":[]}`,
		},
		{
			"candidate never", string(appendCandidate(nil, &headgate.Decision{Reason: headgate.CostExceedsLimit}, limits)),
			`{"allowed":false,"reason":"cost_exceeds_limit","bound_by":"plan/daily","retry_after_ms":null,"limits":[` + limit.String() + `]}`,
		},
		{
			"explanation", string(appendExplanation(nil, &gate.Explanation{Verdict: `"no"`, Steps: []gate.Step{{About: "match", Text: "a"}, {About: "limit:a/b", Text: "<b>"}}})),
			`{"verdict":"\"no\"","steps":[{"about":"match","text":"a"},{"about":"limit:a/b","text":"<b>"}]}`,
		},
		{"no steps", string(appendExplanation(nil, &gate.Explanation{})), `{"verdict":"","steps":[]}`},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.name, tt.got, tt.want)
		}
	}
	d.Replayed, d.Waited, d.Held = true, 1500*time.Microsecond, true
	got := string(appendHeld(nil, d))
	for _, want := range []string{`"replayed":true,"waited_ms":2,"ticket":null,`, `"policy_revision":42,"held":true}`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
}

func TestCodecAllocations(t *testing.T) {
	c := new(call)
	d, limits := contract(t)
	n := testing.AllocsPerRun(100, func() {
		c.ask.reset()
		if err := c.decode(sample, takeFields); err != nil {
			t.Fatal(err)
		}
		c.out = appendDecision(c.out[:0], d, limits)
	})
	if n != 0 || c.req.Cost != 5 || c.req.Costs["tokens"] != 3000 || len(c.out) < 700 {
		t.Errorf("%v allocations; cost %d and %v, %d bytes", n, c.req.Cost, c.req.Costs, len(c.out))
	}
}

func BenchmarkDecode(b *testing.B) {
	b.Run("headgate", func(b *testing.B) {
		c := new(ask)
		b.ReportAllocs()
		b.SetBytes(int64(len(sample)))
		for b.Loop() {
			c.reset()
			if err := c.decode(sample, takeFields); err != nil || c.req.Subject != "alice" {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		in := []byte(sample)
		b.ReportAllocs()
		b.SetBytes(int64(len(sample)))
		for b.Loop() {
			var m mirror
			if err := json.Unmarshal(in, &m); err != nil || m.Subject != "alice" {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	d, limits := contract(b)
	b.Run("headgate", func(b *testing.B) {
		var out []byte
		b.ReportAllocs()
		for b.Loop() {
			out = appendDecision(out[:0], d, limits)
		}
		b.SetBytes(int64(len(out)))
	})
	b.Run("encoding-json", func(b *testing.B) {
		var a answer
		if err := json.Unmarshal(appendDecision(nil, d, limits), &a); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			out, err := json.Marshal(&a)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(out)))
		}
	})
}
