package gate_test

import (
	"context"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// young is a store that began anew a short while ago: it refuses everything.
type young struct{}

func (young) Apply(_ context.Context, b *headgate.Batch) error {
	b.Allowed, b.At = false, 1_700_000_000_000_000
	for i := range b.Outcomes() {
		b.Outcomes()[i] = headgate.Outcome{Recovering: true, Limit: 5, Used: 5, RetryAfter: 1e9, ResetAfter: 5e9}
	}
	return nil
}

func (young) Close() error { return nil }

// Who is refused because the store was restarted is told so, and not that he has
// used what he never asked for.
func TestExplainRecovery(t *testing.T) {
	for rate, want := range map[string]string{
		"rate: 5/min":                            "the store began anew a short while ago with empty buckets: 5 of 5 requests of r/w are used",
		"algorithm: fixed_window, rate: 5/min":   "the store began anew a short while ago and keeps windows closed until what it lost cannot be spent any more: 5 of 5",
		"algorithm: sliding_window, rate: 5/min": "and keeps windows closed",
	} {
		g, err := gate.Open(t.Context(), gate.Config{
			Policy: []byte("version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, " + rate + "}]}]}}"), Store: young{},
		})
		if err != nil {
			t.Fatal(err)
		}
		var d gate.Decision
		var e gate.Explanation
		if err := g.Explain(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "s"}, &d, &e); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(e.Verdict, want) || strings.Contains(e.Verdict, "has used") {
			t.Errorf("%s: %s\nwant %s", rate, e.Verdict, want)
		}
	}
}
