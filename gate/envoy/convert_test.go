package envoy_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/envoy"
	"github.com/headgate/headgate/gate/policy"
)

func convert(t *testing.T, o envoy.Options, texts ...string) (string, []string, []string) {
	t.Helper()
	var files []envoy.File
	for i, s := range texts {
		files = append(files, envoy.File{Name: fmt.Sprintf("f%d", i+1), Data: []byte(s)})
	}
	data, warned, err := envoy.Convert(files, o)
	var faults, warnings []string
	if err != nil {
		list, ok := errors.AsType[policy.Faults](err)
		if !ok {
			t.Fatalf("%T: %v", err, err)
		}
		for _, f := range list {
			faults = append(faults, f.Error())
		}
	}
	for _, w := range warned {
		warnings = append(warnings, w.String())
	}
	return string(data), faults, warnings
}

// TestFaults: every fault is found in one run, with its place.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		merge bool
		want  []string
	}{
		"empty file":  {files: []string{""}, want: []string{"f1:1:1: the file is empty: it needs a domain"}},
		"only header": {files: []string{"---\n"}, want: []string{"f1:1:1: the file is empty: it needs a domain"}},
		"a list":      {files: []string{"- a"}, want: []string{"f1:1:1: must be a mapping"}},
		"no YAML":     {files: []string{"a: [\n"}, want: []string{"f1:1:4: not valid YAML: sequence end token ']' not found"}},
		"not UTF-8":   {files: []string{"domain: \xff"}, want: []string{"f1:1:1: not UTF-8 text"}},
		"no domain":   {files: []string{"descriptors: []"}, want: []string{"f1:1:1: domain: missing: a file of configuration says of which domain it is"}},
		"no text":     {files: []string{"domain: \"\""}, want: []string{"f1:1:1: domain: missing: a file of configuration says of which domain it is"}},
		"two documents": {files: []string{"domain: a\n---\ndomain: b\n"}, want: []string{
			"f1:3:7: a second document: a file is read up to the first ---; put this one in a file of its own",
		}},
		"many of one": {
			files: []string{`domain: a
descriptor: []
descriptors:
  - value: x
  - key: k
    rate_limit: {unit: fortnight, requests_per_unit: -1}
  - key: k
  - key: "k*"
  - {key: a, value: [1.5]}
  - {key: b, share_threshold: true, value: x}
  - {key: c, rate_limit: {unlimited: true, unit: day}}
  - {key: d, rate_limit: {unit: day, requests_per_unit: 4294967296, name: n, replaces: [{name: n}, {name: ""}, {of: x}]}}
  - {key: e, shadow_mode: maybe, rate_limit: {requests_per_unit: 1}}
  - {key: f, metadata: text, rate_limit: {unit: day, requests_per_unit: 010}}
  - {key: g, key: h}
  - text
  - {key: [a]}
  - {key: i, rate_limit: 5}
  - {key: j, metadata: {a: .inf, b: 99999999999999999999, c: {d: {e: {f: {g: {h: {i: {j: 1}}}}}}}}, rate_limit: {unlimited: true}}
`},
			want: []string{
				"f1:2:1: descriptor: unknown key (known here: domain, descriptors)",
				"f1:4:5: descriptors[0].key: missing: a descriptor needs a key",
				"f1:6:24: descriptors[1].rate_limit.unit: \"fortnight\": must be second, minute, hour, day, week, month or year",
				"f1:6:54: descriptors[1].rate_limit.requests_per_unit: must be a whole number from 0 to 4294967295, in plain digits",
				"f1:7:5: descriptors[2]: duplicate: line 5 has the same key and value",
				"f1:8:10: descriptors[3].key: a * belongs into value: in a key it would stand for other keys too",
				"f1:9:21: descriptors[4].value: must be text",
				"f1:10:31: descriptors[5].share_threshold: only with a * in value",
				"f1:11:50: descriptors[6].rate_limit.unit: an unlimited limit has no unit",
				"f1:12:57: descriptors[7].rate_limit.requests_per_unit: must be a whole number from 0 to 4294967295, in plain digits",
				"f1:12:96: descriptors[7].rate_limit.replaces[0].name: \"n\" is the name of this limit itself",
				"f1:12:100: descriptors[7].rate_limit.replaces[1].name: missing: the name of another rate_limit",
				"f1:12:112: descriptors[7].rate_limit.replaces[2].name: missing: the name of another rate_limit",
				"f1:12:113: descriptors[7].rate_limit.replaces[2].of: unknown key (known here: name)",
				"f1:13:27: descriptors[8].shadow_mode: must be true or false",
				"f1:13:46: descriptors[8].rate_limit.unit: missing: second, minute, hour, day, week, month or year",
				"f1:14:24: descriptors[9].metadata: must be a mapping",
				"f1:14:73: descriptors[9].rate_limit.requests_per_unit: must be a whole number from 0 to 4294967295, in plain digits",
				"f1:15:14: descriptors[10].key: duplicate key: the first is in line 15",
				"f1:16:5: descriptors[11]: must be a mapping",
				"f1:17:11: descriptors[12].key: must be text",
				"f1:17:5: descriptors[12].key: missing: a descriptor needs a key",
				"f1:18:26: descriptors[13].rate_limit: must be a mapping",
				"f1:19:28: descriptors[14].metadata.a: must be text, a finite number, true, false, null, a list or a mapping",
				"f1:19:90: descriptors[14].metadata.c.d.e.f.g.h.i.j: nested more than 8 levels deep",
			},
		},
		"one domain in two files": {
			files: []string{"domain: a\n", "domain: b\n", "domain: a\n"},
			want:  []string{"f3:1:9: domain: domain \"a\" is that of f1: put both into one file, or allow it with envoy.merge_domains in the configuration, --merge-domains of convert"},
		},
		"merged with a duplicate": {
			merge: true,
			files: []string{"domain: a\ndescriptors: [{key: k, value: v}]\n", "domain: a\ndescriptors: [{key: k}, {key: k, value: v}]\n"},
			want:  []string{"f2:2:25: descriptors[1]: duplicate: f1, line 2, has the same key and value"},
		},
		"merge key": {
			files: []string{"domain: a\ndescriptors:\n  - &x {key: a}\n  - {<<: *x, key: b}\n"},
			want:  []string{"f1:4:6: descriptors[1]: merge keys (<<) are not supported: write the keys themselves"},
		},
		"alias to nothing": {
			files: []string{"domain: *a\n"},
			want:  []string{"f1:1:9: domain: *a: there is no &a before it", "f1:1:1: domain: missing: a file of configuration says of which domain it is"},
		},
		"alias to itself": {
			files: []string{"domain: a\ndescriptors: &a\n  - key: k\n    descriptors: *a\n"},
			want:  []string{"f1:3:5: descriptors[0]" + strings.Repeat(".descriptors[0]", 16) + ": nested more than 16 levels deep"},
		},
		"too deep": {
			files: []string{"domain: a\ndescriptors: " + strings.Repeat("[{key: k, descriptors: ", 17) + strings.Repeat("}]", 17)},
			want:  []string{"f1:2:383: descriptors[0]" + strings.Repeat(".descriptors[0]", 16) + ": nested more than 16 levels deep"},
		},
		"much too deep": {
			files: []string{"domain: a\ndescriptors: " + strings.Repeat("[", 100_000)},
			want:  []string{"f1:1:1: not valid YAML: line 2 is nested more than 64 levels deep"},
		},
		"long key":    {files: []string{"domain: a\ndescriptors: [{key: " + strings.Repeat("k", 1025) + "}]"}, want: []string{"f1:2:21: descriptors[0].key: 1025 bytes: at most 1024"}},
		"odd domain":  {files: []string{"domain: \"a\\nb\""}, want: []string{"f1:1:9: domain: has a control character at byte 1"}},
		"long domain": {files: []string{"domain: " + strings.Repeat("d", 257)}, want: []string{"f1:1:9: domain: 257 bytes: at most 256"}},
		"many words": {
			files: []string{"domain: a\ndescriptors: [" + strings.Repeat("{},", 200_000) + "]"},
			want:  []string{"f1:1:1: not valid YAML: 600007 words and marks: at most 524288"},
		},
		"tag": {files: []string{"domain: !!str a"}, want: []string{"f1:1:1: domain: tags (!) are not supported", "f1:1:1: domain: missing: a file of configuration says of which domain it is"}},
	} {
		t.Run(name, func(t *testing.T) {
			data, faults, _ := convert(t, envoy.Options{MergeDomains: c.merge}, c.files...)
			slices.Sort(faults)
			slices.Sort(c.want)
			if !slices.Equal(faults, c.want) {
				t.Errorf("faults\n%s\nwant\n%s", strings.Join(faults, "\n"), strings.Join(c.want, "\n"))
			}
			if data != "" {
				t.Errorf("a policy beside faults:\n%s", data)
			}
		})
	}
}

