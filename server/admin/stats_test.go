package admin

import (
	"encoding/json"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/meter"
)

// counted is a meter that says what it was told to.
type counted struct {
	counting
	rates  meter.Rates
	window time.Duration
	by     meter.By
	of     string
	tops   []meter.Top
}

func (c *counted) Rates(window time.Duration) meter.Rates {
	c.window = window
	return c.rates
}

func (c *counted) Stats() meter.Stats { return meter.Stats{Rows: 7, Unattributed: 8, Failures: 9} }

func (c *counted) Top(by meter.By, application string, n int) ([]meter.Top, time.Time) {
	c.by, c.of = by, application
	return c.tops[:min(n, len(c.tops))], began
}

func TestStats(t *testing.T) {
	l := newLedger(t)
	at := began.Add(2 * time.Minute)
	c := &counted{rates: meter.Rates{
		Since:   began,
		Seconds: []meter.Second{{At: at, Allowed: 5, Denied: 1}, {At: at.Add(time.Second), Allowed: 2, Denied: 1}, {At: at.Add(2 * time.Second), Allowed: 1}},
		Kinds: []meter.Kind{
			{Application: "web", Reason: headgate.OK, Allowed: true, Count: 20}, {Application: "email", Reason: headgate.OK, Allowed: true, Count: 9},
			{Application: "email", Reason: headgate.RateLimited, Count: 3}, {Application: "", Reason: headgate.RateLimited, Count: 2},
			{Application: "email", Reason: headgate.RateLimited, Allowed: true, Count: 1},
		},
	}}
	l.serve(c)
	const usage = `"usage":{"rows":7,"unattributed":8,"failures":9}}`
	w := l.do("GET", "/v1/stats?window=3s", "", 200)
	want := `{"node":"node-1","since":"2026-03-01T00:00:00Z","window_ms":3000,"allowed":8,"denied":2,"per_second":4.5,` +
		`"series":[{"at":"2026-03-01T00:02:00Z","allowed":5,"denied":1},{"at":"2026-03-01T00:02:01Z","allowed":2,"denied":1},{"at":"2026-03-01T00:02:02Z","allowed":1,"denied":0}],` +
		`"reasons":[{"reason":"ok","count":29},{"reason":"rate_limited","count":6}],` +
		`"applications":[{"application":"web","allowed":20,"denied":0},{"application":"email","allowed":10,"denied":3},{"application":"","allowed":0,"denied":2}],` + usage + "\n"
	if got := w.Body.String(); got != want || c.window != 3*time.Second {
		t.Errorf("%v:\n got %s\nwant %s", c.window, got, want)
	}
	// 13 decisions in the 123 s since the count began.
	w = l.as("emailer", "GET", "/v1/stats", "")
	want = `{"node":"node-1","since":"2026-03-01T00:00:00Z","window_ms":60000,"allowed":10,"denied":3,"per_second":` + strconv.FormatFloat(13.0/123, 'g', -1, 64) + `,"series":null,` +
		`"reasons":[{"reason":"ok","count":9},{"reason":"rate_limited","count":4}],"applications":[{"application":"email","allowed":10,"denied":3}],` + usage + "\n"
	if got := w.Body.String(); got != want || c.window != time.Minute {
		t.Errorf("%v:\n got %s\nwant %s", c.window, got, want)
	}
	c.rates = meter.Rates{Since: began, Seconds: []meter.Second{{At: at, Allowed: 4, Denied: 2}}}
	l.do("GET", "/v1/stats?window=1s", "", 200, `"window_ms":1000,"allowed":4,"denied":2,"per_second":6,`, `"reasons":[],"applications":[],`)
	for parameters, want := range map[string]string{
		"window=0s":            `window \"0s\": must be whole seconds of 1s to 5m`,
		"window=999ms":         "must be whole seconds",
		"window=1500ms":        "must be whole seconds",
		"window=5m1s":          "must be whole seconds",
		"window=-1s":           "must be whole seconds",
		"window=60":            "must be whole seconds",
		"window=1s&window=2s":  "given twice",
		"window=1s&window=abc": "given twice",
	} {
		l.do("GET", "/v1/stats?"+parameters, "", 400, `"pointer":"/window"`, want)
	}
	l.do("GET", "/v1/stats?application=email", "", 400, `"field":"application"`, "unknown parameter; there are window")
	l.do("DELETE", "/v1/stats", "", 405)
	wantAnswer(t, l.as("nobody", "GET", "/v1/stats", ""), 401)
}

