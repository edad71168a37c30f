package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// What a server says to a change is put into the words of the command line: that
// somebody else was faster, or knows of faults that this program does not.
func TestPolicyNotPut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	replace(t, file, policyOf("5/h"))
	const (
		stale  = `{"type":"urn:headgate:problem:stale","detail":"send If-Match"}`
		faulty = `{"type":"urn:headgate:problem:invalid_request","detail":"a: wrong, and 1 more","errors":[{"pointer":"/a","detail":"wrong"},{"pointer":"/b","detail":"worse"}]}`
		faster = "headgate: somebody else has just changed the policy, and nothing was written: 'headgate policy history' says who; try again\n"
		faults = "headgate: 2 faults\n  a: wrong\n  b: worse\n"
	)
	tests := []struct {
		name     string
		args     []string
		status   int
		problem  string
		asks     string // the request that the problem answers
		want     string
		expected string // If-Match
	}{
		{"stale apply", []string{"apply", file, "--note", "a b"}, 412, stale, "PUT /v1/policy?note=a+b", faster, `"3"`},
		{"stale rollback", []string{"rollback", "1"}, 412, stale, "POST /v1/policy/rollback", faster, `"3"`},
		{"faulty apply", []string{"apply", file}, 400, faulty, "PUT /v1/policy?note=", faults, `"3"`},
		{"faulty rehearsal", []string{"apply", file, "--dry-run"}, 400, faulty, "POST /v1/policy/validate", faults, ""},
		{"faulty rollback", []string{"rollback", "1"}, 400, faulty, "POST /v1/policy/rollback", faults, `"3"`},
	}
	t.Setenv("HEADGATE_TOKEN", strings.Repeat("t", 32))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					revision := "3"
					if r.URL.RawQuery != "" {
						revision = r.URL.Query().Get("revision")
					}
					w.Header().Set("ETag", `"`+revision+`"`)
					io.WriteString(w, "# revision "+revision)
					return
				}
				asked = append(asked, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("If-Match"))
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.problem)
			}))
			defer server.Close()
			got := verb(t, exitCouldNot, append(append([]string{"policy"}, tt.args...), "--server", server.URL)...)
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if want := tt.asks + " " + tt.expected; len(asked) != 1 || asked[0] != want {
				t.Errorf("asked %q, want %q", asked, want)
			}
		})
	}
}
