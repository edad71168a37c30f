package envoyrls

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/envoy/envoytest"
	"github.com/headgate/headgate/store/memstore"
)

// rules is a configuration of envoyproxy/ratelimit, of which the tests need one part each.
const rules = `
domain: edge
descriptors:
  - key: path
    rate_limit: {unit: minute, requests_per_unit: 10}
  - key: path
    value: /login
    rate_limit: {unit: minute, requests_per_unit: 3, name: login}
    descriptors:
      - {key: user, rate_limit: {unit: hour, requests_per_unit: 2}}
  - {key: path, value: "/a*", rate_limit: {unit: minute, requests_per_unit: 4}}
  - {key: path, value: "/ab*", rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: path, value: "*.pdf", share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 6}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: none, rate_limit: {unit: day, requests_per_unit: 0}}
  - {key: dark, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 2}}
  - {key: q1, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}, metadata: {who: {a: 1, b: {c: d}}}}
  - {key: q2, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 2}, metadata: {who: {b: {e: f}, a: 2}, list: [x]}}
  - {key: boss, rate_limit: {unit: minute, requests_per_unit: 100, replaces: [{name: login}]}}
  - {key: a, value: b_c, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: a_b, value: c, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: k1, rate_limit: {unit: minute, requests_per_unit: 1}, descriptors: [{key: k2, rate_limit: {unit: minute, requests_per_unit: 1}}]}
  - {key: seconds, rate_limit: {unit: second, requests_per_unit: 1}}
  - {key: days, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: weeks, rate_limit: {unit: week, requests_per_unit: 1}}
  - {key: months, rate_limit: {unit: month, requests_per_unit: 1}}
  - {key: years, rate_limit: {unit: year, requests_per_unit: 4294967295}}
`

// statusOf is a status as a test writes it.
func statusOf(r *pb.RateLimitResponse, i int) string {
	s := r.Statuses[i]
	l := s.CurrentLimit
	if l == nil {
		return fmt.Sprintf("%v %d", s.Code, s.LimitRemaining)
	}
	return fmt.Sprintf("%v %d/%d %v*%d %q %v", s.Code, s.LimitRemaining, l.RequestsPerUnit, l.Unit, max(1, l.GetUnitMultiplier().GetValue()), l.Name, s.DurationUntilReset.AsDuration())
}

