package gate_test

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/headgate/headgate/gate"
)

// TestStranger: who is limited, and by which plan, is not for the client to say, but where
// it names somebody known.
func TestStranger(t *testing.T) {
	g := open(t, `
version: 1
plans: {free: {limits: []}, gold: {limits: []}}
applications:
  key: {trusted_proxies: [10.0.0.0/8], default_plan: free, identity: ["header:x-user", "cookie:user", ip], rules: [{name: r, match: {operation: x}}]}
  known: {trusted_proxies: [10.0.0.0/8], default_plan: free, identity: [{header: x-user, known_only: true}, ip], rules: [{name: r, match: {operation: x}}]}
  plan: {trusted_proxies: [10.0.0.0/8], default_plan: free, identity: [ip], rules: [{name: r, match: {operation: x}, plan: "'x-plan' in request.headers ? request.headers['x-plan'] : ''"}]}
subjects: {known/alice: {plan: gold}}
`)
	const address = "203.0.113.9"
	user, cookie := http.Header{"X-User": {"alice"}}, http.Header{"Cookie": {"user=alice"}}
	plan := http.Header{"X-Plan": {"gold"}}
	for _, tt := range []struct {
		application   string
		headers       http.Header
		stranger      bool
		subject, plan string
	}{
		{"key", user, false, "alice", "free"},
		{"key", user, true, address, "free"},
		{"key", cookie, false, "alice", "free"},
		{"key", cookie, true, address, "free"},
		{"known", user, true, "alice", "gold"},
		{"known", http.Header{"X-User": {"bob"}}, true, address, "free"},
		{"plan", plan, false, address, "gold"},
		{"plan", plan, true, address, "free"},
	} {
		r := &gate.Request{Application: tt.application, Operation: "x", Headers: tt.headers, IP: netip.MustParseAddr(address), Stranger: tt.stranger}
		var d gate.Decision
		if err := g.Take(t.Context(), r, &d); err != nil || d.Subject != tt.subject || d.Plan != tt.plan {
			t.Errorf("%s, %v, stranger %v: subject %q, plan %q, %v; want %q and %q", tt.application, tt.headers, tt.stranger, d.Subject, d.Plan, err, tt.subject, tt.plan)
		}
	}
}
