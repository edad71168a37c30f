package httplimit

import (
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/internal/ratefield"
)

func TestParseList(t *testing.T) {
	long := `"` + strings.Repeat("a", maxList) + `"`
	for _, tt := range []struct {
		in   string
		want []item // nil for a field at fault
	}{
		{`"a";r=1;t=2`, []item{{name: "a", r: 1, t: 2}}},
		{`  "a" ,	"b";t=3 `, []item{{name: "a", r: -1, t: -1}, {name: "b", r: -1, t: 3}}},
		{`a;r=0`, []item{{name: "a", r: 0, t: -1}}},
		{`"q\"\\";r=0`, []item{{name: `q"\`, r: 0, t: -1}}},
		{`"a";qu="content-bytes"; r=0`, []item{{name: "a", qu: "content-bytes", r: 0, t: -1}}},
		{`"a";qu=concurrent-requests`, []item{{name: "a", qu: "concurrent-requests", r: -1, t: -1}}},
		{`"a";r=1;r=2`, []item{{name: "a", r: 2, t: -1}}},
		{`"a";r;t="2"`, []item{{name: "a", r: -1, t: -1}}},
		{`"a";r=1.5;t=-0`, []item{{name: "a", r: -1, t: 0}}},
		{`"a";pk=:Zm9v:;x=?1;y=@99;z=%"f%c3%bc";w=*t/o:k;r=0`, []item{{name: "a", r: 0, t: -1}}},
		{`"a";r=999999999999999`, []item{{name: "a", r: 999999999999999, t: -1}}},
		{``, nil},
		{` `, nil},
		{`"a"x`, nil},
		{`"a",`, nil},
		{`,"a"`, nil},
		{`"a";`, nil},
		{`"a";R=1`, nil},
		{`"a";1=1`, nil},
		{`"a";r=`, nil},
		{`"a";r=1000000000000000`, nil},
		{`"a";r=1.`, nil},
		{`"a";r=1.2345`, nil},
		{`"a";r=-`, nil},
		{`"a";x=?2`, nil},
		{`"a";x=@1.5`, nil},
		{`"a";x=:Zm9v`, nil},
		{`"a";x=%f`, nil},
		{`"a";x=%"f`, nil},
		{`"a`, nil},
		{`"a\b"`, nil},
		{`"a\`, nil},
		{"\"\x7f\"", nil},
		{`("a" "b");r=0`, nil},
		{`1;r=0`, nil},
		{`limit=10, remaining=0`, nil},
		{long, nil},
	} {
		if got := parseList([]string{tt.in}); !slices.Equal(got, tt.want) {
			t.Errorf("%.40s: got %v, want %v", tt.in, got, tt.want)
		}
	}
	if got := parseList(nil); got != nil {
		t.Errorf("no field: got %v", got)
	}
}

// FuzzParseList holds that nothing breaks the parser, that what it reads is within
// range, and that it reads what servers of ours write.
func FuzzParseList(f *testing.F) {
	f.Add(`"a";r=1;t=2, b;qu="x"`, "name", int64(5))
	f.Add(`"a";pk=:Zm9v:;x=?1;y=@99;z=%"f%c3";w=*t`, `q"\`, int64(0))
	f.Fuzz(func(t *testing.T, s, name string, remaining int64) {
		for _, it := range parseList([]string{s}) {
			if max(it.r, it.t) > 999_999_999_999_999 || len(it.name) > len(s) {
				t.Errorf("%q: got %+v", s, it)
			}
		}
		if again := parseList([]string{s, s}); parseList([]string{s}) != nil && 2*len(s)+2 <= maxList && len(again)%2 != 0 {
			t.Errorf("%q twice: got %v", s, again)
		}
		field := string(ratefield.AppendLimit(nil, []ratefield.Item{{Name: name, Remaining: remaining}}))
		if field == "" || len(field) > maxList {
			return
		}
		want := []item{{name: name, r: min(max(remaining, 0), 999_999_999_999_999), t: 1}}
		if got := parseList([]string{field}); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", field, got, want)
		}
	})
}