func TestTop(t *testing.T) {
	l := newLedger(t)
	c := &counted{tops: []meter.Top{{Application: "email", Subject: "<alice>", Count: 12, Over: 2}, {Application: "web", Subject: "bob", Count: 3}}}
	l.serve(c)
	for parameters, by := range map[string]meter.By{"": meter.ByRequests, "?by=requests": meter.ByRequests, "?by=denied": meter.ByDenied, "?by=cost&limit=500": meter.ByCost} {
		w := l.do("GET", "/v1/top"+parameters, "", 200)
		const want = `{"items":[{"application":"email","subject":"<alice>","count":12,"over":2},{"application":"web","subject":"bob","count":3,"over":0}],` +
			`"since":"2026-03-01T00:00:00Z","node":"node-1","next":null}` + "\n"
		if got := w.Body.String(); got != want || c.by != by || c.of != "" {
			t.Errorf("%s: %d, %q:\n got %s\nwant %s", parameters, c.by, c.of, got, want)
		}
	}
	l.do("GET", "/v1/top?limit=1&application=email", "", 200, `"count":12,"over":2}],"since"`)
	if c.of != "email" {
		t.Errorf("of %q", c.of)
	}
	for parameters, want := range map[string][2]string{
		"by=size":          {"by", `by \"size\": must be requests, denied or cost`},
		"by=REQUESTS":      {"by", "must be requests"},
		"limit=0":          {"limit", "must be 1 to 500"},
		"limit=501":        {"limit", "must be 1 to 500"},
		"limit=x":          {"limit", "must be 1 to 500"},
		"cursor=x":         {"cursor", "unknown parameter; there are by, application, limit"},
		"by=cost&by=cost":  {"by", "given twice"},
		"limit=1&limit=1":  {"limit", "given twice"},
		"since=2026-03-09": {"since", "unknown parameter"},
	} {
		l.do("GET", "/v1/top?"+parameters, "", 400, `"pointer":"/`+want[0]+`"`, want[1])
	}
	wantAnswer(t, l.as("emailer", "GET", "/v1/top", ""), 400, "not for all applications")
	wantAnswer(t, l.as("emailer", "GET", "/v1/top?application=web", ""), 404, "not in the policy")
	wantAnswer(t, l.as("emailer", "GET", "/v1/top?application=email", ""), 200, "alice")
	l.do("GET", "/v1/top?application=mail", "", 200) // of one that has left the policy is told
	c.tops = nil
	l.do("GET", "/v1/top?application=mail", "", 404, `"field":"application"`)
	l.do("GET", "/v1/top?application=web", "", 200, `{"items":[],"since"`)
}

// What a real meter has counted comes out.
func TestStatsOfMeter(t *testing.T) {
	l := newLedger(t)
	m := meter.New(meter.Config{Records: l.records})
	l.serve(m)
	for i := range 5 {
		var d gate.Decision
		if err := l.gate.Take(t.Context(), &gate.Request{Application: "email", Operation: "send", Subject: []string{"alice", "bob"}[i/4]}, &d); err != nil {
			t.Fatal(err)
		}
		m.Count(&d)
	}
	var stats struct {
		Allowed, Denied int64
		Series          []secondItem
		Reasons         []reasonItem
		Applications    []applicationRate
	}
	w := l.do("GET", "/v1/stats?window=5m", "", 200, `"rows":2,"unattributed":0`)
	if err := json.Unmarshal(w.Body.Bytes(), &stats); err != nil || stats.Allowed != 4 || stats.Denied != 1 || len(stats.Series) != 300 {
		t.Errorf("%+v, %v", stats, err)
	}
	if !slices.Equal(stats.Reasons, []reasonItem{{"ok", 4}, {"rate_limited", 1}}) || !slices.Equal(stats.Applications, []applicationRate{{"email", 4, 1}}) {
		t.Errorf("%+v", stats)
	}
	l.do("GET", "/v1/top", "", 200, `{"items":[{"application":"email","subject":"alice","count":4,"over":0},{"application":"email","subject":"bob","count":1,"over":0}],`)
	l.do("GET", "/v1/top?by=denied", "", 200, `{"items":[{"application":"email","subject":"alice","count":1,"over":0}],`)
}
