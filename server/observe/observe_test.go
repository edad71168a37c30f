package observe

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wantLines(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains("\n"+got, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// The names that other systems know can be switched off.
func TestNoAliases(t *testing.T) {
	m := New(Build{}, func() State { return State{NoAliases: true, Waiting: 4, Ratios: []Ratio{{"alice", "daily", 1}}} })
	m.Door("").Decided(&Decision{Plan: "p", Reason: headgate.RateLimited}, 0)
	for _, name := range []string{"rate_limit_hits_total", "quota_usage_ratio", "requests_queued"} {
		if got := scrape(t, m); strings.Contains(got, name) {
			t.Errorf("%s is there:\n%s", name, got)
		}
	}
}

func TestSeries(t *testing.T) {
	m := New(Build{"v1", "abc", "go1"}, func() State {
		return State{
			Memory: &Memory{Keys: 3, OverflowCells: 2, Bytes: 100, Limit: 200}, StoreUp: true, UnknownPlans: 5, Waiting: 4,
			Shared:   &Shared{Breaker: 1, Nodes: 3, LeaseTokens: 640, Leases: 10, LeaseDecisions: 12},
			Modes:    []Mode{{"a", "r", "shadow"}, {Mode: "enforce"}},
			Records:  &Records{Up: true, UsageRows: 8, UsageFailures: 2, Unattributed: 9},
			Doors:    []Connections{{Door: "http", Open: 3, Refused: 2}, {Door: "resp"}},
			Ratios:   []Ratio{{"alice", "daily", 0.75}, {"b\xffb", "monthly", 1.5}},
			Revision: 7, ReloadOK: true, ReloadAt: time.UnixMilli(1500),
		}
	})
	allowed := &Decision{Application: "a", Rule: "r", Plan: "p", Reason: headgate.OK, Allowed: true, Cost: 5}
	http := m.Door("http")
	http.Decided(allowed, 3*time.Microsecond)
	http.Decided(allowed, 3*time.Microsecond)
	http.Decided(&Decision{Application: "a", Rule: "r", Plan: "p", Reason: headgate.RateLimited, Cost: 7}, time.Millisecond)
	m.Charged(allowed, "tokens", 3000)
	m.Charged(&Decision{Application: "a", Rule: "r", Reason: headgate.RateLimited}, "tokens", 7)
	replayed := &Decision{Application: "b", Rule: "r", Reason: headgate.OK, Allowed: true, Replayed: true, Cost: 9}
	http.Decided(replayed, 0)
	m.Charged(replayed, "tokens", 9)
	http.Decided(&Decision{Application: "c", Rule: "r", Allowed: true, Reason: headgate.OK, Degraded: "open", WouldDeny: true, Tried: true}, 0)
	http.Decided(&Decision{Application: "c", Rule: "r", Reason: headgate.StoreUnavailable, Degraded: "closed", Tried: true, TriedAllowed: true}, 0)
	m.Failed("http", "invalid_request")
	m.StoreCalled("redis", "apply", 300*time.Microsecond, "")
	m.StoreCalled("redis", "apply", 30*time.Millisecond, "timeout")
	m.Panicked()
	m.ReloadFailed()
	wantLines(t, scrape(t, m),
		`headgate_decisions_total{application="a",door="http",plan="p",reason="ok",rule="r"} 2`,
		`headgate_decisions_total{application="a",door="http",plan="p",reason="rate_limited",rule="r"} 1`,
		`headgate_cost_total{application="a",rule="r",unit="requests"} 10`,
		`headgate_cost_total{application="a",rule="r",unit="tokens"} 3000`,
		`headgate_cost_total{application="b",rule="r",unit="requests"} 0`,
		`headgate_replayed_total{application="b"} 1`,
		`headgate_degraded_decisions_total{application="c",mode="open"} 1`,
		`headgate_degraded_decisions_total{application="c",mode="closed"} 1`,
		`headgate_fail_open_total 1`,
		`headgate_shadow_denials_total{application="c",rule="r"} 1`,
		`headgate_candidate_decisions_total{allowed="false",application="c",rule="r"} 1`,
		`headgate_candidate_decisions_total{allowed="true",application="c",rule="r"} 1`,
		`headgate_request_errors_total{code="invalid_request",door="http"} 1`,
		`headgate_memory_bytes 100`, `headgate_memory_limit_bytes 200`, `headgate_overflow_cells 2`, `headgate_waiting 4`,
		`headgate_mode_override{application="a",mode="shadow",rule="r"} 1`, `headgate_mode_override{application="",mode="enforce",rule=""} 1`,
		`headgate_decision_duration_seconds_count{door="http"} 6`,
		`headgate_decision_duration_seconds_bucket{door="http",le="5e-06"} 5`,
		`headgate_keys 3`, `headgate_store_up 1`, `headgate_unknown_plans_total 5`, `headgate_policy_revision 7`,
		`headgate_policy_last_reload_successful 1`, `headgate_policy_last_reload_timestamp_seconds 1.5`,
		`headgate_build_info{commit="abc",go="go1",version="v1"} 1`,
		`headgate_records_up 1`, `headgate_usage_rows 8`, `headgate_usage_report_failures 2`, `headgate_usage_unattributed_total 9`,
		`rate_limit_hits_total{reason="rate_limited",tier="p"} 1`, `rate_limit_hits_total{reason="store_unavailable",tier=""} 1`,
		`quota_usage_ratio{quota_type="daily",user_id="alice"} 0.75`, `quota_usage_ratio{quota_type="monthly",user_id="b�b"} 1.5`,
		`requests_queued{priority="normal"} 4`,
		`headgate_connections{door="http"} 3`, `headgate_connections{door="resp"} 0`, `headgate_connections_refused_total{door="http"} 2`,
		`headgate_breaker_state 1`, `headgate_nodes 3`, `headgate_lease_outstanding 640`, `headgate_leases 10`, `headgate_lease_decisions_total 12`,
		`headgate_store_duration_seconds_count{op="apply",store="redis"} 2`, `headgate_store_duration_seconds_bucket{op="apply",store="redis",le="0.0005"} 1`,
		`headgate_store_errors_total{kind="timeout",store="redis"} 1`,
		`headgate_panics_total 1`, `headgate_policy_reload_failures_total 1`,
	)
}

// TestCap makes more label sets than there may be, from many goroutines.
func TestCap(t *testing.T) {
	m := New(Build{}, func() State { return State{} })
	door := m.Door("http")
	var wg sync.WaitGroup
	const each = 700
	for g := range 4 {
		wg.Go(func() {
			for i := range each {
				door.Decided(&Decision{Application: "a", Rule: fmt.Sprint(g, "-", i), Reason: headgate.OK}, 0)
			}
		})
	}
	wg.Wait()
	total, sets := 0, 0
	for line := range strings.Lines(scrape(t, m)) {
		var n int
		if i := strings.LastIndexByte(line, ' '); strings.HasPrefix(line, "headgate_decisions_total{") {
			fmt.Sscan(line[i:], &n)
			total += n
			sets++
		}
	}
	// Goroutines that meet at the cap may each add one more.
	if total != 4*each || sets < MaxSets || sets > MaxSets+5 {
		t.Errorf("%d decisions in %d sets, want %d in about %d", total, sets, 4*each, MaxSets)
	}
	if !strings.Contains(scrape(t, m), `{application="other",door="http",plan="other",reason="ok",rule="other"}`) {
		t.Error("nothing was counted as other")
	}
}

// TestCapOfUnits has callers name units without end.
func TestCapOfUnits(t *testing.T) {
	m := New(Build{}, func() State { return State{} })
	d := &Decision{Application: "a", Rule: "r", Allowed: true}
	for i := range MaxSets + 50 {
		m.Charged(d, fmt.Sprint("unit", i), 1)
		m.Failed("http", fmt.Sprint("code", i))
	}
	got := scrape(t, m)
	if n := strings.Count(got, "headgate_cost_total{"); n != MaxSets+1 {
		t.Errorf("%d sets of costs, want %d", n, MaxSets+1)
	}
	wantLines(t, got,
		`headgate_cost_total{application="other",rule="other",unit="other"} 50`,
		`headgate_request_errors_total{code="other",door="http"} 50`)
}

func TestDecidedAllocations(t *testing.T) {
	m := New(Build{}, func() State { return State{} })
	d := &Decision{
		Application: "a", Rule: "r", Plan: "p", Reason: headgate.OK, Allowed: true, Cost: 1, Degraded: "open", WouldDeny: true, Tried: true,
	}
	door := m.Door("http")
	count := func() {
		door.Decided(d, time.Microsecond)
		m.Charged(d, "tokens", 1)
		m.Failed("http", "invalid_request")
	}
	count()
	if n := testing.AllocsPerRun(100, count); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecided(b *testing.B) {
	m := New(Build{}, func() State { return State{} })
	d := &Decision{Application: "a", Rule: "r", Plan: "p", Reason: headgate.OK, Allowed: true, Cost: 1}
	door := m.Door("http")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			door.Decided(d, time.Microsecond)
		}
	})
}