// TestRules: what envoyproxy/ratelimit does, and where its defects were.
func TestRules(t *testing.T) {
	check := func(h *house, r *pb.RateLimitResponse, want ...string) {
		h.Helper()
		got := make([]string, len(r.Statuses))
		for i := range got {
			got[i] = statusOf(r, i)
		}
		if !slices.Equal(got, want) {
			h.Errorf("%s: statuses\n%s\nwant\n%s", short(r), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	for name, run := range map[string]func(h *house){
		"1.4 statuses are as many and in the order of the descriptors": func(h *house) {
			r := h.ask("edge", descriptor("none=x"), descriptor("ghost=x"), descriptor("path=/login"), descriptor("free=x"))
			check(h, r, `OVER_LIMIT 0/0 DAY*1 "" 24h0m0s`, "OK 0", `OK 3/3 MINUTE*1 "login" 1m0s`, "OK 4294967295")
		},
		"1.4 hits": func(h *house) {
			for _, c := range []struct {
				request    uint32
				descriptor *uint64
				used       uint32
			}{{0, nil, 1}, {1, nil, 1}, {4, nil, 4}, {4, new(uint64(2)), 2}, {4, new(uint64(0)), 0}, {0, new(uint64(3)), 3}} {
				h.now = h.now.Add(time.Minute)
				d := descriptor("path=/x")
				if c.descriptor != nil {
					hits(d, *c.descriptor)
				}
				r, err := h.send(&pb.RateLimitRequest{Domain: "edge", HitsAddend: c.request, Descriptors: []*common.RateLimitDescriptor{d}})
				if err != nil || r.Statuses[0].LimitRemaining != 10-c.used {
					h.Errorf("hits %d, of the descriptor %v: %v, %v", c.request, c.descriptor, r, err)
				}
			}
		},
		"1.4 hits are given back": func(h *house) {
			h.caller = operator{}
			check(h, h.ask("edge", hits(descriptor("path=/x"), 5)), `OK 5/10 MINUTE*1 "" 1m0s`)
			check(h, h.ask("edge", back(descriptor("path=/x"))), `OK 6/10 MINUTE*1 "" 1m0s`)
			check(h, h.ask("edge", back(hits(descriptor("path=/x"), 100))), `OK 10/10 MINUTE*1 "" 1m0s`)
			// A call that is refused gives nothing back, as it charges nothing.
			check(h, h.ask("edge", hits(descriptor("path=/x"), 5)), `OK 5/10 MINUTE*1 "" 1m0s`)
			check(h, h.ask("edge", back(descriptor("path=/x")), descriptor("none=x")), "OK 0", `OVER_LIMIT 0/0 DAY*1 "" 24h0m0s`)
			check(h, h.ask("edge", back(descriptor("path=/x")), descriptor("free=x")), `OK 6/10 MINUTE*1 "" 1m0s`, "OK 4294967295")
		},
		"2 exact, else the first pattern in the file, else the key": func(h *house) {
			for value, want := range map[string]uint32{"/login": 3, "/abc": 4, "/ab*": 5, "/x": 10, "": 10, "/x.pdf": 6, "/a.pdf": 4, "/login/": 10} {
				if r := h.ask("edge", descriptor("path="+value)); r.Statuses[0].CurrentLimit.RequestsPerUnit != want {
					h.Errorf("%s: %v", value, r)
				}
			}
		},
		"2 the depth is equal": func(h *house) {
			h.check("OK none", "edge", descriptor("path=/login,user=a,more=x"))
			h.check("OK none", "edge", descriptor("path=/x,user=a"))
			h.check("OK none", "edge", descriptor("user=a"))
			check(h, h.ask("edge", descriptor("path=/login,user=a")), `OK 1/2 HOUR*1 "" 1h0m0s`)
		},
		"3 an override stands in for the rule": func(h *house) {
			d := says(descriptor("dark=x"), 1, typev3.RateLimitUnit_HOUR, 0)
			check(h, h.ask("edge", d), `OK 0/1 HOUR*1 "" 1h0m0s`)
			check(h, h.ask("edge", d), `OVER_LIMIT 0/1 HOUR*1 "" 1h0m0s`)
			check(h, h.ask("edge", says(descriptor("ghost=x"), 7, typev3.RateLimitUnit_MINUTE, 90)), `OK 6/7 MINUTE*90 "" 1h30m0s`)
			q := says(descriptor("q2=x"), 0, typev3.RateLimitUnit_DAY, 0)
			h.check("OVER over ok", "edge", q, descriptor("q1=x"))
			check(h, h.ask("edge", descriptor("dark=x")), `OK 1/2 MINUTE*1 "" 1m0s`)
		},
		"4 replaces": func(h *house) {
			for range 5 {
				h.check("OK none ok", "edge", descriptor("path=/login"), descriptor("boss=x"))
			}
			check(h, h.ask("edge", descriptor("path=/login")), `OK 2/3 MINUTE*1 "login" 1m0s`)
		},
		"4 unlimited": func(h *house) {
			check(h, h.ask("edge", hits(descriptor("free=x"), math.MaxUint64)), "OK 4294967295")
		},
		"5 over above the limit": func(h *house) {
			h.check("OK ok", "edge", hits(descriptor("path=/x"), 10))
			check(h, h.ask("edge", descriptor("path=/x")), `OVER_LIMIT 0/10 MINUTE*1 "" 1m0s`)
			h.check("OK ok", "edge", hits(descriptor("path=/x"), 0))
		},
		"5 shadow_mode": func(h *house) {
			h.check("OK ok", "edge", hits(descriptor("dark=x"), 2))
			check(h, h.ask("edge", descriptor("dark=x")), `OK 0/2 MINUTE*1 "" 1m0s`)
		},
		"5 quota_mode": func(h *house) {
			h.check("OK ok ok", "edge", descriptor("q1=x"), descriptor("q2=x"))
			h.check("OK over ok", "edge", descriptor("q1=x"), descriptor("q2=x"))
			h.check("OVER over over", "edge", descriptor("q1=x"), descriptor("q2=x"))
			h.check("OVER over ok", "edge", descriptor("q1=x"), descriptor("path=/x"))
			h.check("OVER ok over", "edge", descriptor("q1=y"), descriptor("none=x"))
		},
		"6 windows from the epoch on": func(h *house) {
			h.now = time.Unix(1_767_225_599, 500e6) // a Wednesday, the last of 2025
			now := h.now.Unix()
			for unit, seconds := range map[string]int64{"seconds": 1, "path": 60, "days": 86400, "weeks": 604800, "months": 2592000, "years": 31536000} {
				r := h.ask("edge", descriptor(unit+"=x"))
				if got := int64(r.Statuses[0].DurationUntilReset.AsDuration() / time.Second); got != seconds-now%seconds {
					h.Errorf("%s: resets in %d s, want %d", unit, got, seconds-now%seconds)
				}
			}
			if h.now = time.Unix(1_767_225_600+86400, 0); h.now.UTC().Weekday() != time.Friday {
				h.Fatal(h.now)
			}
			h.check("OK ok", "edge", descriptor("weeks=x")) // a week began on Thursday
			h.check("OVER over", "edge", descriptor("weeks=x"))
		},
		"7 share_threshold": func(h *house) {
			check(h, h.ask("edge", hits(descriptor("path=/x.pdf"), 4)), `OK 2/6 MINUTE*1 "" 1m0s`)
			check(h, h.ask("edge", hits(descriptor("path=/y.pdf"), 2)), `OK 0/6 MINUTE*1 "" 1m0s`)
			h.check("OVER over", "edge", descriptor("path=/z.pdf"))
			check(h, h.ask("edge", hits(descriptor("path=/ab"), 4)), `OK 0/4 MINUTE*1 "" 1m0s`)
			check(h, h.ask("edge", hits(descriptor("path=/ac"), 4)), `OK 0/4 MINUTE*1 "" 1m0s`)
		},
		"defect: keys joined without an escape": func(h *house) {
			h.check("OK ok", "edge", descriptor("a=b_c"))
			h.check("OK ok", "edge", descriptor("a_b=c"))
			h.check("OK ok", "edge", descriptor("k1=x_k2_y"))
			h.check("OK ok", "edge", descriptor("k1=x,k2=y"))
			h.check("OK ok ok", "edge", descriptor("k1=x&y,k2=z"), descriptor("k1=x,k2=y&z"))
		},
		"defect: others are charged although one refuses": func(h *house) {
			for range 20 {
				h.check("OVER ok over", "edge", descriptor("path=/x"), descriptor("none=x"))
			}
			check(h, h.ask("edge", descriptor("path=/x")), `OK 9/10 MINUTE*1 "" 1m0s`)
		},
		"one budget twice": func(h *house) {
			r := h.ask("edge", descriptor("path=/login"), descriptor("path=/login"))
			check(h, r, `OK 2/3 MINUTE*1 "login" 1m0s`, `OK 1/3 MINUTE*1 "login" 1m0s`)
			h.check("OVER ok over", "edge", descriptor("path=/login"), descriptor("path=/login"))
		},
		"limits beyond 32 bits": func(h *house) {
			check(h, h.ask("edge", descriptor("years=x")), fmt.Sprintf(`OK 4294967294/4294967295 YEAR*1 "" %v`,
				(time.Duration(31536000-envoytest.Start.Unix()%31536000)*time.Second)))
			h.check("OVER over", "edge", hits(descriptor("years=x"), math.MaxUint64))
			h.check("OVER over", "edge", hits(descriptor("years=x"), 1<<53))
		},
	} {
		t.Run(name, func(t *testing.T) { run(open(t, convert(t, rules), nil)) })
	}
}

// TestSame: a configuration that the gate reads as it is, and the policy that convert
// writes of it, are one text.
func TestSame(t *testing.T) {
	text := convert(t, rules)
	read := func() (gate.Source, error) { return gate.Source{Name: "config", Data: []byte(convert(t, rules))}, nil }
	h := open(t, text, nil)
	g, err := gate.Open(t.Context(), gate.Config{Read: read, Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := string(g.Source().Data), string(h.gate.Source().Data); a != b {
		t.Errorf("read\n%s\nconverted\n%s", a, b)
	}
}

// TestHeaders: of the limit of which the least is left.
func TestHeaders(t *testing.T) {
	h := open(t, convert(t, rules), func(c *Config) { c.Headers = true })
	fields := func(r *pb.RateLimitResponse) string {
		var s []string
		for _, f := range r.ResponseHeadersToAdd {
			s = append(s, f.Key+": "+f.Value)
		}
		return strings.Join(s, ", ")
	}
	h.now = h.now.Add(20500 * time.Millisecond)
	for _, c := range []struct{ ask, want string }{
		{"path=/x years=x", "RateLimit-Limit: 10, RateLimit-Remaining: 9, RateLimit-Reset: 40"},
		{"path=/x path=/login ghost=x", "RateLimit-Limit: 3, RateLimit-Remaining: 2, RateLimit-Reset: 40"},
		{"path=/x none=x", "RateLimit-Limit: 0, RateLimit-Remaining: 0, RateLimit-Reset: 86380"},
		{"ghost=x free=x", ""},
	} {
		var ds []*common.RateLimitDescriptor
		for s := range strings.FieldsSeq(c.ask) {
			ds = append(ds, descriptor(s))
		}
		if got := fields(h.ask("edge", ds...)); got != c.want {
			t.Errorf("%s: %s, want %s", c.ask, got, c.want)
		}
	}
}

// TestDynamicMetadata: rule 8.
func TestDynamicMetadata(t *testing.T) {
	h := open(t, convert(t, rules), func(c *Config) { c.DynamicMetadata = true })
	request := &pb.RateLimitRequest{Domain: "edge", HitsAddend: 2, Descriptors: []*common.RateLimitDescriptor{
		hits(descriptor("q1=x,y=z"), 1), hits(descriptor("q1=x"), 1), descriptor("q2=x"), says(descriptor("path=/x"), 5, typev3.RateLimitUnit_HOUR, 3),
	}}
	r, err := h.send(request)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
		"domain": "edge", "hitsAddend": 2,
		"descriptors": [{"entries": ["q1=x", "y=z"], "hitsAddend": 1}, {"entries": ["q1=x"], "hitsAddend": 1}, {"entries": ["q2=x"]},
			{"entries": ["path=/x"], "limit": "requests_per_unit:5 unit:HOUR unit_multiplier:3"}],
		"metadata": {"who": {"a": 1, "b": {"c": "d", "e": "f"}}, "list": ["x"]}
	}`
	wanted := new(pb.RateLimitResponse)
	if err := protojson.Unmarshal([]byte(`{"dynamicMetadata": `+want+`}`), wanted); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(r.DynamicMetadata, wanted.DynamicMetadata) {
		t.Errorf("%v, want %v", protojson.Format(r.DynamicMetadata), want)
	}
	// Of limits that refuse there is none, and the policy's own stays as it is.
	r = h.ask("edge", descriptor("q1=x"), descriptor("q2=y"))
	if got := r.DynamicMetadata.Fields["metadata"].GetStructValue().Fields["who"].GetStructValue().Fields; got["a"].GetNumberValue() != 2 || got["b"].GetStructValue().Fields["c"] != nil {
		t.Errorf("%v", r.DynamicMetadata)
	}
	r = h.ask("edge", descriptor("q1=z"))
	if got := r.DynamicMetadata.Fields["metadata"].GetStructValue().Fields["who"].GetStructValue().Fields["b"].GetStructValue().Fields; len(got) != 1 {
		t.Errorf("%v", r.DynamicMetadata)
	}
}

// TestCounts: the arithmetic of hits of which some are over and some are near the limit.
func TestCounts(t *testing.T) {
	var got []string
	h := open(t, convert(t, rules), func(c *Config) {
		c.Counted = func(application, label string, n Counts) {
			got = append(got, fmt.Sprintf("%s/%s %d: within %d over %d near %d shadow %d", application, label, n.Total, n.WithinLimit, n.OverLimit, n.NearLimit, n.Shadow))
		}
	})
	for _, d := range []*common.RateLimitDescriptor{
		hits(descriptor("path=/x"), 5), hits(descriptor("path=/x"), 4), hits(descriptor("path=/x"), 3), descriptor("path=/x"),
		descriptor("path=/x"), descriptor("dark=x"), hits(descriptor("dark=x"), 3), descriptor("free=x"), descriptor("none=x"), descriptor("ghost=x"), hits(descriptor("path=/x"), 0),
	} {
		h.ask("edge", d)
	}
	h.ask("edge", hits(descriptor("path=/y"), 7))
	h.ask("edge", hits(descriptor("path=/y"), 2), descriptor("none=x"))
	h.ask("edge", descriptor("path=/login"), descriptor("boss=x"))
	want := []string{
		"edge/path 5: within 5 over 0 near 0 shadow 0",
		"edge/path 4: within 4 over 0 near 1 shadow 0",
		"edge/path 3: within 0 over 2 near 1 shadow 0",
		"edge/path 1: within 1 over 0 near 1 shadow 0",
		"edge/path 1: within 0 over 1 near 0 shadow 0",
		"edge/dark 1: within 1 over 0 near 0 shadow 0",
		"edge/dark 3: within 0 over 2 near 1 shadow 2",
		"edge/free 1: within 1 over 0 near 0 shadow 0",
		"edge/none 1: within 0 over 1 near 0 shadow 0",
		"edge/path 7: within 7 over 0 near 0 shadow 0",
		"edge/path 2: within 2 over 0 near 1 shadow 0",
		"edge/none 1: within 0 over 1 near 0 shadow 0",
		"edge/boss 1: within 1 over 0 near 0 shadow 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestAfterTheFact: a check before a response and its hits after it stop a client once the
// budget is gone, though the last hits were more than was left.
func TestAfterTheFact(t *testing.T) {
	h := open(t, convert(t, rules), func(c *Config) { c.AfterTheFact = true })
	check, rate := hits(descriptor("path=/x"), 0), descriptor("boss=x")
	h.check("OK ok ok", "edge", check, rate)
	h.check("OK ok", "edge", hits(descriptor("path=/x"), 7))
	h.check("OK ok ok", "edge", check, rate)
	h.check("OVER over", "edge", hits(descriptor("path=/x"), 8)) // 3 were left
	for range 3 {
		r := h.check("OVER over ok", "edge", check, rate)
		if r.Statuses[1].LimitRemaining != 98 { // nothing was charged beside the check
			t.Errorf("%v", r)
		}
	}
	h.check("OVER over", "edge", check)
	h.check("OVER over", "edge", hits(descriptor("none=x"), 0))
	// Of quotas one that is left is enough.
	h.check("OK ok", "edge", descriptor("q1=x"))
	h.check("OK over ok", "edge", hits(descriptor("q1=x"), 0), hits(descriptor("q2=x"), 0))
	h.check("OK over ok ok", "edge", hits(descriptor("q1=x"), 0), descriptor("q2=x"), rate)
	h.check("OK over ok", "edge", hits(descriptor("q1=x"), 0), descriptor("q2=x"))
	h.check("OVER over over", "edge", hits(descriptor("q1=x"), 0), hits(descriptor("q2=x"), 0))
	h.now = h.now.Add(time.Minute)
	h.check("OK ok ok", "edge", check, rate)
	h.check("OK none ok", "edge", hits(descriptor("path=/login"), 0), rate)
}