// TestManyFaults: their number is bounded, and the last one says so.
func TestManyFaults(t *testing.T) {
	_, faults, _ := convert(t, envoy.Options{}, "domain: a\ndescriptors:\n"+strings.Repeat("  - {}\n", 5000))
	if len(faults) != policy.MaxFaults || !strings.Contains(faults[len(faults)-1], "more than 999 faults") {
		t.Errorf("%d faults, the last is %s", len(faults), faults[len(faults)-1])
	}
}

// TestAliasBomb: what aliases stand for is counted.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("domain: d\ndescriptors:\n  - key: k\n    rate_limit: {unlimited: true}\n    metadata:\n      a0: &a0 [1,2,3,4,5,6,7,8]\n")
	for i := range 7 {
		fmt.Fprintf(&b, "      a%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 9), i)
	}
	_, faults, _ := convert(t, envoy.Options{}, b.String())
	if len(faults) == 0 || !strings.Contains(faults[0], "more than") {
		t.Error(faults)
	}
}

// TestWarnings: what the files say in vain.
func TestWarnings(t *testing.T) {
	data, faults, warnings := convert(t, envoy.Options{}, `domain: a
unit: day
descriptors:
  - key: a
    shadow_mode: true
    metadata: {x: y}
  - key: b
    rate_limit: {unlimited: true, requests_per_unit: 5, shadow_mode: true}
  - key: c
    rate_limit: {unit: day, replaces: [{name: nobody}]}
`)
	want := []string{
		"f1:2:1: unit: means nothing in a file, and is passed over: only domain, descriptors do",
		"f1:5:18: descriptors[0].shadow_mode: means nothing without a rate_limit beside it",
		"f1:6:15: descriptors[0].metadata: means nothing without a rate_limit beside it",
		"f1:8:57: descriptors[1].rate_limit.shadow_mode: means nothing in rate_limit, and is passed over: only unit, requests_per_unit, unlimited, name, replaces do",
		"f1:8:54: descriptors[1].rate_limit.requests_per_unit: means nothing: the limit is unlimited",
		"f1:10:17: descriptors[2].rate_limit: without requests_per_unit, which is then 0, it refuses all that matches: write it, 0 too",
		"f1:10:47: descriptors[2].rate_limit.replaces[0].name: no rate_limit of this domain has the name \"nobody\": it replaces nothing",
	}
	if !slices.Equal(warnings, want) || len(faults) > 0 {
		t.Errorf("faults %v, warnings\n%s", faults, strings.Join(warnings, "\n"))
	}
	if !strings.Contains(data, "rate: 0/d") || strings.Contains(data, "replaces") {
		t.Error(data)
	}
}

