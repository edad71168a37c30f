package observe

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestUpstreams(t *testing.T) {
	m := New(Build{}, func() State {
		return State{Upstreams: []Upstream{{Name: "app", InFlight: 3, Latency: 20 * time.Millisecond, ErrorShare: 0.25, Servers: []UpstreamServer{{"h:1", true}, {"h:2", false}}}}}
	})
	for _, status := range []int{101, 200, 204, 302, 404, 502, 0, 999} {
		m.Forwarded("app", status, 3*time.Millisecond)
	}
	text := scrape(t, m)
	wantLines(t, text,
		`headgate_proxy_requests_total{status_class="1xx",upstream="app"} 1`, `headgate_proxy_requests_total{status_class="2xx",upstream="app"} 2`,
		`headgate_proxy_requests_total{status_class="3xx",upstream="app"} 1`, `headgate_proxy_requests_total{status_class="4xx",upstream="app"} 1`,
		`headgate_proxy_requests_total{status_class="5xx",upstream="app"} 1`, `headgate_proxy_requests_total{status_class="none",upstream="app"} 1`,
		`headgate_proxy_requests_total{status_class="other",upstream="app"} 1`,
		`headgate_proxy_upstream_duration_seconds_count{upstream="app"} 7`, `headgate_proxy_upstream_duration_seconds_bucket{upstream="app",le="0.0025"} 0`,
		`headgate_proxy_requests_in_flight{upstream="app"} 3`, `headgate_proxy_upstream_up{server="h:1",upstream="app"} 1`, `headgate_proxy_upstream_up{server="h:2",upstream="app"} 0`,
		`headgate_proxy_upstream_latency_seconds{upstream="app"} 0.02`, `headgate_proxy_upstream_error_share{upstream="app"} 0.25`,
	)
	if text = scrape(t, New(Build{}, func() State { return State{} })); strings.Contains(text, "headgate_proxy") {
		t.Error("there is no proxy, and there are its metrics")
	}
}

// TestPassed: what rules let pass is measured by rule and status, and rules beyond the
// bound count as one.
func TestPassed(t *testing.T) {
	m := New(Build{}, func() State { return State{} })
	for _, status := range []int{101, 200, 204, 302, 404, 502, 0, 999} {
		m.Passed("shop", "pages", status, 3*time.Millisecond)
	}
	m.Passed("shop", "api", 200, 2*time.Second)
	wantLines(t, scrape(t, m),
		`headgate_proxy_request_duration_seconds_count{application="shop",rule="pages",status_class="1xx"} 1`,
		`headgate_proxy_request_duration_seconds_count{application="shop",rule="pages",status_class="2xx"} 2`,
		`headgate_proxy_request_duration_seconds_count{application="shop",rule="pages",status_class="5xx"} 1`,
		`headgate_proxy_request_duration_seconds_count{application="shop",rule="pages",status_class="none"} 1`,
		`headgate_proxy_request_duration_seconds_count{application="shop",rule="pages",status_class="other"} 1`,
		`headgate_proxy_request_duration_seconds_bucket{application="shop",rule="pages",status_class="2xx",le="0.0025"} 0`,
		`headgate_proxy_request_duration_seconds_bucket{application="shop",rule="pages",status_class="2xx",le="0.005"} 2`,
		`headgate_proxy_request_duration_seconds_sum{application="shop",rule="api",status_class="2xx"} 2`,
	)
	for i := range MaxSets + 10 {
		m.Passed("shop", "r"+strconv.Itoa(i), 200, time.Millisecond)
	}
	text := scrape(t, m)
	wantLines(t, text, `headgate_proxy_request_duration_seconds_count{application="other",rule="other",status_class="2xx"} 18`)
	if n := strings.Count(text, "headgate_proxy_request_duration_seconds_count{"); n != MaxSets+1 {
		t.Errorf("%d sets", n)
	}
}
