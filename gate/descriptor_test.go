package gate

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/headgate/headgate/gate/policy"
)

// asked is what a rule asks for; a value that ends in "!" shares its budget.
func asked(pairs ...string) []policy.DescriptorEntry {
	var out []policy.DescriptorEntry
	for _, p := range pairs {
		key, value, _ := strings.Cut(p, "=")
		value, share := strings.CutSuffix(value, "!")
		out = append(out, policy.DescriptorEntry{Key: key, Value: value, ShareThreshold: share})
	}
	return out
}

// said is what a request asks with.
func said(pairs ...string) []Entry {
	var out []Entry
	for _, p := range pairs {
		key, value, _ := strings.Cut(p, "=")
		out = append(out, Entry{key, value})
	}
	return out
}

func compileDescriptors(t testing.TB, lists ...[]policy.DescriptorEntry) *application {
	t.Helper()
	var rules []policy.Rule
	for _, l := range lists {
		rules = append(rules, policy.Rule{Descriptor: l, Cost: policy.Cost{Fixed: 1}})
	}
	return compileRules(t, rules)
}

func TestMatchDescriptor(t *testing.T) {
	for _, c := range []struct {
		why   string
		rules [][]policy.DescriptorEntry
		asks  map[string]string // entries, split at commas, and the rule
	}{
		{"exact goes before patterns, patterns in file order, any value last",
			[][]policy.DescriptorEntry{asked("k"), asked("k=a*c"), asked("k=a*"), asked("k=abc")},
			map[string]string{"k=abc": "r3", "k=abbc": "r1", "k=ab": "r2", "k=b": "r0", "k=": "r0", "j=abc": "", "k=a*": "r2"}},
		{"a depth is met whole", [][]policy.DescriptorEntry{asked("a"), asked("a", "b", "c")},
			map[string]string{"a=1": "r0", "a=1,b=2": "", "a=1,b=2,c=3": "r1", "a=1,b=2,c=3,d=4": "", "b=2": ""}},
		{"there is no way back", [][]policy.DescriptorEntry{asked("a=x", "b=1"), asked("a", "b=2"), asked("a=x*", "b=3"), asked("a=xy*", "b=4")},
			map[string]string{"a=x,b=1": "r0", "a=x,b=2": "", "a=y,b=2": "r1", "a=xy,b=3": "r2", "a=xyz,b=4": "", "a=xyz,b=3": "r2"}},
		{"a star stands for zero or more characters, anywhere",
			[][]policy.DescriptorEntry{asked("k=*a*b*"), asked("k=x*x"), asked("k=**"), asked("l=*")},
			map[string]string{"k=ab": "r0", "k=1a2b3": "r0", "k=ba": "r2", "k=x": "r2", "k=xx": "r1", "k=xyx": "r1", "k=": "r2", "l=": "r3", "l=\n": "r3"}},
		{"keys and values do not run into each other", [][]policy.DescriptorEntry{asked("a=b_c"), asked("a_b=c")},
			map[string]string{"a=b_c": "r0", "a_b=c": "r1", "a_b_c=": "", "a=b": ""}},
	} {
		a := compileDescriptors(t, c.rules...)
		for ask, want := range c.asks {
			if got := ruleOf(t, a, &Request{Descriptor: said(strings.Split(ask, ",")...)}); got != want {
				t.Errorf("%s: %s meets %q, want %q", c.why, ask, got, want)
			}
		}
	}
}

// model finds a rule as the rules of matching say, level by level through all rules.
func model(rules [][]policy.DescriptorEntry, ask []Entry) int {
	if len(ask) == 0 {
		return -1
	}
	// prefix is what the way so far has chosen.
	var prefix []policy.DescriptorEntry
	same := func(r []policy.DescriptorEntry) bool {
		if len(r) < len(prefix) {
			return false
		}
		for i, p := range prefix {
			if r[i].Key != p.Key || r[i].Value != p.Value {
				return false
			}
		}
		return true
	}
	for depth, e := range ask {
		var exact, wild, bare *policy.DescriptorEntry
		for _, r := range rules {
			if len(r) <= depth || !same(r) || r[depth].Key != e.Key {
				continue
			}
			at := r[depth]
			switch {
			case at.Value == "":
				bare = &at
			case at.Value == e.Value:
				exact = &at
			case wild == nil && strings.Contains(at.Value, "*") && glob(at.Value, e.Value):
				wild = &at
			}
		}
		switch {
		case exact != nil:
			prefix = append(prefix, *exact)
		case wild != nil:
			prefix = append(prefix, *wild)
		case bare != nil:
			prefix = append(prefix, *bare)
		default:
			return -1
		}
	}
	for i, r := range rules {
		if len(r) == len(ask) && same(r) {
			return i
		}
	}
	return -1
}

// glob is the plainest way to match *.
func glob(pattern, s string) bool {
	switch {
	case pattern == "":
		return s == ""
	case pattern[0] == '*':
		return glob(pattern[1:], s) || s != "" && glob(pattern, s[1:])
	default:
		return s != "" && s[0] == pattern[0] && glob(pattern[1:], s[1:])
	}
}