// TestNames: what a name cannot hold, or another has, is told apart by a hash; the order of
// other descriptors has no say in it.
func TestNames(t *testing.T) {
	names := func(data string) (list []string) {
		for _, m := range regexp.MustCompile(`- name: (\S+)`).FindAllStringSubmatch(data, -1) {
			list = append(list, m[1])
		}
		return list
	}
	const first, second = "  - {key: path, value: /a/*}\n", "  - {key: a, value: b_c}\n  - {key: a_b, value: c}\n  - {key: app}\n"
	data, _, _ := convert(t, envoy.Options{}, "domain: my domain\ndescriptors:\n"+first+second)
	got := names(data)
	if len(got) != 4 || !regexp.MustCompile(`^path_-a-[0-9a-f]{8}$`).MatchString(got[0]) || got[1] != "a_b_c" ||
		!regexp.MustCompile(`^a_b_c-[0-9a-f]{8}$`).MatchString(got[2]) || !regexp.MustCompile(`^app-[0-9a-f]{8}$`).MatchString(got[3]) {
		t.Errorf("names %q in\n%s", got, data)
	}
	if !regexp.MustCompile(`(?m)^  my-domain-[0-9a-f]{8}:\n    domain: "my domain"$`).MatchString(data) {
		t.Error(data)
	}
	data, _, _ = convert(t, envoy.Options{}, "domain: my domain\ndescriptors:\n"+second+first)
	if again := names(data); again[3] != got[0] || again[1] != got[2] {
		t.Errorf("names %q, then %q", got, again)
	}
}

