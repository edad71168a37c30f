package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

const unmatchedPolicy = `
version: 1
applications:
  mail: {rules: [{name: send, match: {operation: sendEmail, methods: [POST]}}, {name: list, match: {operation: listEmails}}, {name: deny, match: {path: /x}}]}
  free: {}
  paths: {rules: [{name: all, match: {path: /x}}]}
`

func TestUnmatchedOperations(t *testing.T) {
	h := newHouse(t, unmatchedPolicy)
	var lines bytes.Buffer
	h.log = slog.New(slog.NewTextHandler(&lines, nil))
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	type ask struct{ application, operation, path string }
	const warning = `level=WARN msg="no rule matches this operation, though rules name others"`
	for _, c := range []struct {
		name  string
		after time.Duration
		ask   ask
		want  string
	}{
		{"a slip", 0, ask{"mail", "sendEmial", ""}, warning + " application=mail operation=sendEmial did_you_mean=sendEmail\n"},
		{"again", time.Minute, ask{"mail", "sendEmial", ""}, ""},
		{"far from all", time.Minute, ask{"mail", "archive", ""}, warning + " application=mail operation=archive\n"},
		{"a rule matches", time.Minute, ask{"mail", "listEmails", ""}, ""},
		{"its rule asks for a method", time.Minute, ask{"mail", "sendEmail", ""}, ""},
		{"by path alone", time.Minute, ask{"mail", "", "/y"}, ""},
		{"a rule matches the path", time.Minute, ask{"mail", "sendEmal", "/x"}, ""},
		{"no rules", time.Minute, ask{"free", "sendEmial", ""}, ""},
		{"rules that name none", time.Minute, ask{"paths", "sendEmial", ""}, ""},
		{"after ten minutes", unmatchedEvery, ask{"mail", "sendEmial", ""}, warning + " application=mail operation=sendEmial did_you_mean=sendEmail\n"},
		{"a forged line", unmatchedEvery, ask{"mail", "a\" level=ERROR", ""}, warning + ` application=mail operation="a\" level=ERROR"` + "\n"},
	} {
		var d gate.Decision
		r := gate.Request{Application: c.ask.application, Operation: c.ask.operation, Path: c.ask.path, Method: "GET", Subject: "s"}
		if err := h.gate.Take(t.Context(), &r, &d); err != nil {
			t.Fatal(err)
		}
		lines.Reset()
		h.noteUnmatched(&d, func() time.Time { return start.Add(c.after) })
		if got := untimed(lines.String()); got != c.want {
			t.Errorf("%s: logged\n%swant\n%s", c.name, got, c.want)
		}
	}
}

// However many names are made up, few are logged.
func TestUnmatchedOperationsAreBounded(t *testing.T) {
	h := newHouse(t, unmatchedPolicy)
	var lines bytes.Buffer
	h.log = slog.New(slog.NewTextHandler(&lines, nil))
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return at }
	var d gate.Decision
	for i := range 10 * maxUnmatched {
		d.Application, d.Operation = "mail", fmt.Sprint("made up ", i)
		h.noteUnmatched(&d, now)
	}
	logged := strings.Split(strings.TrimSpace(untimed(lines.String())), "\n")
	if last := logged[len(logged)-1]; len(logged) != maxUnmatched+1 || last != `level=WARN msg="other operations that no rule matches are not told for a time" within=10m0s` {
		t.Errorf("%d lines, the last one %s", len(logged), last)
	}
	lines.Reset()
	at = at.Add(unmatchedEvery)
	h.noteUnmatched(&d, now)
	if !strings.Contains(lines.String(), "made up") {
		t.Errorf("nothing is told ever after: %s", &lines)
	}
}

// untimed drops the time of each line.
func untimed(log string) string {
	lines := strings.SplitAfter(log, "\n")
	for i, line := range lines {
		if _, rest, ok := strings.Cut(line, " "); ok {
			lines[i] = rest
		}
	}
	return strings.Join(lines, "")
}

// A server warns of what callers of its doors name.
func TestServeWarnsOfUnmatchedOperations(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, file, "version: 1\napplications: {a: {rules: [{name: o, match: {operation: sendEmail}}]}}\n")
	s := startServe(t, "--policy", file, "--http", "127.0.0.1:0", "--store", "memory")
	address := s.address(t)
	verb(t, exitDone, "take", "--server", address, "a", "sendEmail", "alice")
	verb(t, exitDone, "take", "--server", address, "a", "sendMail", "alice")
	s.await(t, "application=a operation=sendMail did_you_mean=sendEmail")
	s.stop(t)
}

// The policies that everybody starts from draw no warning of operations.
func TestPoliciesToStartFromAreQuiet(t *testing.T) {
	files, err := filepath.Glob("../../../examples/*/policy*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	texts := map[string][]byte{"built-in": policy.Builtin(), "init": policy.Starter()}
	for _, file := range files {
		if texts[file], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range texts {
		_, warnings, err := policy.Parse(name, text, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, w := range warnings {
			if strings.Contains(w.Message, "operation") {
				t.Error(w)
			}
		}
	}
}

// A start says once which policy is in force, with what is on record about it, and warns
// once of what is odd in it.
func TestServeSaysPolicyOnce(t *testing.T) {
	data, file := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "policy.yaml")
	odd := strings.Replace(policyOf("5/h"), "rate: 5/h", "rate: 50/s, burst: 5", 1)
	for i, c := range []struct{ policy, want string }{
		{"", `file="built-in policy" revision=1 applications=1`},
		{policyOf("5/h"), "file=" + file + " revision=2 applications=1"},
		{policyOf("5/h"), "file=" + file + " revision=2 applications=1"},
		{odd, "file=" + file + " revision=3 applications=1"},
		{odd, "file=" + file + " revision=3 applications=1"},
	} {
		args := []string{"--http", "127.0.0.1:0", "--data", data}
		if c.policy != "" {
			replace(t, file, c.policy)
			args = append(args, "--policy", file)
		}
		s := startServe(t, args...)
		var before []string
		for line := range s.lines {
			before = append(before, line)
			if strings.Contains(line, "msg=listening") {
				break
			}
		}
		said := strings.Join(before, "\n")
		if strings.Count(said, "policy in force") != 1 || !strings.Contains(said, c.want) {
			t.Errorf("start %d: want %s once in\n%s", i, c.want, said)
		}
		if n := strings.Count(said, "is less than one second of the rate"); (n == 1) != (c.policy == odd) || n > 1 {
			t.Errorf("start %d: %d warnings in\n%s", i, n, said)
		}
		s.stop(t)
	}
}
