package observe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Upstream is where the reverse proxy forwards to. Its name and its servers are from the
// configuration.
type Upstream struct {
	Name     string
	InFlight int
	// Latency is the mean time until answers begin, ErrorShare the share of those with a
	// status of 500 or more, of late.
	Latency    time.Duration
	ErrorShare float64
	Servers    []UpstreamServer
}

// UpstreamServer is one of its servers, and whether it gets requests.
type UpstreamServer struct {
	Address string
	Up      bool
}

// upstreams is what is counted of the reverse proxy.
type upstreams struct {
	requests *counters
	seconds  *prometheus.HistogramVec
	rules    *histograms

	inFlight, up, latency, errors *prometheus.Desc
}

// proxyBuckets are those of the times of the reverse proxy, in seconds.
var proxyBuckets = []float64{1e-3, 2.5e-3, 5e-3, 1e-2, 25e-3, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60}

func newUpstreams() *upstreams {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &upstreams{
		requests: newFamily("headgate_proxy_requests_total", "Requests that the reverse proxy forwarded, by the status of the answer; none where the client left before.", 1, "upstream", "status_class"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "headgate_proxy_upstream_duration_seconds", Help: "Time until an answer began.",
			Buckets: proxyBuckets,
		}, []string{"upstream"}),
		rules: newHistograms(prometheus.HistogramOpts{
			Name: "headgate_proxy_request_duration_seconds", Help: "Time until an answer ended, by the rule that let the request pass and the status; none where the client left.",
			Buckets: proxyBuckets,
		}, 2, "application", "rule", "status_class"),
		inFlight: desc("headgate_proxy_requests_in_flight", "Requests on their way to an upstream and back.", "upstream"),
		up:       desc("headgate_proxy_upstream_up", "1 while a server of an upstream gets requests: checks and connections are good.", "upstream", "server"),
		latency:  desc("headgate_proxy_upstream_latency_seconds", "Mean time until answers began, of which the last 10 s count most.", "upstream"),
		errors:   desc("headgate_proxy_upstream_error_share", "Share of the answers with a status of 500 or more, of which the last 10 s count most.", "upstream"),
	}
}

func (u *upstreams) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{u.inFlight, u.up, u.latency, u.errors} {
		ch <- d
	}
}

func (u *upstreams) collect(ch chan<- prometheus.Metric, list []Upstream) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, up := range list {
		gauge(u.inFlight, float64(up.InFlight), up.Name)
		gauge(u.latency, up.Latency.Seconds(), up.Name)
		gauge(u.errors, up.ErrorShare, up.Name)
		for _, s := range up.Servers {
			gauge(u.up, oneIf(s.Up), up.Name, s.Address)
		}
	}
}

// Forwarded counts a request that the reverse proxy forwarded, whose answer began after so
// long. status is 0 where there was none.
func (m *Metrics) Forwarded(upstream string, status int, took time.Duration) {
	m.upstreams.requests.of(key{upstream, statusClass(status)}).Inc()
	if status != 0 {
		m.upstreams.seconds.WithLabelValues(upstream).Observe(took.Seconds())
	}
}

// Passed counts a request that a rule let pass at the reverse proxy, whose answer ended
// after so long. status is 0 where there was none. It keeps no string.
func (m *Metrics) Passed(application, rule string, status int, took time.Duration) {
	m.upstreams.rules.of(key{application, rule, statusClass(status)}).Observe(took.Seconds())
}

func statusClass(status int) string {
	switch status / 100 {
	case 0:
		return "none"
	case 1, 2, 3, 4, 5:
		return string(rune('0'+status/100)) + "xx"
	}
	return other
}
