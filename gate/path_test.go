package gate

import (
	"strings"
	"testing"

	"github.com/headgate/headgate"
)

func TestSplitPath(t *testing.T) {
	for _, c := range []struct{ target, path, query, why string }{
		{"/", "/", "", "the shortest path"},
		{"/api/x", "/api/x", "", "plain paths stay"},
		{"/api/x/", "/api/x/", "", "a trailing slash is part of the path"},
		{"/api/x?a=1&b=%2F", "/api/x", "a=1&b=%2F", "the query is cut off and not decoded"},
		{"/api/x?a=/../?b", "/api/x", "a=/../?b", "only the first ? cuts"},
		{"/api?", "/api", "", "an empty query"},
		{"/api#frag", "/api", "", "fragments are never sent: what looks like one is cut"},
		{"/api#frag?a=1", "/api", "a=1", "the query is what follows the first ?"},
		{"/api?a#b", "/api", "a#b", "a # in the query stays"},
		{"/a/./b", "/a/b", "", "dot segments"},
		{"/a/.", "/a/", "", "a last dot leaves its slash"},
		{"/.", "/", "", "dot alone"},
		{"/a/../b", "/b", "", "two dots take the segment before"},
		{"/a/b/..", "/a/", "", "last two dots leave a slash"},
		{"/a/..", "/", "", "back to the root"},
		{"/..", "/", "", "above the root is the root"},
		{"/../../a", "/a", "", "above the root is the root"},
		{"/a//../b", "/b", "", "slashes are merged before two dots count segments"},
		{"/a/..b/.c/...", "/a/..b/.c/...", "", "dots that are part of a name stay"},
		{"//", "/", "", "double slashes"},
		{"//a///b//", "/a/b/", "", "double slashes"},
		{"/%61pi", "/api", "", "escapes of plain characters"},
		{"/%2e%2E/a", "/a", "", "escaped dots are dots, in both cases"},
		{"/a/%2e./b", "/b", "", "half escaped dots too"},
		{"/a%2fb", "/a/b", "", "an escaped slash is a slash"},
		{"/a%2F%2fb", "/a/b", "", "in both cases, and merged"},
		{"/a%2F..%2Fb", "/b", "", "and divides dot segments"},
		{"/a%3Fb?c", "/a?b", "c", "an escaped ? is of the path"},
		{"/a%23b", "/a#b", "", "an escaped # is of the path"},
		{"/%252e", "/%2e", "", "decoded once, as proxies do"},
		{"/%25", "/%", "", "a percent sign"},
		{"/a%20b", "/a b", "", "a space"},
		{"/%C3%a9", "/é", "", "UTF-8"},
		{"/%ff", "/\xff", "", "bytes that are not UTF-8 are taken as they are"},
		{"/é", "/é", "", "not escaped is as good"},
	} {
		path, query, err := splitPath(c.target)
		if err != nil || path != c.path || query != c.query {
			t.Errorf("%q is %q, %q, %v; want %q, %q: %s", c.target, path, query, err, c.path, c.query, c.why)
		}
	}
}

func TestSplitPathRefuses(t *testing.T) {
	for _, c := range []struct {
		target string
		want   error
	}{
		{"", errPathSlash},
		{"?a=1", errPathSlash},
		{"#a", errPathSlash},
		{"api", errPathSlash},
		{"*", errPathSlash},
		{"http://h/api", errPathSlash},
		{"%2Fapi", errPathSlash},
		{"/%", errPathEscape},
		{"/%4", errPathEscape},
		{"/a%4g", errPathEscape},
		{"/a%g4", errPathEscape},
		{"/%%34", errPathEscape},
		{"/%?41", errPathEscape},
		{"/%00", errPathControl},
		{"/a%0d%0aSet", errPathControl},
		{"/%1F", errPathControl},
		{"/%7f", errPathControl},
		{"/\x00", errPathControl},
		{"/a\n", errPathControl},
		{"/a\tb", errPathControl},
		{"/\x7f", errPathControl},
		{"/" + strings.Repeat("a", maxPath), errPathLength},
		{"/?" + strings.Repeat("a", maxPath), errPathLength},
	} {
		_, _, err := splitPath(c.target)
		if err != c.want {
			t.Errorf("%.40q: %v, want %v", c.target, err, c.want)
		}
		if headgate.CodeOf(err) != headgate.InvalidRequest {
			t.Errorf("%.40q: code %v", c.target, headgate.CodeOf(err))
		}
	}
	if _, _, err := splitPath("/" + strings.Repeat("a", maxPath-1)); err != nil {
		t.Errorf("%d bytes: %v", maxPath, err)
	}
}

func TestPlainPathsAreNotCopied(t *testing.T) {
	for _, target := range []string{"/", "/api/users/42", "/a.b/c..d/?q=1", "/é/x"} {
		if n := testing.AllocsPerRun(100, func() {
			if _, _, err := splitPath(target); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%q: %v allocations, want 0", target, n)
		}
	}
}

// A path that is made long by what it takes back is cleaned in one pass.
func TestDotSegmentsCostOnePass(t *testing.T) {
	target, want := strings.Repeat("/a", 2048)+strings.Repeat("/..", 1365), strings.Repeat("/a", 2048-1365)+"/"
	if n := testing.AllocsPerRun(10, func() {
		if path, _, err := splitPath(target); err != nil || path != want {
			t.Fatalf("%.20q... of %d bytes, %v", path, len(path), err)
		}
	}); n > 4 {
		t.Errorf("%v allocations, want at most 4", n)
	}
}

// escaper writes a canonical path as it would stand on a request line.
var escaper = strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23")

func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/", "/a/../b//c/./?q", "/%2e%2e/%2F%41%25", "/a%2f..%2fb/..", "/..%2F..", "/%252e%3f%23/x", "/a/..b/.", "//", "/%00", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, _, err := splitPath(target)
		if err != nil {
			if path != "" || headgate.CodeOf(err) != headgate.InvalidRequest {
				t.Fatalf("%q: path %q with error %v", target, path, err)
			}
			return
		}
		if path == "" || path[0] != '/' || len(path) > len(target) || strings.Contains(path, "//") {
			t.Fatalf("%q became %q", target, path)
		}
		for segment := range strings.SplitSeq(path, "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("%q became %q with a dot segment", target, path)
			}
		}
		if strings.ContainsFunc(path, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			t.Fatalf("%q became %q with a control character", target, path)
		}
		escaped := escaper.Replace(path)
		if len(escaped) > maxPath {
			return
		}
		if again, _, err := splitPath(escaped); err != nil || again != path {
			t.Fatalf("%q became %q, and that %q, %v", target, path, again, err)
		}
		if !strings.ContainsAny(path, "%?#") {
			if again, err := canonicalPath(path); err != nil || again != path {
				t.Fatalf("%q became %q, and the long way %q, %v", target, path, again, err)
			}
		}
	})
}
