package policy

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("policy.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	return c.MustCompile("policy.schema.json")
}

func TestSchemaIsASchema(t *testing.T) {
	meta := jsonschema.NewCompiler().MustCompile("https://json-schema.org/draft/2020-12/schema")
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	if err := meta.Validate(doc); err != nil {
		t.Error(err)
	}
	doc.(map[string]any)["additionalProperties"] = "no"
	if meta.Validate(doc) == nil {
		t.Error("the meta-schema takes anything")
	}
}

// asValue returns what a YAML file means to a program that knows JSON.
func asValue(t *testing.T, data []byte) any {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatalf("%v: %s", err, asJSON)
	}
	return v
}

// TestSchemaTakesPolicies holds that no policy is refused in an editor that the
// server reads.
func TestSchemaTakesPolicies(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	policies := map[string][]byte{"builtin": Builtin(), "starter": Starter(), "starter with all": uncomment(Starter())}
	for _, file := range files {
		data := golden(t, strings.TrimSuffix(filepath.Base(file), ".txt"))
		if _, _, err := Parse("p", data, fakeCheck); err == nil {
			policies[file] = data
		}
	}
	if len(policies) < 14 {
		t.Errorf("only %d policies without faults", len(policies))
	}
	s := compileSchema(t)
	for name, data := range policies {
		if err := s.Validate(asValue(t, data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// uncomment switches on what the starter policy offers in comments, but for the
// modes that exclude each other.
func uncomment(data []byte) []byte {
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		indent, offer, ok := strings.Cut(line, "# ")
		if ok && strings.Trim(indent, " ") == "" && len(indent) > 0 && strings.ContainsAny(offer, "{[:") && !strings.HasPrefix(offer, "mode:") && !strings.Contains(offer, "plan's limits") {
			line = indent + offer
		}
		b.WriteString(line)
	}
	return []byte(b.String())
}

func TestStarterOffers(t *testing.T) {
	all := uncomment(Starter())
	p, _, err := Parse("starter.yaml", all, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, all)
	}
	email, web := p.Applications[0].Rules[0], p.Applications[1]
	if len(email.Limits) != 5 || email.Ban == nil || email.MaxWait == 0 || len(email.Costs) != 1 || len(web.Deny.Networks) != 1 ||
		web.Rules[0].Mode.Percent != 10 || !web.Rules[0].HasCandidate || len(p.Subjects) != 2 || len(p.Subjects[1].Overrides) != 1 {
		t.Errorf("not all comments were read:\n%s", all)
	}
}

// TestSchemaRefuses tells that what is wrong in its structure is refused in the
// editor and by Parse alike.
func TestSchemaRefuses(t *testing.T) {
	limit := func(s string) string { return "version: 1\napplications: {a: {limits: [{name: x, " + s + "}]}}" }
	rule := func(s string) string {
		return "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, " + s + "}]}}"
	}
	app := func(s string) string { return "version: 1\napplications: {a: {" + s + "}}" }
	descriptor := func(s string) string { return app("rules: [{name: r, match: {descriptor: [{key: k}]}, " + s + "}]") }
	entry := func(s string) string { return app("rules: [{name: r, match: {descriptor: [{" + s + "}]}}]") }
	plan := func(s string) string { return "version: 1\nplans: {p: {" + s + "}}\napplications: {a: {}}" }
	subject := func(s string) string {
		return "version: 1\napplications: {a: {limits: [{name: x, rate: 5/s, per: subject}]}}\nsubjects: {a/s: {" + s + "}}"
	}
	override := func(s string) string { return subject("overrides: [{" + s + "}]") }
	s := compileSchema(t)
	for _, good := range []string{
		limit("rate: 5/s"), rule("cost: 1"), app("mode: enforce"), plan("limits: []"), subject("timezone: UTC"),
		app("domain: a b"), entry("key: k, value: \"a*\", share_threshold: true, value_to_metric: true"), entry("key: k, share_threshold: false"),
		descriptor("quota_mode: true, replaces: [s], detailed_metric: true, metadata: {a: [1, {b: ~}]}"), descriptor("limits: [{name: x, algorithm: fixed_window, rate: 0/s}, {name: y, algorithm: quota, rate: 0/day}]"), override("limit: x, rate: 6/s"),
	} {
		if _, _, err := Parse("p", []byte(good), nil); err != nil {
			t.Errorf("%s: %v", good, err)
		}
		if err := s.Validate(asValue(t, []byte(good))); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"version: 1", "applications: {a: {}}", "version: 2\napplications: {a: {}}", "version: \"1\"\napplications: {a: {}}",
		"version: 1\napplications: {}", "version: 1\napplications: []", "version: 1\napplications: {a b: {}}",
		"version: 1\napplications: {a: {}}\nmode: shadow", "- 1", "version: 1\napplications: {a: ~}",
		"version: 1\napplications: {a: {}}\nsubjects: {s: {}}", "version: 1\napplications: {a: {}}\nsubjects: {a/: {}}",
		plan("limit: []"), plan("limits: unlimited"), plan("on_store_error: fail"), plan("queue: {}"),
		plan("limits: [{name: x, rate: 5/s, plans: {p: {rate: 6/s}}}]"),
		app("default_plan: 5"), app("on_no_match: reject"), app("on_no_subject: allow"), app("headers: []"), app("headers: [ietf, ietf]"),
		app("identity: []"), app("identity: [name]"), app("identity: [{header: a, cookie: b}]"), app("identity: [{known_only: true}]"),
		app("trusted_proxies: [localhost]"), app("trusted_proxies: 10.0.0.0/8"), app("allow: [alice]"), app("deny: [\"subject:\"]"),
		app("deny: [10.0.0.1, 10.0.0.1]"), app("retry_jitter: 10"), app("retry_jitter: 101%"), app("idempotency_window: 60"), app("mode: on"),
		app("enforce_percent: 0"), app("enforce_percent: 100"), app("mode: shadow, enforce_percent: 5"), app("candidate: {limits: []}"),
		app("max_wait: 5s"), app("rules: {}"), app("rules: [{name: r}]"), app("rules: [{match: {operation: x}}]"),
		app("rules: [{name: plan, match: {operation: x}}]"), app("rules: [{name: r, match: {}}]"), app("rules: [{name: r, match: {path: api}}]"),
		app("rules: [{name: r, match: {methods: [get]}}]"), app("rules: [{name: r, match: {methods: []}}]"), app("rules: [{name: r, match: {host: x}}]"),
		rule("cost: -1"), rule("cost: 1.5"), rule("cost: {}"), rule("cost: {get: 1}"), rule("cost: {GET: x}"), rule("cost: [1]"), rule("cost: true"),
		rule("costs: {}"), rule("costs: 5"), rule("costs: {requests: 5}"), rule("costs: {a b: 5}"), rule("costs: {x: {GET: 5}}"), rule("costs: {x: -1}"),
		rule("skip: true"), rule("skip: \"\""), rule("message: 5"), rule("max_wait: 5"), rule("max_wait: soon"), rule("adaptive: {}"), rule("allow: []"),
		rule("ban: {}"), rule("ban: {after: 0, within: 1m, for: 1m}"), rule("ban: {after: 1, within: 1m}"), rule("ban: {after: 1, within: 1, for: 1m}"),
		rule("ban: {after: 1, within: 1m, for: 1m, until: 1m}"), rule("candidate: {}"), rule("candidate: []"), rule("candidate: {limits: [], mode: shadow}"),
		rule("candidate: {limits: [{name: x, rate: 5/s, mode: shadow}]}"), rule("candidate: {limits: [{name: x, rate: 5/s, enforce_percent: 5}]}"),
		rule("candidate: {limits: [{name: x, rate: 5/s, on_store_error: open}]}"), rule("candidate: {limits: [{name: x, algorithm: concurrency, max: 5}]}"),
		rule("limits: [{rate: 5/s}]"), rule("limits: {}"), rule("limits: [5/s]"),
		limit("rate: 5"), limit("rate: 5/m"), limit("rate: 0/s"), limit("rate: 05/s"), limit("rate: 5/month"), limit("rate: 5/fortnight"), limit("rate: many"),
		limit("algorithm: gcra, rate: 5/s"), limit("algorithm: ban, rate: 5/s"), limit("burst: 5"), limit("rate: 5/s, burst: 0"), limit("rate: 5/s, burst: 5.5"),
		limit("rate: 5/s, max: 5"), limit("rate: 5/s, ttl: 5s"), limit("rate: 5/s, slices: 5"), limit("rate: 5/s, soft: true"), limit("rate: 5/s, anchor: 5"),
		limit("rate: 5/s, timezone: UTC"), limit("rate: 5/s, rollover: {max: 1}"), limit("rate: 5/s, release: ttl"), limit("rate: unlimited, burst: 5"),
		limit("algorithm: sliding_window, rate: 5/s, slices: 61"), limit("algorithm: sliding_log, rate: 5/s, burst: 5"),
		limit("algorithm: quota, rate: 5/h"), limit("algorithm: quota, rate: 5/day, soft: 1"), limit("algorithm: quota, rate: 5/day, rollover: 5"),
		limit("algorithm: quota, rate: 5/day, rollover: {max: 0}"), limit("algorithm: quota, rate: 5/day, timezone: Local"), limit("algorithm: quota, rate: 5/month, anchor: 32"),
		limit("algorithm: quota, rate: 5/week, anchor: mon"), limit("algorithm: concurrency, rate: 5/s"), limit("algorithm: concurrency, max: 10001"),
		limit("algorithm: concurrency, max: many"), limit("algorithm: concurrency, max: unlimited, ttl: 5s"), limit("algorithm: concurrency, max: 5, release: manual"),
		limit("rate: 5/s, per: everyone"), limit("rate: 5/s, per: {}"), limit("rate: 5/s, per: {expr: 5}"), limit("rate: 5/s, across: some"), limit("rate: 5/s, unit: 5"),
		limit("rate: 5/s, unit: a b"), limit("rate: 5/s, when_missing: skip"), limit("rate: 5/s, unit: requests, when_missing: skip"), limit("rate: 5/s, mode: shadow, enforce_percent: 5"),
		app("domain: 5"), app("domain: \"\""), entry("value: x"), entry("key: \"\""), entry("key: 5"), entry("key: k, value: \"\""), entry("key: k, value: 5"),
		entry("key: k, share_threshold: true"), entry("key: k, value: x, share_threshold: true"), entry("key: k, value_to_metric: 1"), entry("key: k, values: x"),
		app("rules: [{name: r, match: {descriptor: []}}]"), app("rules: [{name: r, match: {descriptor: k}}]"), app("rules: [{name: r, match: {operation: x, descriptor: [{key: k}]}}]"),
		rule("quota_mode: true"), rule("replaces: [a]"), rule("detailed_metric: true"), rule("metadata: {}"),
		descriptor("quota_mode: 1"), descriptor("replaces: a"), descriptor("replaces: []"), descriptor("replaces: [a, a]"), descriptor("replaces: [a b]"), descriptor("metadata: []"),
		descriptor("limits: [{name: x, rate: 0/s}]"), descriptor("limits: [{name: x, algorithm: fixed_window, rate: 00/s}]"), descriptor("limits: [{name: x, algorithm: quota, rate: 00/day}]"),
		limit("rate: 5/s, brust: 5"), limit("rate: 5/s, ban: {}"),
		"version: 1\nplans: {p: {}}\napplications: {a: {limits: [{name: x, rate: 5/s, per: subject, plans: {p: {burst: 5}}}]}}",
		"version: 1\nplans: {p: {}}\napplications: {a: {limits: [{name: x, rate: 5/s, per: subject, plans: {p: {rate: 5/s, slices: 5}}}]}}",
		"version: 1\nplans: {p: {}}\napplications: {a: {limits: [{name: x, rate: 5/s, per: subject, plans: {p: none}}]}}",
		"version: 1\nplans: {p: {}}\napplications: {a: {limits: [{name: x, algorithm: quota, rate: 5/day, per: subject, plans: {p: {rate: 5/h}}}]}}",
		subject("plan: 5"), subject("timezone: 5"), subject("timezone: \"\""), subject("limits: []"), subject("overrides: {}"),
		override("rate: 5/s"), override("limit: x"), override("limit: x, rate: 5/s, max: 5"), override("limit: x, rate: 5/m"), override("limit: x, rate: 5"),
		override("limit: x, rate: 5/s, burst: -1"), override("limit: x, rate: 5/s, until: soon"), override("limit: x, rate: 5/s, from: 2026-12-24"),
		override("limit: x, rate: 5/s, from: 2026-13-24T00:00:00Z"), override("limit: x, rate: 5/s, note: 5"), override("limit: x, rate: 5/s, for: 5s"),
	} {
		if _, _, err := Parse("p", []byte(bad), nil); err == nil {
			t.Errorf("Parse takes %s", bad)
		}
		if s.Validate(asValue(t, []byte(bad))) == nil {
			t.Errorf("the schema takes %s", bad)
		}
	}
}

// TestSchemaKnowsTheKeys walks the keys of the reader and those of the schema:
// each must have the other's, and a text for whoever points at it.
func TestSchemaKnowsTheKeys(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	root := doc.(map[string]any)
	defs := root["$defs"].(map[string]any)
	known := map[string]keys{
		"plan": planKeys, "application": applicationKeys, "identity": identityKeys, "rule": ruleKeys, "match": matchKeys, "entry": entryKeys, "candidate": candidateKeys,
		"ban": banKeys, "limit": limitKeys, "rollover": rolloverKeys, "per": perKeys, "variant": variantKeys, "subject": subjectKeys, "override": overrideKeys,
	}
	objects := map[string]map[string]any{"": root}
	for name, def := range defs {
		if def := def.(map[string]any); def["properties"] != nil {
			objects[name] = def
		}
	}
	known[""] = documentKeys
	if got, want := slices.Sorted(maps.Keys(objects)), slices.Sorted(maps.Keys(known)); !slices.Equal(got, want) {
		t.Fatalf("objects of the schema: %v, of the reader: %v", got, want)
	}
	for name, object := range objects {
		properties := object["properties"].(map[string]any)
		got, want := slices.Sorted(maps.Keys(properties)), slices.Sorted(slices.Values(known[name].allowed))
		if !slices.Equal(got, want) {
			t.Errorf("%q: keys of the schema %v, of the reader %v", name, got, want)
		}
		if object["additionalProperties"] != false || object["title"] == nil || object["description"] == nil {
			t.Errorf("%q: not closed, or without title and description", name)
		}
		for key, property := range properties {
			p := property.(map[string]any)
			if ref, ok := p["$ref"].(string); ok && p["description"] == nil {
				p = defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
			}
			if text := fmt.Sprint(p["description"]); p["description"] == nil || len(text) > 300 {
				t.Errorf("%q.%s: no description, or a long one: %s", name, key, text)
			}
		}
	}
	// The keys of a candidate's limits are those of limits but for what the
	// schema takes out.
	items := defs["candidate"].(map[string]any)["properties"].(map[string]any)["limits"].(map[string]any)["items"].(map[string]any)
	without := items["allOf"].([]any)[1].(map[string]any)["properties"].(map[string]any)
	left := slices.DeleteFunc(slices.Clone(limitKeys.allowed), func(key string) bool { return without[key] == false })
	if len(without) != 3 || !slices.Equal(left, candidateLimitKeys.allowed) {
		t.Errorf("keys of a candidate's limits: schema %v, reader %v", left, candidateLimitKeys.allowed)
	}
}

// TestEnumsOfTheSchema holds that the words of the schema are the reader's.
func TestEnumsOfTheSchema(t *testing.T) {
	text := string(Schema())
	quotedList := func(words []string) string { return `"` + strings.Join(words, `", "`) + `"` }
	for _, want := range []string{
		`"enum": [` + quotedList(algorithms) + `]`, "^(" + strings.Join(weekdays, "|") + "|",
		fmt.Sprintf(`"maxItems": %d`, MaxDescriptorRules), fmt.Sprintf(`"maxItems": %d`, MaxEntries), fmt.Sprintf(`"maxItems": %d`, MaxOverrides), fmt.Sprintf(`"maxItems": %d`, maxMethods),
		fmt.Sprintf(`"maxItems": %d`, maxIdentities), fmt.Sprintf(`"maxProperties": %d`, MaxLimits), fmt.Sprintf(`"maxLength": %d`, maxNote),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the schema lacks %s", want)
		}
	}
}