// TestScalars: what is no text in YAML is text here, as it is written.
func TestScalars(t *testing.T) {
	for written, want := range map[string]string{
		"1.5": "1.5", "1.50": "1.50", "-1.5": "-1.5", "1.": "1.", "1_000.5": "1_000.5", "1e3": "1e3", ".inf": ".inf", "-.Inf": "-.Inf", ".nan": ".nan",
		"404": "404", "017": "017", "0x1F": "0x1F", "+1": "+1", "1_000": "1_000", "99999999999999999999": "99999999999999999999",
		"true": "true", "TRUE": "TRUE", "no": "no", "2001-01-01": "2001-01-01", "1:30": "1:30", "&x 1.5": "1.5",
	} {
		data, faults, warnings := convert(t, envoy.Options{}, "domain: a\ndescriptors:\n  - key: k\n    value: "+written+"\n    rate_limit: {unit: day, requests_per_unit: 1}\n")
		if len(faults)+len(warnings) > 0 {
			t.Errorf("%s: %v %v", written, faults, warnings)
			continue
		}
		f, _, err := policy.Parse("f", []byte(data), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Applications[0].Rules[0].Descriptor[0].Value; got != want {
			t.Errorf("%s is %q, want %q", written, got, want)
		}
	}
	for _, nothing := range []string{"null", "~", ""} {
		data, faults, _ := convert(t, envoy.Options{}, "domain: a\ndescriptors:\n  - key: k\n    value: "+nothing+"\n")
		if len(faults) > 0 || !strings.Contains(data, "{descriptor: [{key: k}]}") {
			t.Errorf("%q: %v\n%s", nothing, faults, data)
		}
	}
	for name, text := range map[string]string{"domain": "domain: 1.5\n", "key": "domain: a\ndescriptors: [{key: 1.5}]\n", "name": "domain: a\ndescriptors: [{key: k, rate_limit: {name: 1.5, unlimited: true}}]\n"} {
		if data, faults, _ := convert(t, envoy.Options{}, text); len(faults) > 0 || !strings.Contains(data, "1.5") {
			t.Errorf("%s: %v\n%s", name, faults, data)
		}
	}
}

// TestUnnamed: the names of limits without one are told from those that were given.
func TestUnnamed(t *testing.T) {
	for _, limit := range []string{
		"unit: second", "unit: MINUTE", "unit: hour", "unit: day", "unit: week", "unit: month", "unit: year", "unlimited: true",
		"unit: minute, name: login", "unit: minute, name: per_minute", "unit: minute, name: per_hour", "unit: minute, name: unlimited",
		"unlimited: true, name: unlimited", "unit: minute, name: per_", "unit: minute, name: per minute", "unit: day, name: per_decade",
	} {
		if !strings.HasPrefix(limit, "unlimited") {
			limit += ", requests_per_unit: 1"
		}
		data, faults, _ := convert(t, envoy.Options{}, "domain: a\ndescriptors: [{key: k, rate_limit: {"+limit+"}}]\n")
		f, _, err := policy.Parse("f", []byte(data), nil)
		if err != nil {
			t.Fatal(faults, err)
		}
		name, named := f.Applications[0].Rules[0].Limits[0].Name, strings.Contains(limit, "name:")
		if envoy.Unnamed(name) == named {
			t.Errorf("{%s} has the name %s", limit, name)
		}
	}
}

// TestCalendar: quotas of the limits that have a calendar.
func TestCalendar(t *testing.T) {
	data, _, _ := convert(t, envoy.Options{Calendar: true}, `domain: a
descriptors:
  - {key: s, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: m, rate_limit: {unit: month, requests_per_unit: 2}}
  - {key: z, rate_limit: {unit: month, requests_per_unit: 0}}
`)
	for _, want := range []string{"algorithm: fixed_window, rate: 1/min", "algorithm: quota, rate: 2/month", "algorithm: fixed_window, rate: 0/30d"} {
		if !strings.Contains(data, want) {
			t.Errorf("no %s in\n%s", want, data)
		}
	}
	if _, err := gate.Validate("policy", []byte(data)); err != nil {
		t.Error(err)
	}
}

// TestMerged: files that add to a domain are one configuration.
func TestMerged(t *testing.T) {
	data, faults, _ := convert(t, envoy.Options{MergeDomains: true},
		"domain: a\ndescriptors: [{key: x, rate_limit: {unit: day, requests_per_unit: 1, name: n}}]\n", "domain: b\n",
		"domain: a\ndescriptors: [{key: y, rate_limit: {unit: day, requests_per_unit: 1, replaces: [{name: n}]}}]\n")
	twice, _, _ := convert(t, envoy.Options{}, "domain: a\ndescriptors:\n"+
		"- {key: x, rate_limit: {unit: day, requests_per_unit: 1, name: n}}\n- {key: y, rate_limit: {unit: day, requests_per_unit: 1, name: n}}\n"+
		"- {key: z, rate_limit: {unlimited: true, replaces: [{name: n}, {name: n}]}}\n")
	if !strings.Contains(twice, "replaces: [x, \"y\"]") {
		t.Error(twice)
	}
	if len(faults) > 0 || !strings.Contains(data, "# from f1, f3\n") || !strings.Contains(data, "replaces: [x]") || strings.Count(data, "on_no_match") != 2 {
		t.Errorf("%v\n%s", faults, data)
	}
	if _, err := gate.Validate("policy", []byte(data)); err != nil {
		t.Error(err)
	}
}

// TestYAML: texts of YAML 1.1, anchors, and metadata of all kinds arrive.
func TestYAML(t *testing.T) {
	data, faults, _ := convert(t, envoy.Options{}, `domain: d
descriptors:
  - key: status
    value: 404
    shadow_mode: yes
    rate_limit: &day {unit: day, requests_per_unit: 7}
    metadata: {"a b": [1, -2, 0.5, 1e3, true, null, "5", "\u0007\u2028\U0001F600é"], ~x: {}}
  - {key: "true", value: "no", rate_limit: *day}
  - key: on
    value: >-
      a: b, #c
    rate_limit: *day
`)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	p, _, err := policy.Parse("policy", []byte(data), nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	rules := p.Applications[0].Rules
	want := []any{int64(1), int64(-2), 0.5, 1000.0, true, nil, "5", "\a\u2028😀é"}
	if m := rules[0].Metadata.(map[string]any); !slices.EqualFunc(m["a b"].([]any), want, func(a, b any) bool { return a == b }) || m["~x"] == nil {
		t.Errorf("%#v", rules[0].Metadata)
	}
	for i, want := range []policy.DescriptorEntry{{Key: "status", Value: "404"}, {Key: "true", Value: "no"}, {Key: "on", Value: "a: b, #c"}} {
		if got := rules[i].Descriptor[0]; got != want || rules[i].Limits[0].Count != 7 {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if !rules[0].Mode.Shadow {
		t.Error("not in shadow")
	}
}

// TestReadDir: what is read of a directory, and in which order.
func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := envoy.ReadDir(dir); err == nil || !strings.Contains(err.Error(), "there is no *.yaml") {
		t.Error(err)
	}
	write("b.yaml", "b")
	write("a/x.y.yml", "a")
	write("readme.txt", "no")
	write(".hidden.yaml", "no")
	write("..data/c.yaml", "c")
	if err := os.Symlink("..data/c.yaml", filepath.Join(dir, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	files, err := envoy.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, strings.TrimPrefix(f.Name, dir+"/")+"="+string(f.Data))
	}
	if want := []string{"a/x.y.yml=a", "b.yaml=b", "c.yaml=c"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := os.Symlink(".", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	if _, err := envoy.ReadDir(dir); err == nil || !strings.Contains(err.Error(), "directories deep") {
		t.Error(err)
	}
	if _, err := envoy.ReadDir(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("no error for a directory that is not there")
	}
}

// TestLargeDir: directories are read up to a bound, and beyond it not at all.
func TestLargeDir(t *testing.T) {
	for _, c := range []struct {
		files, size int
		words       string
	}{{envoy.MaxFiles + 1, 1, "more than 1000 files"}, {envoy.MaxTotal/envoy.MaxFile + 1, envoy.MaxFile, "more than 16777216 bytes together"}} {
		dir := t.TempDir()
		data := make([]byte, c.size)
		for i := range c.files {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := envoy.ReadDir(dir); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%v, want %s", err, c.words)
		}
	}
}

// TestLargeFile: a file beyond the bound is refused, not read in part.
func TestLargeFile(t *testing.T) {
	_, faults, _ := convert(t, envoy.Options{}, "domain: d\n#"+strings.Repeat("x", envoy.MaxFile))
	if len(faults) != 1 || !strings.Contains(faults[0], "at most 1048576") {
		t.Error(faults)
	}
}

// TestSlowFile: what would keep the parser busy for minutes is refused before it.
func TestSlowFile(t *testing.T) {
	for _, c := range []struct{ text, words string }{
		{"a: [" + strings.Repeat("- ", envoy.MaxFile/2-4), "line 1: a - within [ ] or { }"},
		{"a: {x: [" + strings.Repeat("- ", envoy.MaxFile/4), "line 1: a - within [ ] or { }"},
		{strings.Repeat("x:\n", envoy.MaxFile/4), "line 1001: more than 1000 keys in a mapping"},
		{strings.Repeat("x:\n- y\n", envoy.MaxFile/8), "line 2001: more than 1000 keys in a mapping"},
		{strings.Repeat("x:\n  y: z\n", envoy.MaxFile/16), "line 2001: more than 1000 keys in a mapping"},
		{strings.Repeat("&a x:\n", envoy.MaxFile/8), "line 1001: more than 1000 keys in a mapping"},
		{"a: [" + strings.Repeat("*a ", envoy.MaxFile/8) + "]", "must be specified"},
	} {
		_, faults, _ := convert(t, envoy.Options{}, c.text)
		if len(faults) != 1 || !strings.Contains(faults[0], c.words) || len(faults[0]) > 200 {
			t.Errorf("%.20q: %.200q, want %s", c.text, faults, c.words)
		}
	}
	var b strings.Builder
	b.WriteString("domain: d\ndescriptors:\n")
	for i := range 3000 {
		fmt.Fprintf(&b, "- key: k\n  value: v%d\n  rate_limit:\n    unit: minute\n    requests_per_unit: 5\n", i)
	}
	if _, faults, _ := convert(t, envoy.Options{}, b.String()); len(faults) > 0 {
		t.Errorf("a long list: %.200q", faults)
	}
}

// TestManyRules: a configuration of as many descriptors as a policy may have rules.
func TestManyRules(t *testing.T) {
	var b strings.Builder
	b.WriteString("domain: d\ndescriptors:\n")
	for i := range policy.MaxDescriptorRules {
		fmt.Fprintf(&b, "- {key: remote_address, value: 10.0.%d.%d, rate_limit: {unit: minute, requests_per_unit: 5}}\n", i/256, i%256)
	}
	data, faults, _ := convert(t, envoy.Options{}, b.String())
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if _, err := gate.Validate("policy", []byte(data)); err != nil {
		t.Errorf("%d bytes: %v", len(data), err)
	}
}

// FuzzConvert: no file breaks it, and what it writes is a policy.
func FuzzConvert(f *testing.F) {
	for _, s := range []string{
		"domain: d\ndescriptors: [{key: a, value: 'b*', share_threshold: true, rate_limit: {unit: day, requests_per_unit: 5, name: 'x y'}}]",
		"domain: 'a b'\ndescriptors:\n- key: a\n  metadata: {a: [1, {b: ~}], c: 1.5e300}\n  rate_limit: {unlimited: true}\n",
		"domain: &x y\ndescriptors:\n- key: *x\n  rate_limit:\n    unit: WEEK\n    requests_per_unit: 0\n  quota_mode: on\n",
		"{\"domain\":\"\\u0007\"}", "a: *a", "? a", "- &a [*a]", "domain: |\n  a\n",
	} {
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, calendar bool) {
		out, _, err := envoy.Convert([]envoy.File{{Name: "f\n", Data: data}}, envoy.Options{Calendar: calendar})
		if err != nil {
			if _, ok := errors.AsType[policy.Faults](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		again, _, _ := envoy.Convert([]envoy.File{{Name: "f\n", Data: data}}, envoy.Options{Calendar: calendar})
		if string(again) != string(out) {
			t.Fatal("not the same twice")
		}
		if _, _, err := policy.Parse("policy", out, nil); err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
	})
}
