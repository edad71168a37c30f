package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/headgate/headgate/server/front/fronttest"
)

// TestFields: header fields are there for who asks for them, byte for byte as package
// httpgate sends them.
func TestFields(t *testing.T) {
	g := fronttest.OpenFields(t)
	s, _ := serve(t, Config{Gate: g})
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
		if p, l := g.Header.Get("Ratelimit-Policy"), g.Header.Get("Ratelimit"); tt.path != "take/batch" && (*got.Policy != p || *got.Limit != l) {
			t.Errorf("%s:\n%s\n%s\nwant\n%s\n%s", tt.body, *got.Policy, *got.Limit, p, l)
		}
	}
	resp, body := send(t, post1(t, s.URL+"/v1/take", `{"fields":1}`))
	wantProblem(t, resp, body, http.StatusBadRequest, "fields", "fields: must be true or false, not a number")
}
