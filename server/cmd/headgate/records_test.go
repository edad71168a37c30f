package main

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// administer does a request of the administration with a token, and fails the test if
// the answer has another status, or not all of parts.
func administer(t *testing.T, address, token, method, path, body string, status int, parts ...string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
		if strings.HasPrefix(path, "/v1/policy") && !strings.HasPrefix(body, "{") {
			r.Header.Set("Content-Type", "application/yaml")
		}
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Errorf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, status, got)
	}
	for _, part := range parts {
		if !strings.Contains(string(got), part) {
			t.Errorf("%s %s: no %s in %s", method, path, part, got)
		}
	}
	return string(got)
}

// tokenIn is the admin token of a data directory.
func tokenIn(t *testing.T, dir string) string {
	t.Helper()
	token, err := readToken("token", filepath.Join(dir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// What is written down outlives the process, and rules decisions at once.
func TestServeRecords(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := startServe(t, "--http", "127.0.0.1:0", "--data", data)
	address := s.address(t)
	token := tokenIn(t, data)
	const subject = "/v1/applications/default/subject?subject=alice"
	administer(t, address, token, "PUT", subject, `{"plan":"premium"}`, 200, `"effective_plan":"premium"`)
	if out := verb(t, exitDone, "take", "--server", address, "default", "x", "alice"); !strings.Contains(out, "premium") {
		t.Errorf("take:\n%s", out)
	}
	administer(t, address, token, "POST", "/v1/applications/default/subject/ban?subject=bob", `{"for":"1h","reason":"spam"}`, 200)
	if out := verb(t, exitDenied, "take", "--server", address, "default", "x", "bob"); !strings.Contains(out, "banned") {
		t.Errorf("take:\n%s", out)
	}
	var made struct{ ID, Token string }
	if err := json.Unmarshal([]byte(administer(t, address, token, "POST", "/v1/tokens", `{"name":"reader","scopes":["read"]}`, 201)), &made); err != nil {
		t.Fatal(err)
	}
	administer(t, address, made.Token, "GET", subject, "", 200)
	administer(t, address, made.Token, "PUT", subject, `{}`, 403)
	administer(t, address, token, "PUT", "/v1/policy", strings.Replace(policyOf("7/h"), "{a:", "{default:", 1), 200, `"revision":2`)
	verb(t, exitDenied, "take", "--server", address, "default", "o", "carol", "8")
	s.stop(t)

	s = startServe(t, "--http", "127.0.0.1:0", "--data", data)
	address = s.address(t)
	administer(t, address, made.Token, "GET", subject, "", 200, `"plan":"premium"`)
	verb(t, exitDenied, "take", "--server", address, "default", "o", "bob")
	verb(t, exitDone, "take", "--server", address, "default", "o", "carol", "7")
	administer(t, address, token, "DELETE", "/v1/tokens?id="+made.ID, "", 200)
	administer(t, address, made.Token, "GET", subject, "", 401)
	s.stop(t)
}

// A policy file rules whatever is on record, and is put on record.
func TestServePinned(t *testing.T) {
	data, file := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, file, policyOf("5/h"))
	s := startServe(t, "--http", "127.0.0.1:0", "--data", data, "--policy", file)
	address := s.address(t)
	token := tokenIn(t, data)
	administer(t, address, token, "PUT", "/v1/policy", policyOf("9/h"), 409, "--policy "+file)
	administer(t, address, token, "GET", "/v1/policy/revisions", "", 200, `{"items":[{"revision":1,`, `"author":"file","via":"file"`)
	replace(t, file, policyOf("6/h"))
	s.await(t, `msg="policy in force" file=`+file+` revision=2`)
	verb(t, exitDone, "take", "--server", address, "a", "o", "alice", "6")
	s.stop(t)

	// Without the file the newest revision rules; the same file again is no new one.
	s = startServe(t, "--http", "127.0.0.1:0", "--data", data)
	address = s.address(t)
	administer(t, address, token, "POST", "/v1/policy/rollback", `{"revision":1}`, 200, `"revision":3`)
	verb(t, exitDenied, "take", "--server", address, "a", "o", "bob", "6")
	s.stop(t)
	replace(t, file, policyOf("5/h"))
	s = startServe(t, "--http", "127.0.0.1:0", "--data", data, "--policy", file)
	administer(t, s.address(t), token, "GET", "/v1/policy/revisions?limit=1", "", 200, `{"items":[{"revision":3,`)
	s.stop(t)
}

// Nodes that share their records in PostgreSQL see what is written on each within 2 s.
func TestServeSharedRecords(t *testing.T) {
	records := pgtest.Shared(t).Schema(t)
	t.Setenv("HEADGATE_RECORDS", records)
	one, two := startServe(t, "--http", "127.0.0.1:0"), startServe(t, "--http", "127.0.0.1:0")
	first, second := one.address(t), two.address(t)
	token := tokenIn(t, one.data)
	start := time.Now()
	administer(t, first, token, "POST", "/v1/applications/default/subject/ban?subject=mallory", `{"for":"1h"}`, 200)
	for {
		if code := run(t.Context(), []string{"take", "--server", second, "default", "x", "mallory"}, io.Discard, io.Discard); code == exitDenied {
			break
		}
		if time.Since(start) > patience {
			t.Fatal("the other node has not heard of it")
		}
	}
	var made struct{ ID, Token string }
	if err := json.Unmarshal([]byte(administer(t, first, token, "POST", "/v1/tokens", `{"name":"reader","scopes":["read"]}`, 201)), &made); err != nil {
		t.Fatal(err)
	}
	passes := func(want bool) { // wrong tokens are bounded, so that a refusal has two statuses
		t.Helper()
		for start := time.Now(); ; {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+second+"/v1/mode", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+made.Token)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if (resp.StatusCode == 200) == want {
				return
			}
			if time.Since(start) > patience {
				t.Fatalf("status %d, want one that passes: %v", resp.StatusCode, want)
			}
		}
	}
	passes(true)
	administer(t, first, token, "DELETE", "/v1/tokens?id="+made.ID, "", 200)
	passes(false)
	one.stop(t) // the signal ends both
	two.await(t, "msg=stopped")
}
