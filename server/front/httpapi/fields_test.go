package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/store/memstore"
)

const fieldsPolicy = `
version: 1
plans:
  none: {limits: []}
  free: {limits: [{name: daily, algorithm: quota, rate: 5/day}, {name: hourly, rate: 9/h}]}
applications:
  a:
    default_plan: free
    limits: [{name: all, rate: 1000/min, per: application}]
    rules:
      - {name: many, match: {operation: many}, limits: [{name: burst, rate: 2/h}, {name: seen, rate: 1/h, mode: shadow}, {name: slots, algorithm: concurrency, max: 50, ttl: 1h}], ban: {after: 9, within: 1min, for: 15min}}
  b:
    default_plan: none
    rules: [{name: theirs, match: {operation: theirs}, limits: [{name: all, rate: 9/h, per: application}]}]
`

// observed is a gate; header has the fields that package httpgate makes of its last
// decision.
type observed struct {
	*gate.Gate
	header http.Header
}

func (o *observed) see(d *gate.Decision, err error) error {
	o.header = http.Header{}
	if err == nil {
		new(httpgate.Fields).Set(o.header, d, policy.HeadersIETF)
	}
	return err
}

func (o *observed) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return o.see(d, o.Gate.Take(ctx, r, d))
}

func (o *observed) Peek(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return o.see(d, o.Gate.Peek(ctx, r, d))
}

func (o *observed) Explain(ctx context.Context, r *gate.Request, d *gate.Decision, e *gate.Explanation) error {
	return o.see(d, o.Gate.Explain(ctx, r, d, e))
}

func (o *observed) Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error {
	return o.see(d, o.Gate.Reserve(ctx, r, ttl, d))
}

func (o *observed) TakeAll(ctx context.Context, rs []*gate.Request, ds []*gate.Decision) (int, error) {
	failed, err := o.Gate.TakeAll(ctx, rs, ds)
	return failed, o.see(ds[0], err)
}

// TestFields: header fields are there for who asks for them, byte for byte as package
// httpgate sends them.
func TestFields(t *testing.T) {
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(fieldsPolicy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
	if err != nil {
		t.Fatal(err)
	}
	o := &observed{Gate: g}
	s, _ := serve(t, Config{Gate: o})
	const many = `"application":"a","operation":"many","subject":"s"`
	for _, tt := range []struct{ path, body, policy string }{
		{"take", `{` + many + `,"fields":true}`, `"many/burst";q=2;w=3600, "plan/daily";q=5;w=86400, "plan/hourly";q=9;w=3600, "many/slots";q=50;qu="concurrent-requests"`},
		{"peek", `{"fields":true,` + many + `}`, `"many/burst";q=2;w=3600,`},
		{"explain", `{` + many + `,"fields":true}`, `"many/burst"`},
		{"reserve", `{` + many + `,"fields":true}`, `"many/burst"`},
		{"take", `{` + many + `,"fields":true}`, `"many/burst"`}, // refused
		{"take", `{` + many + `,"fields":true,"cost":6}`, `"plan/daily"`},
		{"take/batch", `{"items":[{` + many + `,"fields":true},{` + many + `}]}`, `"many/burst"`},
		{"take/batch", `{"items":[{"application":"a","operation":"other","subject":"s","fields":true},{"application":"a","operation":"other","subject":"t"}],"atomic":true}`, `"plan/daily"`},
		{"take", `{` + many + `,"fields":false}`, ""},
		{"take", `{` + many + `}`, ""},
		{"take", `{"application":"b","operation":"theirs","subject":"s","fields":true}`, ""},
	} {
		resp, body := send(t, post1(t, s.URL+"/v1/"+tt.path, tt.body))
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", tt.body, body)
		}
		var got struct {
			Policy *string `json:"ratelimit_policy"`
			Limit  *string `json:"ratelimit"`
		}
		where := body
		if at := strings.Index(body, `{"decision_id"`); at > 0 {
			where = body[at:] // of an explanation, or the first of a batch
		}
		if err := json.NewDecoder(strings.NewReader(where)).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if tt.policy == "" {
			if strings.Contains(body, `"ratelimit`) {
				t.Errorf("%s: %s, want no fields", tt.body, body)
			}
			continue
		}
		if got.Policy == nil || got.Limit == nil || !strings.HasPrefix(*got.Policy, tt.policy) {
			t.Errorf("%s: %s\nwant %s", tt.body, body, tt.policy)
			continue
		}
		if strings.Count(body, `"ratelimit":`) != 1 {
			t.Errorf("%s: %s\nwant the fields of the first only", tt.body, body)
		}
		// Of a batch the second decision is the last.
		if p, l := o.header.Get("Ratelimit-Policy"), o.header.Get("Ratelimit"); tt.path != "take/batch" && (*got.Policy != p || *got.Limit != l) {
			t.Errorf("%s:\n%s\n%s\nwant\n%s\n%s", tt.body, *got.Policy, *got.Limit, p, l)
		}
	}
	resp, body := send(t, post1(t, s.URL+"/v1/take", `{"fields":1}`))
	wantProblem(t, resp, body, http.StatusBadRequest, "fields", "fields: must be true or false, not a number")
}
