package policy

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestPatternsAreServeMux compares our verdicts on patterns with those of
// net/http, which defines them.
func TestPatternsAreServeMux(t *testing.T) {
	patterns := []string{
		"/", "/{$}", "/{x}", "/{x...}", "/a", "/a/", "/a/{$}", "/a/{x}", "/a/{x...}", "/a/b", "/a/b/", "/{x}/b", "/{x}/{y}",
		"/a/{x}/c", "/{x}/b/{rest...}", "/b", "/b/{x}/", "/é", "/a.b", "/a-b_c~d",
	}
	paths := []string{"/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/b", "/b/", "/b/b", "/b/b/", "/b/b/c/d", "/é", "/a.b", "/a-b_c~d", "/c/c/c"}
	matches := func(pattern, path string) bool {
		matched := false
		mux := http.NewServeMux()
		mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) { matched = true })
		r := httptest.NewRequest("GET", "http://h/", nil)
		r.URL.Path = path
		mux.ServeHTTP(httptest.NewRecorder(), r)
		return matched
	}
	parsed := map[string][]segment{}
	for _, p := range patterns {
		parsed[p] = mustPattern(t, p)
	}
	for _, a := range patterns {
		for _, b := range patterns {
			if !covers(parsed[a], parsed[b]) {
				continue
			}
			for _, path := range paths {
				if matches(b, path) && !matches(a, path) {
					t.Errorf("%s is said to cover %s, but does not match %s", a, b, path)
				}
			}
		}
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"/", "/a/b", true}, {"/{x...}", "/", true}, {"/a/", "/a", false}, {"/a/{x}", "/a/b", true}, {"/a/b", "/a/{x}", false},
		{"/a/{x}", "/a/{$}", false}, {"/a/{x}", "/a/{x...}", false}, {"/a/{x...}", "/a/{$}", true}, {"/{x}/b", "/a/b", true}, {"/a/{$}", "/a/{$}", true},
	} {
		if got := covers(mustPattern(t, c.a), mustPattern(t, c.b)); got != c.want {
			t.Errorf("%s covers %s: %v", c.a, c.b, got)
		}
	}
}

func mustPattern(t *testing.T, pattern string) []segment {
	t.Helper()
	segments, err := parsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return segments
}

// FuzzPattern holds that what we take as a pattern net/http takes too.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"/", "/a/{x}", "/a/{x...}", "/{$}", "/a/", "/{x}/{y}", "/a b", "/%", "/{é}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		segments, err := parsePattern(s)
		if err != nil {
			return
		}
		if !covers(segments, segments) {
			t.Errorf("%q does not cover itself", s)
		}
		http.NewServeMux().Handle(s, http.NotFoundHandler()) // panics if it refuses
	})
}
