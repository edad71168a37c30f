package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/headgate/headgate"
)

func mustParse(t *testing.T, data []byte) *Policy {
	t.Helper()
	p, _, err := Parse("policy.yaml", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// example is the example of the documentation without what is not built yet.
func example(t *testing.T) []byte {
	t.Helper()
	return golden(t, "design-example-supported")
}

// golden returns the policy of a golden file.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	input, _, _ := strings.Cut(string(raw), divider)
	return []byte(input)
}

func TestParseExample(t *testing.T) {
	p := mustParse(t, example(t))
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	bucket := func(name string, count int64, period time.Duration, burst int64) headgate.Limit {
		return headgate.Limit{Name: name, Count: count, Period: period, Burst: burst}
	}
	quota := func(name string, count int64, c headgate.Calendar) headgate.Limit {
		return headgate.Limit{Name: name, Algorithm: headgate.Quota, Count: count, Calendar: c}
	}
	kathmandu, err := time.LoadLocation("Asia/Kathmandu")
	if err != nil {
		t.Fatal(err)
	}
	window := headgate.Limit{Name: "window", Algorithm: headgate.SlidingWindow, Count: 300, Period: time.Minute, Slices: 10}
	tighter := window
	tighter.Count = 200
	monthly := quota("monthly", 10000, headgate.Calendar{Unit: headgate.Month, Location: paris, Anchor: 31})
	monthly.Soft, monthly.Rollover = true, 2000
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	want := &Policy{
		Plans: []Plan{
			{Name: "free", Limits: []Limit{
				{Limit: bucket("rate", 100, time.Hour, 110), Unit: Requests, Pos: Pos{5, 9}},
				{Limit: quota("daily", 1000, headgate.Calendar{Unit: headgate.Day}), Unit: Requests, Pos: Pos{6, 9}},
				{Limit: monthly, Unit: Requests, Pos: Pos{7, 9}},
			}},
			{Name: "enterprise", Limits: []Limit{}},
			{Name: "premium", Limits: []Limit{{Limit: quota("daily", 100000, headgate.Calendar{Unit: headgate.Day}), Unit: Requests, Pos: Pos{9, 22}}}},
		},
		Applications: []Application{
			{
				Name: "email", Domain: "email", DefaultPlan: "free", TrustedProxies: loopback, Headers: HeadersIETF, IdempotencyWindow: time.Minute, Pos: Pos{11, 3},
				Limits: []Limit{{Limit: bucket("all", 500, time.Second, 500), Owner: OwnerApplication, Unit: Requests, Pos: Pos{14, 14}}},
				Rules: []Rule{{
					Name: "sendEmail", Operation: "sendEmail", Cost: Cost{Fixed: 1}, Pos: Pos{16, 9},
					Limits: []Limit{
						{Limit: bucket("burst", 10, time.Second, 100), Unit: Requests, Pos: Pos{19, 13}, Variants: []Variant{
							{Plan: "premium", Limit: bucket("burst", 50, time.Second, 500)},
							{Plan: "enterprise", Limit: bucket("burst", 10, time.Second, 100), Unlimited: true},
						}},
						{Limit: bucket("org", 1000, time.Minute, 1000), Owner: OwnerExpr, OwnerExpr: "attributes.org", Unit: Requests, Pos: Pos{20, 13}},
						{Limit: bucket("tokens", 100000, time.Minute, 100000), Unit: "tokens", Pos: Pos{21, 13}},
					},
				}},
			},
			{
				Name: "web", Domain: "web", Headers: HeadersIETF, IdempotencyWindow: time.Minute, Pos: Pos{22, 3},
				Identity:       []Identity{{Kind: ByHeader, Name: "X-Api-Key", KnownOnly: true}, {Kind: ByIP}},
				TrustedProxies: loopback[:1],
				Allow:          List{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
				Deny:           List{Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, Subjects: []string{"mallory"}},
				Rules: []Rule{{
					Name: "api", Path: "/api/{rest...}", Methods: []string{"GET", "POST", "PUT", "DELETE"},
					Skip:         `request.path == "/api/health"`,
					Cost:         Cost{Fixed: 1, ByMethod: map[string]int64{"GET": 1, "POST": 2, "PUT": 2, "DELETE": 3}},
					OnStoreError: Local, Message: "Too many requests", Pos: Pos{29, 9},
					Ban:          &Ban{After: 50, Within: time.Minute, For: 15 * time.Minute, Pos: Pos{37, 14}},
					HasCandidate: true, Candidate: []Limit{{Limit: tighter, Unit: Requests, Pos: Pos{40, 30}}},
					Limits: []Limit{
						{Limit: headgate.Limit{Name: "inflight", Algorithm: headgate.Concurrency, Count: 20, TTL: 30 * time.Second}, Unit: Requests, Pos: Pos{34, 13}},
						{Limit: window, Unit: Requests, Pos: Pos{35, 13}},
					},
				}},
			},
		},
		Subjects: []Subject{{Application: "email", Name: "alice", Plan: "premium", Timezone: kathmandu, Pos: Pos{43, 3}, Overrides: []Override{{
			Limit: "plan/daily", Count: 5000, Period: 24 * time.Hour, Unit: headgate.Day, Rate: "5000/day", Note: "campaign", Pos: Pos{43, 70},
			From: time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 12, 27, 0, 0, 0, 0, time.UTC),
		}}}},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got\n%+v\nwant\n%+v", p, want)
	}
}

// withoutPositions compares policies that are written differently.
func withoutPositions(p *Policy) *Policy {
	limits := func(ls []Limit) {
		for i := range ls {
			ls[i].Pos = Pos{}
		}
	}
	for _, plan := range p.Plans {
		limits(plan.Limits)
	}
	for i := range p.Applications {
		a := &p.Applications[i]
		a.Pos = Pos{}
		limits(a.Limits)
		for j := range a.Rules {
			rule := &a.Rules[j]
			rule.Pos = Pos{}
			limits(rule.Limits)
			limits(rule.Candidate)
			if rule.Ban != nil {
				rule.Ban.Pos = Pos{}
			}
		}
	}
	for i := range p.Subjects {
		p.Subjects[i].Pos = Pos{}
		for j := range p.Subjects[i].Overrides {
			p.Subjects[i].Overrides[j].Pos = Pos{}
		}
	}
	return p
}

func TestOtherWritings(t *testing.T) {
	want := withoutPositions(mustParse(t, example(t)))
	asJSON, err := yaml.YAMLToJSON(example(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"JSON":            asJSON,
		"CRLF":            []byte(strings.ReplaceAll(string(example(t)), "\n", "\r\n")),
		"byte order mark": append([]byte("\ufeff"), example(t)...),
	} {
		if got := withoutPositions(mustParse(t, data)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, got, want)
		}
	}
}

func TestEveryKey(t *testing.T) {
	p := mustParse(t, []byte(`
version: 1
plans:
  free:
    on_store_error: closed
    limits:
      - {name: week, algorithm: quota, rate: 7/week, anchor: sunday, mode: shadow, on_store_error: open}
      - {name: year, algorithm: quota, rate: 9/year, anchor: 02-29, timezone: UTC}
      - {name: hour, algorithm: quota, rate: 9/hour}
      - {name: none, rate: unlimited}
  basic: {}
applications:
  web:
    on_no_match: deny
    on_no_subject: shared
    on_store_error: local
    mode: shadow
    retry_jitter: 10%
    headers: [x-epoch, draft03]
    trusted_proxies: [10.0.0.5, "::ffff:10.1.0.0/112"]
    identity: ["header:x-a", cookie:sid, attribute:org, {attribute: b, known_only: true}, {cookie: c}]
    limits:
      - {name: log, algorithm: sliding_log, rate: 5/2min, per: subject}
      - {name: fixed, algorithm: fixed_window, rate: 5/day, per: global}
    rules:
      - name: r
        match: {operation: x, path: /a/, methods: [M-SEARCH]}
        mode: shadow
        on_store_error: open
        cost: size(operation)
        plan: attributes.plan
        message: >-
          Too many
          requests
        limits:
          - {name: a, per: {expr: attributes.org}, when_missing: skip, rate: 5/s, unit: requests}
          - name: b
            algorithm: quota
            rate: 10/month
            timezone: UTC
            anchor: 5
            plans:
              free: {rate: 20/month}
              basic: {rate: 30/month, anchor: 6, soft: true, rollover: {max: 3}}
          - {name: c, rate: unlimited, plans: {free: {rate: 5/s}, basic: {rate: unlimited}}}
          - {name: d, algorithm: concurrency, max: 5, ttl: 1m, release: ttl, plans: {free: {max: 6}}}
      - {name: s, match: {operation: y}, cost: 0}
      - {name: t, match: {operation: z}, skip: "true"}
`))
	plan := p.Plans[0]
	if plan.OnStoreError != ClosedMode || plan.Limits[0].OnStoreError != Open || !plan.Limits[0].Mode.Shadow || plan.Limits[1].Mode.Shadow {
		t.Errorf("plan modes: %+v", plan)
	}
	for i, want := range []headgate.Calendar{{Unit: headgate.Week, Anchor: 7}, {Unit: headgate.Year, Anchor: 229, Location: time.UTC}, {Unit: headgate.Hour}} {
		if got := plan.Limits[i].Calendar; got != want {
			t.Errorf("calendar %d: got %+v, want %+v", i, got, want)
		}
	}
	if !plan.Limits[3].Unlimited || plan.Limits[2].Unlimited {
		t.Error("only the last limit is unlimited")
	}
	a := p.Applications[0]
	if a.OnNoMatch != NoMatchDeny || !a.SharedNoSubject || a.OnStoreError != Local || !a.Mode.Shadow || a.RetryJitter != 10 ||
		a.Headers != HeadersXEpoch|HeadersDraft03 || a.DefaultPlan != "" {
		t.Errorf("application: %+v", a)
	}
	if got, want := fmt.Sprint(a.TrustedProxies), "[10.0.0.5/32 10.1.0.0/16]"; got != want {
		t.Errorf("proxies %s, want %s", got, want)
	}
	ids := []Identity{{Kind: ByHeader, Name: "X-A"}, {Kind: ByCookie, Name: "sid"}, {Kind: ByAttribute, Name: "org"},
		{Kind: ByAttribute, Name: "b", KnownOnly: true}, {Kind: ByCookie, Name: "c"}}
	if !reflect.DeepEqual(a.Identity, ids) {
		t.Errorf("identity %+v, want %+v", a.Identity, ids)
	}
	if l := a.Limits[0]; l.Algorithm != headgate.SlidingLog || l.Period != 2*time.Minute || l.Owner != OwnerSubject {
		t.Errorf("log: %+v", l)
	}
	if l := a.Limits[1]; l.Algorithm != headgate.FixedWindow || l.Period != 24*time.Hour || l.Owner != OwnerGlobal {
		t.Errorf("fixed: %+v", l)
	}
	r := a.Rules[0]
	if !r.Mode.Shadow || r.OnStoreError != Open || r.Cost.Expr != "size(operation)" || r.PlanExpr != "attributes.plan" || r.Message != "Too many requests" {
		t.Errorf("rule: %+v", r)
	}
	if l := r.Limits[0]; l.Owner != OwnerExpr || l.OwnerExpr != "attributes.org" || !l.SkipWhenMissing {
		t.Errorf("a: %+v", l)
	}
	free, basic := r.Limits[1].Variants[0], r.Limits[1].Variants[1]
	if free.Limit.Count != 20 || free.Limit.Calendar.Anchor != 5 || free.Limit.Name != "b" {
		t.Errorf("a variant has what it does not say from its limit: %+v", free)
	}
	if basic.Limit.Count != 30 || basic.Limit.Calendar.Anchor != 6 || !basic.Limit.Soft || basic.Limit.Rollover != 3 {
		t.Errorf("a variant says its own numbers: %+v", basic)
	}
	if l := r.Limits[2]; !l.Unlimited || l.Variants[0].Unlimited || l.Variants[0].Limit.Burst != 5 || !l.Variants[1].Unlimited {
		t.Errorf("c: %+v", l)
	}
	if l := r.Limits[3]; l.TTL != time.Minute || l.Variants[0].Limit.TTL != time.Minute || l.Variants[0].Limit.Count != 6 {
		t.Errorf("d: %+v", l)
	}
	if s := a.Rules[1]; s.Cost.Fixed != 0 || s.Cost.ByMethod != nil {
		t.Errorf("cost 0: %+v", s.Cost)
	}
	if a.Rules[2].Skip != "true" || a.Rules[2].Cost.Fixed != 1 {
		t.Errorf("t: %+v", a.Rules[2])
	}
}

func TestShippedPolicies(t *testing.T) {
	for name, data := range map[string][]byte{"builtin": Builtin(), "starter": Starter()} {
		_, warnings, err := Parse(name+".yaml", data, nil)
		if err != nil || len(warnings) != 0 {
			t.Errorf("%s: %v %v", name, err, warnings)
		}
	}
	p := mustParse(t, Builtin())
	a := p.Applications[0]
	if a.Name != "default" || a.DefaultPlan != "free" || a.OnNoMatch != NoMatchPlan || !reflect.DeepEqual(a.Identity, []Identity{{Kind: ByIP}}) {
		t.Errorf("application: %+v", a)
	}
	want := map[string][4]int64{"free": {100, 110, 1000, 10000}, "basic": {1000, 1050, 10000, 250000}, "premium": {10000, 10200, 100000, 3000000}}
	for _, plan := range p.Plans {
		l := plan.Limits
		if plan.Name == "enterprise" {
			if !l[0].Unlimited || !l[1].Unlimited || !l[2].Unlimited || len(l) != 3 {
				t.Errorf("enterprise: %+v", l)
			}
			continue
		}
		if got := [4]int64{l[0].Count, l[0].Burst, l[1].Count, l[2].Count}; got != want[plan.Name] || l[0].Period != time.Hour {
			t.Errorf("%s: got %v, want %v", plan.Name, got, want[plan.Name])
		}
	}
	Builtin()[0] = 'x'
	if Builtin()[0] == 'x' {
		t.Error("Builtin shares its bytes")
	}
}

// TestCheckerSees tells that each expression is checked, with its kind.
func TestCheckerSees(t *testing.T) {
	got := map[string]ExprKind{}
	_, _, err := Parse("p", []byte(`
version: 1
applications:
  a:
    limits: [{name: x, rate: 1/s, per: {expr: per}}]
    rules: [{name: r, match: {operation: x}, skip: skip, cost: cost, costs: {x: other}, plan: plan}]
`), func(source string, kind ExprKind) error { got[source] = kind; return nil })
	want := map[string]ExprKind{"per": StringExpr, "skip": BoolExpr, "cost": IntExpr, "other": IntExpr, "plan": StringExpr}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v %v, want %v", got, err, want)
	}
}