// descriptorsOf makes rules, and requests that come near them, of a stream of numbers.
func descriptorsOf(next func(n int) int, n int) ([][]policy.DescriptorEntry, func() []Entry) {
	text := func(letters string, most int) string {
		var b strings.Builder
		for range next(most + 1) {
			b.WriteByte(letters[next(len(letters))])
		}
		return b.String()
	}
	seen := make(map[string]bool)
	var rules [][]policy.DescriptorEntry
	for range n {
		var r []policy.DescriptorEntry
		for range 1 + next(3) {
			e := policy.DescriptorEntry{Key: string("jk"[next(2)]), Value: text("ab*", 4)}
			e.ShareThreshold = e.Wildcard() && next(2) == 0
			r = append(r, e)
		}
		var key strings.Builder
		for _, e := range r {
			fmt.Fprintf(&key, " %q=%q", e.Key, e.Value)
		}
		if !seen[key.String()] {
			seen[key.String()] = true
			rules = append(rules, r)
		}
	}
	return rules, func() []Entry {
		var ask []Entry
		from := rules[next(len(rules))]
		for _, e := range from {
			value := strings.ReplaceAll(e.Value, "*", text("ab", 2))
			if next(4) == 0 || value == "" {
				value = text("ab*", 4)
			}
			ask = append(ask, Entry{e.Key, value})
		}
		switch next(8) {
		case 0:
			ask = ask[:max(1, len(ask)-1)]
		case 1:
			ask = append(ask, Entry{"k", text("ab", 2)})
		}
		return ask
	}
}

func TestDescriptorsEqualModel(t *testing.T) {
	total := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(7, seed))
		rules, ask := descriptorsOf(r.IntN, 1+r.IntN(40))
		a := compileDescriptors(t, rules...)
		met := 0
		for range 300 {
			entries, want := ask(), ""
			if i := model(rules, entries); i >= 0 {
				want = "r" + strconv.Itoa(i)
				met++
			}
			if got := ruleOf(t, a, &Request{Descriptor: entries}); got != want {
				t.Fatalf("seed %d: %v: rule %q, want %q; rules %+v", seed, entries, got, want, rules)
			}
		}
		total += met
	}
	if total < 20_000 || total > 80_000 {
		t.Errorf("%d of 90,000 met a rule: the test shows little", total)
	}
}

func FuzzDescriptors(f *testing.F) {
	f.Add([]byte("some bytes to begin with, and some more of them"))
	f.Add(bytes.Repeat([]byte{7, 1, 0, 3, 2}, 60))
	f.Fuzz(func(t *testing.T, data []byte) {
		next := func(n int) int {
			if len(data) == 0 {
				return 0
			}
			b := int(data[0])
			data = data[1:]
			return b % n
		}
		rules, ask := descriptorsOf(next, 1+next(12))
		a := compileDescriptors(t, rules...)
		for range 10 {
			entries, want := ask(), ""
			if i := model(rules, entries); i >= 0 {
				want = "r" + strconv.Itoa(i)
			}
			if got := ruleOf(t, a, &Request{Descriptor: entries}); got != want {
				t.Fatalf("%v: rule %q, want %q; rules %+v", entries, got, want, rules)
			}
		}
	})
}

// subjectOf returns the subject of a request, and a decision that keeps it.
func subjectOf(t testing.TB, a *application, r *Request) string {
	t.Helper()
	q := question{gate: new(Gate), request: r, app: a}
	d := new(Decision)
	if err := q.match(d); err != nil {
		t.Fatal(err)
	}
	return q.descriptorSubject(d)
}

func TestDescriptorSubject(t *testing.T) {
	a := compileDescriptors(t, asked("a", "b=x", "c=p*", "d=q*!"), asked("v=x", "w=y*!"), asked("one"), asked("two", "two"))
	long := strings.Repeat("é", 300)
	for _, c := range []struct {
		entries []Entry
		want    string
	}{
		{said("a=1", "b=x", "c=p2", "d=q3"), "1&p2"},
		{said("a=1&p2", "b=x", "c=p", "d=q"), "1%26p2&p"},
		{said("v=x", "w=y"), ""},
		{said("one="), "%"},
		{said("one=%"), "%25"},
		{said("two=", "two="), "&"},
		{said("one=\x00\n\x1f\x7f=&%é"), "%00%0A%1F%7F%3D%26%25é"},
		{said("one=" + long[:MaxSubject]), long[:MaxSubject]},
		{said("one=" + long), long[:400] + "%" + fmt.Sprintf("%x", sha256.Sum256([]byte(long)))},
		{said("one=x" + long), "x" + long[:398] + "%" + fmt.Sprintf("%x", sha256.Sum256([]byte("x"+long)))},
	} {
		if got := subjectOf(t, a, &Request{Descriptor: c.entries}); got != c.want {
			t.Errorf("%q: subject %q, want %q", c.entries, got, c.want)
		}
	}
}

