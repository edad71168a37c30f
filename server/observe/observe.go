// Package observe counts decisions and shows the state of a server as
// Prometheus metrics. Labels hold what a policy names, never what a client
// does.
package observe

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/headgate/headgate"
)

// MaxSets is the number of label sets that decisions get of their own. Those
// beyond it are counted with application, rule and plan "other".
const MaxSets = 1000

const other = "other"

// Decision is what is counted of a decision.
type Decision struct {
	Application, Rule, Plan string
	Reason                  headgate.Reason
	Allowed                 bool
	// Door is the protocol that asked.
	Door string
	// Cost is what was asked for; it is counted where it was charged.
	Cost int64
}

// State is what a server shows of itself at a scrape.
type State struct {
	// Keys is the number of keys of which the store has state.
	Keys int64
	// StoreUp is whether the store can decide.
	StoreUp bool
	// UnknownPlans is the number of requests that named a plan that does not
	// exist, and were decided by the default plan.
	UnknownPlans uint64
	// Revision is that of the policy in force, ReloadOK and ReloadAt say how
	// and when it was last read.
	Revision uint64
	ReloadOK bool
	ReloadAt time.Time
}

// Build describes the program.
type Build struct{ Version, Commit, GoVersion string }

// Metrics is a registry and what is counted in it. It is safe for concurrent
// use.
type Metrics struct {
	registry  *prometheus.Registry
	decisions *prometheus.CounterVec
	cost      *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	panics    prometheus.Counter
	reloads   prometheus.Counter

	handles *xsync.Map[labels, *handle]
	sets    atomic.Int64
}

// labels is one set of values. Comparing it costs less than resolving it.
type labels struct {
	application, rule, plan, door string
	reason                        headgate.Reason
}

// handle is the counters of one set.
type handle struct {
	decisions, cost prometheus.Counter
	seconds         prometheus.Observer
}

// New returns metrics that ask state for the server's state at every scrape.
func New(b Build, state func() State) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headgate_decisions_total", Help: "Decisions by what was decided.",
		}, []string{"application", "rule", "plan", "reason", "door"}),
		cost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headgate_cost_total", Help: "Cost of the requests that were allowed.",
		}, []string{"application", "rule", "unit"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "headgate_decision_duration_seconds", Help: "Time from the decoded request to the encoded answer.",
			Buckets: []float64{1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 15e-3, 25e-3, 0.1, 0.5},
		}, []string{"door"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_panics_total", Help: "Requests that ended in a panic.",
		}),
		reloads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_policy_reload_failures_total", Help: "Reloads that failed and left the old policy in force.",
		}),
		handles: xsync.NewMap[labels, *handle](),
	}
	m.registry.MustRegister(m.decisions, m.cost, m.seconds, m.panics, m.reloads, newStateCollector(b, state),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Registry: m.registry})
}

// Panicked counts a request that ended in a panic.
func (m *Metrics) Panicked() { m.panics.Inc() }

// ReloadFailed counts a reload that left the old policy in force.
func (m *Metrics) ReloadFailed() { m.reloads.Inc() }

// Decided counts a decision that took so long. It keeps no string of d.
func (m *Metrics) Decided(d *Decision, took time.Duration) {
	h := m.handle(labels{d.Application, d.Rule, d.Plan, d.Door, d.Reason})
	h.decisions.Inc()
	if d.Allowed && d.Cost > 0 {
		h.cost.Add(float64(d.Cost))
	}
	h.seconds.Observe(took.Seconds())
}

func (m *Metrics) handle(l labels) *handle {
	if h, ok := m.handles.Load(l); ok {
		return h
	}
	if m.sets.Load() >= MaxSets {
		l.application, l.rule, l.plan = other, other, other
	}
	// What l points to belongs to the request.
	l.application, l.rule, l.plan = strings.Clone(l.application), strings.Clone(l.rule), strings.Clone(l.plan)
	h, loaded := m.handles.LoadOrCompute(l, func() (*handle, bool) {
		return &handle{
			decisions: m.decisions.WithLabelValues(l.application, l.rule, l.plan, l.reason.String(), l.door),
			cost:      m.cost.WithLabelValues(l.application, l.rule, "requests"),
			seconds:   m.seconds.WithLabelValues(l.door),
		}, false
	})
	if !loaded {
		m.sets.Add(1)
	}
	return h
}

// stateCollector reads the whole state once per scrape, so that its series fit
// together.
type stateCollector struct {
	state func() State
	build prometheus.Metric

	keys, up, plans, revision, ok, at *prometheus.Desc
}

func newStateCollector(b Build, state func() State) *stateCollector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	build := prometheus.NewDesc("headgate_build_info", "What this program was built from; always 1.", []string{"version", "commit", "go"}, nil)
	return &stateCollector{
		state:    state,
		build:    prometheus.MustNewConstMetric(build, prometheus.GaugeValue, 1, b.Version, b.Commit, b.GoVersion),
		keys:     desc("headgate_keys", "Keys of which the store has state."),
		up:       desc("headgate_store_up", "1 while the store can decide."),
		plans:    desc("headgate_unknown_plans_total", "Requests that named an unknown plan and were decided by the default plan."),
		revision: desc("headgate_policy_revision", "Revision of the policy in force."),
		ok:       desc("headgate_policy_last_reload_successful", "1 if the policy was read without fault when it was last read."),
		at:       desc("headgate_policy_last_reload_timestamp_seconds", "When the policy was last read."),
	}
}

// Describe sends what Collect will.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.keys, c.up, c.plans, c.revision, c.ok, c.at, c.build.Desc()} {
		ch <- d
	}
}

// Collect sends the state as it is.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.state()
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	gauge(c.keys, float64(s.Keys))
	gauge(c.up, oneIf(s.StoreUp))
	ch <- prometheus.MustNewConstMetric(c.plans, prometheus.CounterValue, float64(s.UnknownPlans))
	gauge(c.revision, float64(s.Revision))
	gauge(c.ok, oneIf(s.ReloadOK))
	gauge(c.at, float64(s.ReloadAt.UnixMilli())/1000)
	ch <- c.build
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
