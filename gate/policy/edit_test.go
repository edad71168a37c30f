package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

const editDoc = `# head
version: 1 # one
plans: # the plans

  # the free one
  free: # of charge
    limits:
      - {name: daily, algorithm: quota, rate: 10/day} # ten
      # - {name: more, rate: 1/s}
  # the other one
  "pro": {limits: [{name: daily, algorithm: quota, rate: 20/day}]} # paid

# what they are for
applications:
    email:
        default_plan: free
        rules: [{name: send, match: {operation: send}, message: "a # b"}]
# end
`

func TestEdit(t *testing.T) {
	const json = `{
  "version": 1,
  "plans": {
    "free": {"limits": []},
    "pro": {
      "limits": []
    }
  },
  "applications": {"a": {}}
}`
	tests := []struct {
		name, doc, section, part, body string
		old, want                      string // what is replaced by what
	}{
		{
			"block by block", editDoc, "plans", "free", "# new\nlimits: # none\n  []\n",
			"  free: # of charge\n    limits:\n      - {name: daily, algorithm: quota, rate: 10/day} # ten\n      # - {name: more, rate: 1/s}\n",
			"  free:\n    # new\n    limits: # none\n      []\n",
		},
		{
			"comment of the name stays", editDoc, "plans", "free", "  limits: []\n  on_store_error: open\n\n",
			"    limits:\n      - {name: daily, algorithm: quota, rate: 10/day} # ten\n      # - {name: more, rate: 1/s}\n",
			"    limits: []\n    on_store_error: open\n",
		},
		{
			"block by braces", editDoc, "plans", "free", "{limits: []}",
			" # of charge\n    limits:\n      - {name: daily, algorithm: quota, rate: 10/day} # ten\n      # - {name: more, rate: 1/s}\n", " {limits: []} # of charge\n",
		},
		{"braces by braces", editDoc, "plans", "pro", `{"limits":[]}`, "{limits: [{name: daily, algorithm: quota, rate: 20/day}]}", `{"limits":[]}`},
		{"braces by block", editDoc, "plans", "pro", "limits: []", " {limits: [{name: daily, algorithm: quota, rate: 20/day}]} # paid", " # paid\n    limits: []"},
		{
			"lines of JSON", editDoc, "plans", "pro", "{\n\t\"limits\": []\n}\n",
			" {limits: [{name: daily, algorithm: quota, rate: 20/day}]} # paid", " # paid\n    {\n    \t\"limits\": []\n    }",
		},
		{"its own comment", editDoc, "plans", "pro", "{limits: []} # gratis", "{limits: [{name: daily, algorithm: quota, rate: 20/day}]} # paid", "{limits: []} # gratis"},
		{"another plan", editDoc, "plans", "x", "limits: []\n# c\n", "# paid\n", "# paid\n  x:\n    limits: []\n    # c\n"},
		{"a name like a number", editDoc, "plans", "1", "{}", "# paid\n", "# paid\n  \"1\": {}\n"},
		{"a name like a word", editDoc, "plans", "on", "{}", "# paid\n", "# paid\n  \"on\": {}\n"},
		{"another application", editDoc, "applications", "web", "rules: []", "\"a # b\"}]\n", "\"a # b\"}]\n    web:\n        rules: []\n"},
		{"without a plan", editDoc, "plans", "pro", "", "  \"pro\": {limits: [{name: daily, algorithm: quota, rate: 20/day}]} # paid\n", ""},
		{"without the application", editDoc, "applications", "email", "", ":\n    email:\n        default_plan: free\n        rules: [{name: send, match: {operation: send}, message: \"a # b\"}]\n", ": {}\n"},
		{"a document of its own", editDoc, "plans", "pro", "---\nlimits: []\n...\n", "{limits: [{name: daily, algorithm: quota, rate: 20/day}]}", `{"limits": []}`},
		{"no section", "version: 1\napplications:\n  a: {}\n\n# end\n", "plans", "free", "limits: []", "\n\n", "\nplans:\n  free:\n    limits: []\n\n"},
		{"no section, and no line break", "version: 1\napplications: {a: {}}", "plans", "free", "limits: []", "{}}", "{}}\nplans:\n  free:\n    limits: []"},
		{"empty braces", "version: 1\nplans: {} # none\n\nx: 1\n", "plans", "free", "limits: []", "plans: {} # none", "plans: # none\n  free:\n    limits: []"},
		{"in braces", "version: 1\nplans: {a: {limits: []}, 'b': {x: it's}, }\n", "plans", "b", "{limits: []}", "{x: it's}", "{limits: []}"},
		{"into braces", "version: 1\nplans: {a: {limits: []}, 'b': {x: it's}, }\n", "plans", "c", "limits: []", "'s},", "'s}, c: {\"limits\": []}"},
		{"out of braces", "version: 1\nplans: {a: {limits: []}, 'b': {x: it's}}\n", "plans", "b", "", ", 'b': {x: it's}", ""},
		{"the first out of braces", "version: 1\nplans: {a: {limits: [\"}\"]}, 'b': {x: it's}}\n", "plans", "a", "", "a: {limits: [\"}\"]}, ", ""},
		{"CRLF", "version: 1\r\nplans:\r\n  a: {x: 'a\r\n\r\n   b'} # c\r\n  b: {}\r\n", "plans", "b", "limits:\n- {}\n", "b: {}", "b:\r\n    limits:\r\n    - {}"},
		{"mixed", "version: 1\r\nplans:\n  a: {}\r\n  b: {}\n", "plans", "a", "limits: []", "a: {}", "a:\r\n    limits: []"},
		{"byte order mark", "\ufeffversion: 1\nplans:\n  a: {}\n", "plans", "a", "limits: []", "a: {}", "a:\n    limits: []"},
		{"behind ...", "version: 1\nplans:\n  a: {}\n\n# c\n...\n# d\n", "plans", "b", "limits: []", "  a: {}\n", "  a: {}\n  b:\n    limits: []\n"},
		{"JSON", json, "plans", "pro", `limits: [{name: a, rate: 1/s}]`, "{\n      \"limits\": []\n    }", "{\n      \"limits\": [\n        {\n          \"name\": \"a\",\n          \"rate\": \"1/s\"\n        }\n      ]\n    }"},
		{"more JSON", json, "plans", "x", `{"limits":[]}`, "      \"limits\": []\n    }", "      \"limits\": []\n    },\n    \"x\": {\n      \"limits\": []\n    }"},
		{"less JSON", json, "plans", "pro", "", ",\n    \"pro\": {\n      \"limits\": []\n    }", ""},
		{"less JSON still", json, "plans", "free", "", "\n    \"free\": {\"limits\": []},", ""},
		{"JSON, the last", json, "applications", "a", "", "\"applications\": {\"a\": {}}", "\"applications\": {}"},
		{"JSON with tabs", strings.ReplaceAll(json, "  ", "\t"), "plans", "free", `{}`, `{"limits": []}`, "{}"},
		{"JSON, one more section", `{"version":1, "applications":{"é\"}":{}}}`, "plans", "free", `{}`, `:{}}}`, `:{}}, "plans": {"free": {}}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var body []byte
			if tt.body != "" {
				body = []byte(tt.body)
			}
			if strings.Count(tt.doc, tt.old) != 1 {
				t.Fatalf("%q is not once in the document", tt.old)
			}
			got, err := Edit([]byte(tt.doc), tt.section, tt.part, body)
			if want := strings.Replace(tt.doc, tt.old, tt.want, 1); err != nil || string(got) != want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, want)
			}
			checkEdit(t, tt.doc, tt.section, tt.part, body)
		})
	}
}

// checkEdit holds an edit to what it promises. It returns the result, "" if there is none.
func checkEdit(t *testing.T, doc, section, name string, body []byte) string {
	t.Helper()
	got, err := Edit([]byte(doc), section, name, body)
	if err != nil {
		if got != nil {
			t.Errorf("%v, and a document", err)
		}
		return ""
	}
	for _, other := range []string{"version", "plans", "applications", "subjects"} {
		was, is := topLevel(t, []byte(doc), other), topLevel(t, got, other)
		if other != section {
			if !slices.Equal(was, is) {
				t.Errorf("%s was\n%s\nand is\n%s\nin\n%s", other, was, is, got)
			}
			continue
		}
		at := slices.IndexFunc(was, func(s string) bool { return strings.HasPrefix(s, name+" ") })
		switch {
		case body == nil:
			was = slices.Delete(was, at, at+1)
		case at < 0:
			was = append(was, "")
			at = len(was) - 1
			fallthrough
		default:
			part, err := readMapping(body)
			if err != nil {
				t.Fatal(err)
			}
			was[at] = name + " " + string(appendNode(nil, part))
		}
		if !slices.Equal(was, is) {
			t.Errorf("%s is\n%s\nnot\n%s\nin\n%s", section, is, was, got)
		}
	}
	if body == nil {
		return string(got)
	}
	if again, err := Edit(got, section, name, body); err != nil || string(again) != string(got) {
		t.Errorf("put twice: %v\n%s\nonce\n%s", err, again, got)
	}
	return string(got)
}

// topLevel returns the values below a key of a document, each with its name.
func topLevel(t *testing.T, doc []byte, key string) []string {
	t.Helper()
	root, err := readMapping(doc)
	if err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	in, _ := pairOf(root, key)
	if in == nil {
		return nil
	}
	parts, err := Parts(doc, key)
	if err != nil {
		return []string{string(appendNode(nil, in.Value))}
	}
	all := make([]string, len(parts))
	for i, p := range parts {
		all[i] = p.Name + " " + string(p.JSON)
	}
	return all
}

// Every part of the policies that come with the program can be changed alone.
func TestEditShipped(t *testing.T) {
	for _, doc := range []string{string(Builtin()), string(Starter())} {
		root, err := readMapping([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range []string{doc, strings.ReplaceAll(doc, "\n", "\r\n"), string(appendNode(nil, root))} {
			for _, section := range []string{"plans", "applications"} {
				parts, err := Parts([]byte(doc), section)
				if err != nil || len(parts) == 0 {
					t.Fatalf("%s: %v, %v", section, parts, err)
				}
				for _, part := range append(parts, Part{Name: "another"}) {
					if part.JSON != nil && checkEdit(t, doc, section, part.Name, nil) == "" {
						t.Errorf("%s.%s cannot be removed", section, part.Name)
					}
					for _, body := range []string{"# none\nlimits: []\n", `{"limits": []}`, string(parts[0].JSON)} {
						got := checkEdit(t, doc, section, part.Name, []byte(body))
						if _, _, err := Parse("p", []byte(got), fakeCheck); err != nil {
							t.Errorf("%s.%s: %v", section, part.Name, err)
						}
					}
				}
			}
		}
	}
}

func TestEditFaults(t *testing.T) {
	for _, tt := range []struct{ name, doc, part, body, want string }{
		{"name", editDoc, "a b", "{}", "is not one of a-z"},
		{"empty", editDoc, "free", "# nothing\n", "part:1:1: plans.free: is empty"},
		{"list", editDoc, "free", "\n[1]", "part:2:1: plans.free: must be a mapping, not a list"},
		{"text", editDoc, "free", "x", "part:1:1: plans.free: must be a mapping, not text"},
		{"syntax", editDoc, "free", "limits: []\nx: [", "part:2:4: not valid YAML or JSON"},
		{"anchor", editDoc, "free", "limits: &a []", "part:1:9: anchors"},
		{"too large", editDoc, "free", "x: '" + strings.Repeat("x", MaxSize-10) + "'", "bytes: at most"},
		{"document", "version: &a 1", "free", "{}", "the document cannot be read: policy:1:10: anchors"},
		{"no mapping", "[1]", "free", "{}", "the document must be a mapping, not a list"},
		{"section", "plans: 1", "free", "{}", "cannot be changed alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Edit([]byte(tt.doc), "plans", tt.part, []byte(tt.body))
			if err == nil || !strings.Contains(err.Error(), tt.want) || got != nil {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
	for _, section := range []string{"plans", "subjects"} {
		if _, err := Edit([]byte(editDoc), section, "nobody", nil); !errors.Is(err, ErrNoPart) {
			t.Errorf("nobody of %s: %v", section, err)
		}
	}
}

func TestParts(t *testing.T) {
	parts, err := Parts([]byte(editDoc), "plans")
	const want = `[{free {"limits": [{"name": "daily", "algorithm": "quota", "rate": "10/day"}]}} {pro {"limits": [{"name": "daily", "algorithm": "quota", "rate": "20/day"}]}}]`
	if got := strings.NewReplacer("JSON:", "", "Name:", "").Replace(fmt.Sprintf("%s", parts)); err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if parts, err := Parts([]byte(editDoc), "subjects"); err != nil || parts != nil {
		t.Errorf("%s, %v", parts, err)
	}
	for _, doc := range []string{"plans: {a: {b: 0x10}}", "plans: []", "plans: [", "1"} {
		if parts, err := Parts([]byte(doc), "plans"); err == nil {
			t.Errorf("%s: %s", doc, parts)
		}
	}
}

// No fault or warning names a line of the file once it is unplaced.
func TestUnplaced(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, file := range files {
		input, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		doc, _, _ := strings.Cut(string(input), divider)
		_, warnings, err := Parse("p", []byte(doc), fakeCheck)
		faults, _ := errors.AsType[Faults](err)
		for _, w := range warnings {
			faults = append(faults, Fault(w))
		}
		for i, f := range faults.Unplaced() {
			if faults[i].Message != f.Message {
				named++
			}
			if strings.Contains(f.Message, "in line") {
				t.Errorf("%s", f.Message)
			}
		}
	}
	if named < 5 {
		t.Errorf("only %d messages name a line", named)
	}
}

// The pieces of generated documents.
var (
	editKeys   = []string{"free", "pro", "a-b", "x.y", "on", "1", "é"}
	editValues = []string{
		"10/day", `"a # b"`, "'it''s }'", "12", "true", `"\u00e9\"\\ {"`, "subject:mallory", "it's", "http://x/#y", "[]", "{}",
		"[a, {b: c}, 'd]']", `{"x": [1, "2"], y: "}"}`, "request.path == 'x'",
	}
	editBlocks = []string{"|\n%s  text\n%s  # none\n", "|-\n%s  text\n\n%s  more\n", ">\n%s  folded\n%s  text\n", "'one\n%s  two'\n%s", "plain\n%s  text\n%s"}
)

// document generates a policy of a kind, valid or not. Its comments have numbers, and say
// in which part they stand.
type document struct {
	*rand.Rand
	strings.Builder
	comments int
	part     string
}

func (d *document) comment(indent string) {
	switch d.IntN(5) {
	case 0:
		d.comments++
		fmt.Fprintf(d, "%s# %s: {%d\n", indent, d.part, d.comments)
	case 1:
		d.WriteString("\n")
	}
}

func (d *document) tail() {
	if d.IntN(4) == 0 {
		d.comments++
		fmt.Fprintf(d, " # %s: }%d", d.part, d.comments)
	}
	d.WriteString("\n")
}

func (d *document) pick(from []string) string { return from[d.IntN(len(from))] }

func (d *document) entries(indent string, depth int) {
	names := slices.Clone(editKeys)
	d.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:1+d.IntN(3)] {
		d.comment(indent)
		if section, _, ok := strings.Cut(d.part, "/"); ok && depth == 0 {
			d.part = section + "/" + name
		}
		if name == "1" || d.IntN(3) == 0 {
			name = `"` + name + `"`
		}
		d.WriteString(indent + name + ":")
		d.value(indent, depth+1)
		if depth == 0 {
			d.part, _, _ = strings.Cut(d.part, "/")
			d.part += "/"
		}
	}
}

func (d *document) value(indent string, depth int) {
	deeper := indent + strings.Repeat(" ", 1+d.IntN(4))
	switch n := d.IntN(4); {
	case depth < 4 && n < 2:
		d.tail()
		d.entries(deeper, depth)
		d.comment(deeper)
	case depth < 2 || n == 2:
		d.WriteString(" {")
		for i, name := range editKeys[:d.IntN(3)] {
			if i > 0 {
				d.WriteString(d.pick([]string{", ", ",\n" + deeper, ", # " + d.part + ": no\n" + deeper}))
			}
			d.WriteString(name + ": " + d.pick([]string{"{}", "{a: " + d.pick(editValues) + "}"}))
		}
		d.WriteString("}")
		d.tail()
	case n == 3 && depth > 1 && d.IntN(2) == 0:
		fmt.Fprintf(d, " "+d.pick(editBlocks), deeper, deeper)
		if !strings.HasSuffix(d.String(), "\n") {
			d.WriteString("\n")
		}
	default:
		d.WriteString(" " + d.pick(editValues))
		d.tail()
	}
}

// TestEditGenerated edits documents of every look, and holds that all comments stay that
// do not stand in the part.
func TestEditGenerated(t *testing.T) {
	edited, entangled := 0, 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		doc, part := generate(r)
		if _, err := readMapping([]byte(doc)); err != nil {
			continue // the parser does not take all that is YAML
		}
		if _, err := readMapping(part); err != nil && part != nil {
			continue
		}
		section, name := []string{"plans", "applications"}[r.IntN(2)], editKeys[r.IntN(6)]
		got := checkEdit(t, doc, section, name, part)
		if got == "" {
			if _, err := Edit([]byte(doc), section, name, part); !errors.Is(err, ErrNoPart) {
				entangled++
				t.Logf("seed %d: %v: %s.%s =\n%s\nin\n%s", seed, err, section, name, part, doc)
			}
			continue
		}
		edited++
		is := comments(got)
		for _, c := range comments(doc) {
			if !slices.Contains(is, c) && !strings.HasPrefix(c, section+"/"+name+":") {
				t.Errorf("seed %d: %s.%s: lost %s of\n%s\nin\n%s", seed, section, name, c, doc, got)
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if edited < 200 || entangled > edited/200 {
		t.Errorf("%d edited, %d entangled", edited, entangled)
	}
}

// generate returns a document, and a part to put into it, or nil.
func generate(r *rand.Rand) (doc string, part []byte) {
	d := document{Rand: r, part: "none"}
	d.comment("")
	d.WriteString("version: 1\n")
	for _, section := range []string{"plans", "applications", "subjects"} {
		if d.comment(""); d.IntN(6) == 0 {
			continue
		}
		d.WriteString(section + ":")
		d.part = section + "/"
		d.value("", 0)
		d.part = "none"
	}
	d.comment("")
	doc = d.String()
	if d.IntN(4) == 0 {
		doc = strings.ReplaceAll(doc, "\n", "\r\n")
	}
	if d.IntN(4) == 0 {
		doc = strings.TrimRight(doc, "\r\n")
	}
	if d.IntN(4) == 0 {
		return doc, nil
	}
	body := document{Rand: r, part: "new"}
	body.entries(d.pick([]string{"", "  "}), 2)
	return doc, []byte(body.String())
}

// comments returns the comments of a document.
func comments(doc string) (all []string) {
	for _, t := range lexer.Tokenize(normal([]byte(doc))) {
		if t.Type == token.CommentType {
			all = append(all, strings.TrimSpace(t.Value))
		}
	}
	return all
}

func FuzzEdit(f *testing.F) {
	for _, doc := range []string{editDoc, string(Builtin()), string(Starter()), `{"plans": {"a": {}}, "version": 1}`} {
		f.Add(doc, "plans", "free", "limits: []")
		f.Add(doc, "applications", "email", "{\n\"rules\": []}")
	}
	f.Fuzz(func(t *testing.T, doc, section, name, part string) {
		if section != "plans" && section != "applications" {
			return
		}
		for _, key := range []string{"version", "plans", "applications", "subjects"} {
			root, err := readMapping([]byte(doc))
			if err != nil {
				return
			}
			if in, _ := pairOf(root, key); in != nil && !json.Valid(appendNode(nil, in.Value)) {
				return // a number that JSON does not have
			}
		}
		for _, body := range [][]byte{[]byte(part), nil} {
			if m, err := readMapping(body); body != nil && (err != nil || !json.Valid(appendNode(nil, m))) {
				continue
			}
			checkEdit(t, doc, section, name, body)
		}
	})
}