// TestBounds feeds what would take the parser long, or end it.
func TestBounds(t *testing.T) {
	const head = "version: 1\napplications: {a: {}}\n"
	wide := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for _, c := range []struct{ name, data, want string }{
		{"size", strings.Repeat("#", MaxSize+1), "p:1:1: the file has 4194305 bytes: at most 4194304"},
		{"marks", strings.Repeat("\n", MaxSize), "p:1:1: the file is too large: 4194304 punctuation marks and lines, at most 524288"},
		{"UTF-8", "version: 1\nx: \xff", "p:2:4: not UTF-8 text"},
		{"brackets", strings.Repeat("[", 500_000), "p:1:65: nested more than 64 levels deep"},
		{"braces", strings.Repeat("{", 500_000), "p:1:65: nested more than 64 levels deep"},
		{"dashes", strings.Repeat("- ", 500_000), "p:1:129: nested more than 64 levels deep"},
		{"indents", func() string {
			var b strings.Builder
			for i := range 100 {
				fmt.Fprintf(&b, "%*sa:\n", i, "")
			}
			return b.String()
		}(), "p:65:65: nested more than 64 levels deep"},
		{"block mapping", head + "subjects:\n" + wide(11_000, "  a/%d: {}\n"), "p:10003:3: too many keys: a mapping may have 10,000 in block style; write a larger one in braces, {a: 1, b: 2}"},
		{"pairs in brackets", "[" + wide(11_000, "\na%d: 1"), "p:10001:6: too many keys: a mapping may have 10,000 in block style; write a larger one in braces, {a: 1, b: 2}"},
	} {
		_, _, err := Parse("p", []byte(c.data), nil)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %.300v, want %s", c.name, err, c.want)
		}
	}
	for name, data := range map[string]string{
		"anchors": strings.Repeat("&a ", 100_000), "tags": strings.Repeat("!a ", 100_000), "keys": strings.Repeat("? ", 100_000),
		"aliases": strings.Repeat("*a ", 100_000),
	} {
		_, _, err := Parse("p", []byte(data), nil)
		if faults, ok := errors.AsType[Faults](err); !ok || len(faults) != maxRefused {
			t.Errorf("%s: got %d faults, want %d", name, len(faults), maxRefused)
		}
	}
	p := mustParse(t, []byte(head+"subjects: {"+wide(50_000, "\n  a/%d: {},")+"}"))
	if len(p.Subjects) != 50_000 {
		t.Errorf("%d subjects in braces", len(p.Subjects))
	}
}

