package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseSubject(t *testing.T) {
	p, _, err := Parse("p", []byte(`
version: 1
plans:
  free: {limits: [{name: daily, algorithm: quota, rate: 10/day}]}
applications:
  a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: 3/s}, {name: slots, algorithm: concurrency, max: 5, release: ttl}]}]}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	const good = `{"plan":"free","timezone":"Europe/Paris","anchor":31,"note":"n","overrides":[
		{"limit":"daily","rate":"5/day","until":"2026-12-24T00:00:00Z"},
		{"limit":"plan/daily","rate":"6/day","from":"2026-12-24T00:00:00Z","until":"2026-12-25T00:00:00Z","note":"x"},
		{"limit":"r/slots","max":7}]}`
	s, err := ParseSubject(p, "a", "alice", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, o := range s.Overrides {
		ids = append(ids, fmt.Sprint(o.Limit, "=", o.Count))
	}
	if got := fmt.Sprint(s.Application, s.Name, s.Plan, s.Timezone, s.Anchor, s.Note, ids); got != "aalicefreeEurope/Paris 31n[plan/daily=5 plan/daily=6 r/slots=7]" {
		t.Error(got)
	}
	if s, err = ParseSubject(p, "a", "alice", []byte(`{}`)); err != nil || s.Plan != "" {
		t.Errorf("an empty one: %+v, %v", s, err)
	}
	for text, want := range map[string]string{
		``:                               "is empty",
		`[]`:                             "must be a mapping",
		`{"plan":"pro"}`:                 `:1:9: plan: there is no plan "pro"`,
		`{"planet":"free"}`:              "unknown key",
		`{"anchor":32}`:                  "anchor",
		`{"timezone":"Local"}`:           "not a time zone",
		`{"note":""}`:                    "note: is empty",
		`{"overrides":[{"rate":"1/s"}]}`: "overrides[0].limit",
		`{"overrides":[{"limit":"r/v","rate":"1/s"}]}`:                                                                                       `no limit "r/v"`,
		`{"overrides":[{"limit":"r/w","rate":"1/m"}]}`:                                                                                       "/min or /month",
		`{"overrides":[{"limit":"plan/daily","rate":"1/h"}]}`:                                                                                "its rate is a count per hour",
		`{"overrides":[{"limit":"r/w","rate":"1/s"},{"limit":"w","rate":"2/s"}]}`:                                                            "two overrides of r/w hold at once",
		`{"overrides":[{"limit":"w","rate":"1/s","from":"2026-01-01T00:00:00Z"},{"limit":"w","rate":"2/s","until":"2026-01-01T00:00:01Z"}]}`: "hold at once",
		`{"overrides":[{"limit":"w","rate":"1/s","from":"2026-01-02T00:00:00Z","until":"2026-01-03T00:00:00Z"},{"limit":"w","rate":"2/s","from":"2026-01-01T00:00:00Z","until":"2026-01-05T00:00:00Z"}]}`: "hold at once",
	} {
		if _, err := ParseSubject(p, "a", "alice", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := ParseSubject(p, "b", "alice", []byte(`{"overrides":[{"limit":"r/w","rate":"1/s"}]}`)); err == nil || !strings.Contains(err.Error(), `no application "b"`) {
		t.Errorf("no such application: %v", err)
	}
	// Without a policy what was right once is.
	s, err = ParseSubject(nil, "a", "alice", []byte(`{"plan":"gone","overrides":[{"limit":"gone/w","rate":"1/s"},{"limit":"gone/w","rate":"2/s"}]}`))
	if err != nil || s.Plan != "gone" || len(s.Overrides) != 2 || s.Overrides[1].Limit != "gone/w" || s.Overrides[1].Count != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err = ParseSubject(nil, "a", "alice", []byte(`{"overrides":[{"limit":"gone/w","rate":"1/m"}]}`)); err == nil {
		t.Error("1/m was read")
	}
}
