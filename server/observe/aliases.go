package observe

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Ratio is how much of a quota a subject has used: 1 is all of it. Kind is such as
// "daily".
type Ratio struct {
	Subject, Kind string
	Used          float64
}

// aliases are metrics under the names that dashboards of other systems know.
type aliases struct {
	hits          *counters
	ratio, queued *prometheus.Desc
}

func newAliases() *aliases {
	return &aliases{
		hits:   newFamily("rate_limit_hits_total", "Requests that were refused, by plan and reason.", 1, "tier", "reason"),
		ratio:  prometheus.NewDesc("quota_usage_ratio", "Used part of a quota, of the subjects that have used most of theirs.", []string{"user_id", "quota_type"}, nil),
		queued: prometheus.NewDesc("requests_queued", "Requests that wait, by priority.", []string{"priority"}, nil),
	}
}

func (a *aliases) describe(ch chan<- *prometheus.Desc) {
	a.hits.vec.Describe(ch)
	ch <- a.ratio
	ch <- a.queued
}

// collect sends what there is, unless it is switched off.
func (a *aliases) collect(ch chan<- prometheus.Metric, s *State) {
	if s.NoAliases {
		return
	}
	a.hits.vec.Collect(ch)
	for _, r := range s.Ratios {
		ch <- prometheus.MustNewConstMetric(a.ratio, prometheus.GaugeValue, r.Used, strings.ToValidUTF8(r.Subject, "\uFFFD"), r.Kind)
	}
	// Who waits in line has the priority that everybody has.
	ch <- prometheus.MustNewConstMetric(a.queued, prometheus.GaugeValue, float64(s.Waiting), "normal")
}
