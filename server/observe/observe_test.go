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

func TestSeries(t *testing.T) {
	m := New(Build{"v1", "abc", "go1"}, func() State {
		return State{Keys: 3, StoreUp: true, UnknownPlans: 5, Revision: 7, ReloadOK: true, ReloadAt: time.UnixMilli(1500)}
	})
	allowed := &Decision{Application: "a", Rule: "r", Plan: "p", Reason: headgate.OK, Allowed: true, Door: "http", Cost: 5}
	m.Decided(allowed, 3*time.Microsecond)
	m.Decided(allowed, 3*time.Microsecond)
	m.Decided(&Decision{Application: "a", Rule: "r", Plan: "p", Reason: headgate.RateLimited, Door: "http", Cost: 7}, time.Millisecond)
	m.Panicked()
	m.ReloadFailed()
	wantLines(t, scrape(t, m),
		`headgate_decisions_total{application="a",door="http",plan="p",reason="ok",rule="r"} 2`,
		`headgate_decisions_total{application="a",door="http",plan="p",reason="rate_limited",rule="r"} 1`,
		`headgate_cost_total{application="a",rule="r",unit="requests"} 10`,
		`headgate_decision_duration_seconds_count{door="http"} 3`,
		`headgate_decision_duration_seconds_bucket{door="http",le="5e-06"} 2`,
		`headgate_keys 3`, `headgate_store_up 1`, `headgate_unknown_plans_total 5`, `headgate_policy_revision 7`,
		`headgate_policy_last_reload_successful 1`, `headgate_policy_last_reload_timestamp_seconds 1.5`,
		`headgate_build_info{commit="abc",go="go1",version="v1"} 1`,
		`headgate_panics_total 1`, `headgate_policy_reload_failures_total 1`,
	)
}

// TestCap makes more label sets than there may be, from many goroutines.
func TestCap(t *testing.T) {
	m := New(Build{}, func() State { return State{} })
	var wg sync.WaitGroup
	const each = 700
	for g := range 4 {
		wg.Go(func() {
			for i := range each {
				m.Decided(&Decision{Application: "a", Rule: fmt.Sprint(g, "-", i), Reason: headgate.OK, Door: "http"}, 0)
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

func TestDecidedAllocations(t *testing.T) {
	m := New(Build{}, func() State { return State{} })
	d := &Decision{Application: "a", Rule: "r", Plan: "p", Reason: headgate.OK, Allowed: true, Door: "http", Cost: 1}
	m.Decided(d, 0)
	if n := testing.AllocsPerRun(100, func() { m.Decided(d, time.Microsecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecided(b *testing.B) {
	m := New(Build{}, func() State { return State{} })
	d := &Decision{Application: "a", Rule: "r", Plan: "p", Reason: headgate.OK, Allowed: true, Door: "http", Cost: 1}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Decided(d, time.Microsecond)
		}
	})
}
