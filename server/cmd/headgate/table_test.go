package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"alice": "alice", "Ünï 日本": "Ünï 日本", "\x1b[31mred\x07": "?[31mred?", "a\tb\nc": "a?b?c", "\xff": "?", "a\u202eb": "a?b",
	} {
		if got := plain(in); got != want {
			t.Errorf("plain(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	text := strings.TrimSpace(strings.Repeat("word ", 40)) + " " + strings.Repeat("x", 100)
	for line := range strings.SplitSeq("    "+wrap(text, 4), "\n") {
		if !strings.HasPrefix(line, "    ") || len(line) > columns && !strings.Contains(line, "xxx") || strings.HasSuffix(line, " ") {
			t.Errorf("line %q", line)
		}
	}
	if got := strings.Join(strings.Fields(wrap(text, 4)), " "); got != text {
		t.Errorf("words were lost: %s", got)
	}
}

var now = time.Date(2026, 3, 9, 12, 0, 0, 0, time.Local)

func TestShowDenials(t *testing.T) {
	items := []map[string]any{
		{"at": now.Add(-time.Minute), "subject": "alice", "application": "email", "operation": "sendEmail", "reason": "rate_limited", "bound_by": "sendEmail/burst", "retry_after_ms": 41000, "weight": 1},
		{"at": now.Add(-24 * time.Hour), "subject": "\x1b]0;" + strings.Repeat("long", 50), "application": "email", "operation": "POST /api/" + strings.Repeat("é", 50), "reason": "cost_exceeds_limit", "bound_by": "a/b", "retry_after_ms": nil, "weight": 1},
		{"at": now, "subject": "", "application": "email", "operation": "o", "reason": "no_rule", "bound_by": nil, "retry_after_ms": 0, "weight": 1200},
	}
	show := func(next any, items ...map[string]any) string {
		body, err := json.Marshal(map[string]any{"items": items, "next": next})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := showDenials(&b, body, now); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	const want = `AT           WHO           WHAT           WHY                              RETRY
11:59:00     alice         email sendEm…  rate_limited by sendEmail/burst  41 s
03-08 12:00  ?]0;longlon…  email POST /…  cost_exceeds_limit by a/b        never
12:00:00                   email o        1200 x no_rule                   now

There are older ones: --limit shows more.
`
	got := show("x", items...)
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
			t.Errorf("line of %d characters: %s", n, line)
		}
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := show(nil, items[0]); strings.Contains(got, "older") || !strings.Contains(got, "rate_limited by sendEmail/burst  41 s") {
		t.Errorf("got\n%s", got)
	}
	if got := show(nil); got != "nobody was refused\n" {
		t.Errorf("got %s", got)
	}
}

func TestShowModes(t *testing.T) {
	body, err := json.Marshal(map[string]any{"items": []map[string]any{
		{"application": "email", "rule": "sendEmail", "mode": "shadow", "until": now.Add(90 * time.Minute)},
		{"application": "", "rule": "", "mode": "enforce", "until": now.Add(-time.Second)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := showModes(&b, body, now); err != nil {
		t.Fatal(err)
	}
	const want = `APPLICATION  RULE       MODE     UNTIL
email        sendEmail  shadow   03-09 13:30:00, in 1 h 30 min
(all)        (all)      enforce  03-09 11:59:59, in 0 ms
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestExplanation(t *testing.T) {
	const body = `{"decision":{"allowed":false,"reason":"rate_limited","bound_by":"r/b","limits":[
		{"id":"r/b","algorithm":"token_bucket","unit":"tokens","allowed":false,"limit":10,"used":10,"remaining":0,"reset_after_ms":1000,"mode":"enforce"}]},
		"explanation":{"verdict":"Refused: alice has used all tokens.","steps":[{"about":"match","text":"Rule r matches."},
		{"about":"limit:r/b","text":"A bucket that holds up to 10 tokens, and all of them are used. It would let this request pass in one second."}]}}`
	var b strings.Builder
	allowed, err := showExplanation(&b, []byte(body))
	if err != nil || allowed {
		t.Fatal(allowed, err)
	}
	const want = `Refused: alice has used all tokens.

 1. Rule r matches.
 2. r/b: A bucket that holds up to 10 tokens, and all of them are used. It would
    let this request pass in one second.

LIMIT  STATE    ALGORITHM     USED             LEFT  FULL AGAIN
r/b    refuses  token_bucket  10 of 10 tokens  0     in 1 s
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