// TestEnvoyHits: hits are told apart by outcome, and what clients make of an application's
// labels takes nothing from another's.
func TestEnvoyHits(t *testing.T) {
	m := New(Build{}, func() State { return State{} })
	for i := range 3 * maxLabels {
		m.EnvoyHit("pub", fmt.Sprint("ua_", i), EnvoyHits{Total: 1, WithinLimit: 1})
	}
	m.EnvoyHit("pay", "login", EnvoyHits{Total: 5, OverLimit: 2, NearLimit: 1, Shadow: 2, WithinLimit: 3})
	m.EnvoyHit("pay", "huge", EnvoyHits{Total: 1 << 60})
	text := scrape(t, m)
	for _, line := range []string{
		`headgate_envoy_hits_total{application="pay",outcome="total",rule="login"} 5`,
		`headgate_envoy_hits_total{application="pay",outcome="over_limit",rule="login"} 2`,
		`headgate_envoy_hits_total{application="pay",outcome="near_limit",rule="login"} 1`,
		`headgate_envoy_hits_total{application="pay",outcome="shadow",rule="login"} 2`,
		`headgate_envoy_hits_total{application="pay",outcome="within_limit",rule="login"} 3`,
		`headgate_envoy_hits_total{application="pay",outcome="total",rule="huge"} 4.294967295e+09`,
		`headgate_envoy_hits_total{application="pub",outcome="total",rule="ua_199"} 1`,
		`headgate_envoy_hits_total{application="pub",outcome="total",rule="other"} 400`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if n := strings.Count(text, `outcome="total"`); n != maxLabels+3 {
		t.Errorf("%d rules are told apart", n)
	}
}
