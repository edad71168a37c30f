package policy

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

func TestDescriptors(t *testing.T) {
	p := mustParse(t, golden(t, "ok-descriptors"))
	edge, other := p.Applications[0], p.Applications[1]
	if edge.Domain != "envoy front: \"é\"" || other.Domain != "edge" {
		t.Errorf("domains %q and %q", edge.Domain, other.Domain)
	}
	address, login, api, api2, plain := edge.Rules[0], edge.Rules[1], edge.Rules[2], edge.Rules[3], edge.Rules[4]
	if want := []DescriptorEntry{{Key: "path", Value: "/login"}, {Key: "user", ValueToMetric: true}}; !reflect.DeepEqual(login.Descriptor, want) {
		t.Errorf("entries %+v", login.Descriptor)
	}
	if want := []DescriptorEntry{{Key: "path", Value: "/api/*", ShareThreshold: true}}; !reflect.DeepEqual(api.Descriptor, want) {
		t.Errorf("entries %+v", api.Descriptor)
	}
	if !login.QuotaMode || !login.DetailedMetric || !reflect.DeepEqual(login.Replaces, []string{"address", "ghost"}) || address.QuotaMode || address.Replaces != nil {
		t.Errorf("options %+v", login)
	}
	metadata := map[string]any{
		"team": "web", "retries": int64(3), "half": 0.5, "on": true, "off": nil, "list": []any{int64(1), map[string]any{"a": int64(-2)}},
	}
	if !reflect.DeepEqual(login.Metadata, metadata) {
		t.Errorf("metadata %#v", login.Metadata)
	}
	if l := login.Limits[0]; !l.Nothing || l.Count != 1 || l.Period != time.Minute {
		t.Errorf("rate: 0/min is %+v", l)
	}
	if l := api.Limits[0]; l.Nothing || l.Algorithm != headgate.FixedWindow || l.Period != 30*24*time.Hour {
		t.Errorf("rate: 5/30d is %+v", l)
	}
	for _, r := range []Rule{address, login, api2, plain} {
		if !r.HasSubject() {
			t.Errorf("%s has no subject", r.Name)
		}
	}
	if api.HasSubject() {
		t.Error("all values of api share one budget")
	}
}

// TestManyDescriptorRules reads as many as there may be, in a time that grows with their
// number and not with its square.
func TestManyDescriptorRules(t *testing.T) {
	rules := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "{name: r%d, match: {descriptor: [{key: k, value: v%d}]}, replaces: [r%d]}, ", i, i, (i+1)%n)
		}
		return "version: 1\napplications: {a: {rules: [" + b.String() + "]}}\n"
	}
	p, warnings, err := Parse("p", []byte(rules(MaxDescriptorRules)), nil)
	if err != nil || len(warnings) > 0 || len(p.Applications[0].Rules) != MaxDescriptorRules {
		t.Errorf("%v, %v", warnings, err)
	}
	if _, _, err := Parse("p", []byte(rules(MaxDescriptorRules+1)), nil); err == nil || !strings.Contains(err.Error(), "10001 rules: at most 2000") {
		t.Errorf("one more: %v", err)
	}
}

func TestMetadataIsBounded(t *testing.T) {
	read := func(metadata string) error {
		_, _, err := Parse("p", []byte("version: 1\napplications: {a: {rules: [{name: r, match: {descriptor: [{key: k}]}, metadata: {"+metadata+"}}]}}\n"), nil)
		return err
	}
	if err := read("a: " + strings.Repeat("x", maxMetadata-100)); err != nil {
		t.Error(err)
	}
	for _, large := range []string{"a: " + strings.Repeat("x", maxMetadata), strings.Repeat("a", maxMetadata) + ": 1", "a: [" + strings.Repeat("1, ", maxMetadata/8) + "]"} {
		if err := read(large); err == nil || !strings.Contains(err.Error(), "more than 16384 bytes") {
			t.Errorf("%.20s: %v", large, err)
		}
	}
}

// TestOverrideOfSharedDescriptor: a budget that belongs to the application has no
// numbers of a subject.
func TestOverrideOfSharedDescriptor(t *testing.T) {
	read := func(entry string) error {
		_, _, err := Parse("p", []byte("version: 1\napplications: {a: {rules: [{name: r, match: {descriptor: ["+entry+"]}, limits: [{name: l, rate: 5/s}]}]}}\n"+
			"subjects: {a/x: {overrides: [{limit: r/l, rate: 6/s}]}}\n"), nil)
		return err
	}
	if err := read("{key: k}"); err != nil {
		t.Error(err)
	}
	if err := read("{key: k, value: x}"); err == nil || !strings.Contains(err.Error(), "shared between subjects") {
		t.Error(err)
	}
}

// TestDescriptorsOfTheDocs: what the page shows is read without a word.
func TestDescriptorsOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/descriptors.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	p, warnings, err := Parse("docs", []byte(example), nil)
	if err != nil || len(warnings) > 0 || len(p.Applications[0].Rules) != 3 {
		t.Errorf("%v, %v", err, warnings)
	}
}