// TestSubjectsOfDescriptorsDiffer: nobody can choose values whose subject is another's,
// not even one that is cut.
func TestSubjectsOfDescriptorsDiffer(t *testing.T) {
	a := compileDescriptors(t, asked("k"), asked("k", "k"), asked("k", "k", "k"))
	seen := make(map[string]string)
	try := func(values ...string) string {
		var entries []Entry
		for _, v := range values {
			entries = append(entries, Entry{"k", v})
		}
		s := subjectOf(t, a, &Request{Descriptor: entries})
		key := fmt.Sprintf("%q", values)
		if s == "" || len(s) > MaxSubject || checkOwner("subject", s) != nil {
			t.Errorf("%s: subject %q", key, s)
		}
		// The number of entries is that of the rule, whose budgets are its own.
		at := fmt.Sprint(len(values), " ", s)
		if was, ok := seen[at]; ok && was != key {
			t.Errorf("%s and %s are both %q", key, was, s)
		}
		seen[at] = key
		return s
	}
	r := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"", "&", "%", "%26", "%25", "=", "a", "\x00", "\n", "é", "%%", "&&"}
	for range 20_000 {
		values := make([]string, 1+r.IntN(3))
		for i := range values {
			for range r.IntN(4) {
				values[i] += pieces[r.IntN(len(pieces))]
			}
		}
		try(values...)
	}
	for i := range 400 {
		// What a long value becomes, said as a short one: its '%' and the first two
		// digits of the hash may read as an escape.
		cut := try(strings.Repeat("x", 600) + strconv.Itoa(i))
		head, hash, _ := strings.Cut(cut, "%")
		try(cut)
		if c, err := strconv.ParseUint(hash[:2], 16, 8); err == nil && c < 0x80 {
			try(head + string(rune(c)) + hash[2:])
		}
	}
}

func TestSubjectSaid(t *testing.T) {
	a := compileDescriptors(t, asked("k"))
	for want, entries := range map[string][]Entry{
		"k=v":            said("k=v"),
		"k=":             said("k="),
		"k=v&l=w":        said("k=v", "l=w"),
		"k%3Dv=":         {{"k=v", ""}},
		"k=v%26l%3Dw":    {{"k", "v&l=w"}},
		"k%26=%25%00%3D": {{"k&", "%\x00="}},
	} {
		if got := subjectOf(t, a, &Request{Descriptor: entries, Said: &SaidLimit{1, 1e9}}); got != want {
			t.Errorf("%q: subject %q, want %q", entries, got, want)
		}
	}
}

func TestDescriptorLabel(t *testing.T) {
	a := compileRules(t, []policy.Rule{
		{Descriptor: asked("a")},
		{Descriptor: asked("b=x*", "c"), DetailedMetric: true},
		{Descriptor: []policy.DescriptorEntry{{Key: "d"}, {Key: "e", Value: "y*", ValueToMetric: true}, {Key: "f", Value: "z*"}}},
		{Operation: "o"},
	})
	for _, c := range []struct {
		request Request
		want    string
	}{
		{Request{Descriptor: said("a=1")}, "r0"},
		{Request{Descriptor: said("b=x1", "c=2")}, "b_x1.c_2"},
		{Request{Descriptor: said("b=x1", "c=")}, "b_x1.c"},
		{Request{Descriptor: said("d=1", "e=y2", "f=z3")}, "d.e_y2.f_z*"},
		{Request{Operation: "o"}, "r3"},
		{Request{Operation: "p"}, ""},
		{Request{Descriptor: said("x=1")}, ""},
	} {
		q := question{request: &c.request, app: a}
		var d Decision
		if err := q.match(&d); err != nil || d.Label != c.want {
			t.Errorf("%+v: label %q, %v; want %q", c.request, d.Label, err, c.want)
		}
	}
	q := question{request: &Request{Descriptor: said("b=x"+strings.Repeat("é", 500), "c=2")}, app: a}
	var d Decision
	if err := q.match(&d); err != nil || len(d.Label) != MaxLabel-1 || !utf8.ValidString(d.Label) {
		t.Errorf("a long label has %d bytes: %v", len(d.Label), err)
	}
}

// BenchmarkDescriptors shows that a search costs as much as the descriptor is long, not as
// there are rules.
func BenchmarkDescriptors(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			rules := make([][]policy.DescriptorEntry, n)
			for i := range rules {
				rules[i] = asked("destination=api", fmt.Sprintf("path=/v1/things/%d", i), "remote_address")
			}
			a := compileDescriptors(b, rules...)
			last := strconv.Itoa(n - 1)
			r := &Request{Descriptor: said("destination=api", "path=/v1/things/"+last, "remote_address=192.0.2.1")}
			if got := ruleOf(b, a, r); got != "r"+last {
				b.Fatal("met", got)
			}
			q, d := question{request: r, app: a}, new(Decision)
			b.ReportAllocs()
			for b.Loop() {
				if err := q.match(d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
