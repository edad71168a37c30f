package openapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"testing"
)

// TestStates brings every part of a decision into an answer, and holds each
// answer against the document.
func TestStates(t *testing.T) {
	const text = `version: 1
applications:
  a:
    allow: [subject:boss]
    deny: [subject:mallory]
    on_no_match: deny
    limits: [{name: all, rate: 1000/s, per: application}]
    rules:
      - {name: free, match: {operation: free}, skip: operation == "free"}
      - {name: none, match: {operation: none}}
      - name: trial
        match: {operation: trial}
        mode: shadow
        limits: [{name: l, rate: 1/h}]
        candidate: {limits: [{name: l, rate: 1/h}]}
      - name: banned
        match: {operation: banned}
        limits: [{name: l, algorithm: fixed_window, rate: 1/h}]
        ban: {after: 2, within: 1m, for: 15m}
      - name: work
        match: {operation: work}
        limits:
          - {name: queue, algorithm: leaky_bucket, rate: 1/s, burst: 10}
          - {name: log, algorithm: sliding_log, rate: 100/min}
          - {name: month, algorithm: quota, rate: 2/month, timezone: Europe/Paris, soft: true}
          - {name: tokens, unit: tokens, rate: 100/min}
`
	h, answers := openWith(t, text, nil), strictly(t)
	seen := make(map[string]bool)
	ask := func(path, operation, subject string, more map[string]any) {
		t.Helper()
		body := map[string]any{"application": "a", "operation": operation, "subject": subject}
		maps.Copy(body, more)
		if path == "/v1/take/batch" {
			body = map[string]any{"items": []any{body, body}}
		}
		w := h.send(t, call{method: http.MethodPost, path: path, body: body})
		answers.check(t, http.MethodPost, path, w)
		var v any
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != http.StatusOK {
			t.Errorf("%v: status %d: %s", err, w.Code, w.Body)
		}
		note(seen, v)
	}
	const take, batch, explain = "/v1/take", "/v1/take/batch", "/v1/explain"
	ask(take, "free", "x", nil)
	ask(take, "none", "x", nil)
	ask(take, "other", "x", nil)
	ask(take, "free", "boss", nil)
	ask(take, "free", "mallory", nil)
	for range 3 {
		ask(take, "banned", "x", nil)
		ask(take, "trial", "x", nil)
		ask(explain, "banned", "x", nil)
	}
	ask(batch, "work", "x", map[string]any{"costs": map[string]any{"tokens": 1}, "cost": 3})
	ask(explain, "work", "x", map[string]any{"costs": map[string]any{"tokens": 1}})
	ask(explain, "trial", "x", nil)
	ask(take, "none", "x", map[string]any{"idempotency_key": "k"})
	ask(take, "none", "x", map[string]any{"idempotency_key": "k"})
	for _, want := range []string{
		"reason ok", "reason no_rule", "reason skipped", "reason allow_listed", "reason deny_listed", "reason banned", "reason rate_limited",
		"would_deny rate_limited", "candidate", "delay_ms", "resets_at", "overage", "replayed", "algorithm ban", "mode shadow",
	} {
		if !seen[want] {
			t.Errorf("no answer has %s", want)
		}
	}
}

// note adds the fields of v that are not as in most answers, and the values of
// texts.
func note(seen map[string]bool, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			switch value := value.(type) {
			case nil:
			case string:
				seen[name+" "+value], seen[name] = true, true
			case bool:
				seen[name] = seen[name] || value
			case float64:
				seen[name] = seen[name] || value != 0
			default:
				seen[name] = true
				note(seen, value)
			}
		}
	case []any:
		for _, inner := range v {
			note(seen, inner)
		}
	}
}