func TestManyRules(t *testing.T) {
	rules := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "{name: r%d, match: {operation: o%d}}, ", i, i)
		}
		return "{rules: [" + b.String() + "]}\n"
	}
	head := "version: 1\napplications:\n"
	_, _, err := Parse("p", []byte(head+"  a: "+rules(MaxRules+1)), nil)
	if want := "p:3:14: applications.a.rules: 2001 rules: at most 2000 in an application, 10000 with those that match by descriptor, and 10000 in all"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	var b strings.Builder
	b.WriteString(head)
	for i := range MaxAllRules / MaxRules {
		fmt.Fprintf(&b, "  a%d: %s", i, rules(MaxRules))
	}
	all := b.String()
	if _, _, err := Parse("p", []byte(all), nil); err != nil {
		t.Errorf("%d rules: %v", MaxAllRules, err)
	}
	_, _, err = Parse("p", []byte(all+"  b: "+rules(1)), nil)
	if want := "p:8:14: applications.b.rules: 1 rules: at most 2000 in an application, 10000 with those that match by descriptor, and 10000 in all"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestManyFaults(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\napplications: {a: {}}\n")
	for i := range 2 * MaxFaults {
		fmt.Fprintf(&b, "x%d: 1\n", i)
	}
	_, _, err := Parse("p", []byte(b.String()), nil)
	faults, ok := errors.AsType[Faults](err)
	if !ok || len(faults) != MaxFaults {
		t.Fatalf("%d faults", len(faults))
	}
	if want := "more than 999 faults: the file was not read further"; faults[MaxFaults-1].Message != want {
		t.Errorf("the last is %v, want %q", faults[MaxFaults-1], want)
	}
}

// TestLongWords makes sure that a value of a megabyte is not copied into every
// fault below it.
func TestLongWords(t *testing.T) {
	key := strings.Repeat("k", 1<<20)
	data := "version: 1\napplications: {" + key + ": {limits: [" + strings.Repeat("{}, ", 500) + "{name: " + key + ", rate: " + key + "}]}}"
	_, _, err := Parse("p", []byte(data), nil)
	if err == nil || len(err.Error()) > 300*1000 {
		t.Errorf("%d bytes of faults", len(err.Error()))
	}
}
