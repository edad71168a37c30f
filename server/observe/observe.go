// Package observe counts decisions and shows the state of a server as
// Prometheus metrics. Labels hold what a policy names, never what a client
// does.
package observe

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/headgate/headgate"
)

// MaxSets is the number of label sets that a metric gets of its own. Those
// beyond it are counted with application, rule, plan, unit and code "other".
const MaxSets = 1000

// Decision is what is counted of a decision.
type Decision struct {
	Application, Rule, Plan string
	Reason                  headgate.Reason
	Allowed                 bool
	// Cost is what was asked for; it is counted where it was charged. Costs in
	// other units are counted by [Metrics.Charged].
	Cost int64
	// Degraded is how it was decided without the store: "", "local", "open" or
	// "closed". Replayed is whether it was only repeated, and charged nothing.
	Degraded string
	Replayed bool
	// WouldDeny is whether limits in shadow mode would have refused.
	WouldDeny bool
	// Tried is whether candidate limits answered too, TriedAllowed what.
	Tried, TriedAllowed bool
}

// charged is whether the decision took from limits.
func (d *Decision) charged() bool { return d.Allowed && !d.Replayed }

// Build describes the program.
type Build struct{ Version, Commit, GoVersion string }

// Metrics is a registry and what is counted in it. It is safe for concurrent
// use.
type Metrics struct {
	registry  *prometheus.Registry
	decisions *prometheus.CounterVec
	cost      *counters
	seconds   *prometheus.HistogramVec
	candidate *counters
	shadow    *counters
	degraded  *counters
	replayed  *counters
	envoy     *counters
	errors    *counters
	failOpen  prometheus.Counter
	store     *prometheus.HistogramVec
	failures  *prometheus.CounterVec
	panics    prometheus.Counter
	reloads   prometheus.Counter
	configs   prometheus.Counter

	aliases   *aliases
	upstreams *upstreams

	// labelled are the rules that EnvoyHit tells apart, by the application, whose name is
	// the policy's.
	labelled *xsync.Map[string, *xsync.Map[string, struct{}]]

	sets atomic.Int64 // of decisions, at all doors
}

// labels is one set of values. Comparing it costs less than resolving it.
type labels struct {
	application, rule, plan string
	reason                  headgate.Reason
}

// recent is the number of sets that a door finds without the map of all. A power of two.
const recent = 64

// slot says where the set is looked for: what differs among the sets of a policy is mostly
// the reason, or the names' lengths.
func (l *labels) slot() int {
	return (int(l.reason) + 3*len(l.application) + 5*len(l.rule) + 7*len(l.plan)) % recent
}

// Door counts the decisions of a protocol. Make one with [Metrics.Door].
type Door struct {
	m       *Metrics
	name    string
	seconds prometheus.Observer
	handles *xsync.Map[labels, *handle]
	recent  [recent]atomic.Pointer[handle]
}

// Door returns the counters of a protocol, which has a fixed name.
func (m *Metrics) Door(name string) *Door {
	return &Door{m: m, name: name, seconds: m.seconds.WithLabelValues(name), handles: xsync.NewMap[labels, *handle]()}
}

// handle is the counters of one set.
type handle struct {
	labels
	decisions, cost prometheus.Counter
}

// New returns metrics that ask state for the server's state at every scrape.
func New(b Build, state func() State) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headgate_decisions_total", Help: "Decisions by what was decided.",
		}, []string{"application", "rule", "plan", "reason", "door"}),
		cost:      newFamily("headgate_cost_total", "Cost of the requests that were allowed.", 3, "application", "rule", "unit"),
		candidate: newFamily("headgate_candidate_decisions_total", "What candidate limits would have answered.", 2, "application", "rule", "allowed"),
		shadow:    newFamily("headgate_shadow_denials_total", "Decisions that limits in shadow mode would have refused.", 2, "application", "rule"),
		degraded:  newFamily("headgate_degraded_decisions_total", "Decisions made without the store.", 1, "application", "mode"),
		replayed:  newFamily("headgate_replayed_total", "Decisions repeated for an idempotency key.", 1, "application"),
		envoy:     newFamily("headgate_envoy_hits_total", "Hits of descriptors that a rule decided: all of them, and those within, above and near the limit, or above it in shadow mode.", 2, "application", "rule", "outcome"),
		errors:    newFamily("headgate_request_errors_total", "Requests that a door could not take, by the name of the problem.", 1, "code", "door"),
		failOpen: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_fail_open_total", Help: "Requests that passed unchecked because the store was away.",
		}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "headgate_decision_duration_seconds", Help: "Time from the decoded request to the encoded answer.",
			Buckets: []float64{1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 15e-3, 25e-3, 0.1, 0.5},
		}, []string{"door"}),
		store: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "headgate_store_duration_seconds", Help: "Time that calls to a shared store took, or work of the embedded one on its disk.",
			Buckets: []float64{1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 25e-3, 5e-2, 0.1, 0.25, 1},
		}, []string{"store", "op"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headgate_store_errors_total", Help: "Calls to a shared store that failed, or work of the embedded one on its disk, by kind.",
		}, []string{"store", "kind"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_panics_total", Help: "Requests that ended in a panic.",
		}),
		reloads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_policy_reload_failures_total", Help: "Reloads that failed and left the old policy in force.",
		}),
		configs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "headgate_config_reload_failures_total", Help: "Times that the configuration file was read again, had a fault, and left the old one in force.",
		}),
		aliases: newAliases(), upstreams: newUpstreams(),
		labelled: xsync.NewMap[string, *xsync.Map[string, struct{}]](),
	}
	m.envoy.most = 10 * MaxSets // of each application 200 rules, and those of another cannot take them
	for _, f := range []*counters{m.cost, m.candidate, m.shadow, m.degraded, m.replayed, m.envoy, m.errors, m.upstreams.requests} {
		m.registry.MustRegister(f.vec)
	}
	m.registry.MustRegister(m.decisions, m.seconds, m.failOpen, m.store, m.failures, m.panics, m.reloads, m.configs, m.upstreams.seconds, m.upstreams.rules.vec, newStateCollector(b, state, m.aliases, m.upstreams),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Registry: m.registry})
}

// EnvoyHits are the hits of a descriptor.
type EnvoyHits struct{ Total, WithinLimit, OverLimit, NearLimit, Shadow int64 }

// maxLabels is how many rules of an application [Metrics.EnvoyHit] tells apart: what they
// are called may hold what clients say. The others count as one.
const maxLabels = 200

// EnvoyHit counts hits by the application and what the rule is called. Hits of a call
// beyond 2^32 count as that many.
func (m *Metrics) EnvoyHit(application, rule string, h EnvoyHits) {
	seen, _ := m.labelled.LoadOrCompute(application, func() (*xsync.Map[string, struct{}], bool) {
		return xsync.NewMap[string, struct{}](), false
	})
	if _, known := seen.Load(rule); !known {
		if seen.Size() >= maxLabels {
			rule = other
		} else {
			seen.Store(strings.Clone(rule), struct{}{})
		}
	}
	for _, c := range [...]struct {
		outcome string
		n       int64
	}{{"total", h.Total}, {"within_limit", h.WithinLimit}, {"over_limit", h.OverLimit}, {"near_limit", h.NearLimit}, {"shadow", h.Shadow}} {
		if c.n > 0 {
			m.envoy.of(key{application, rule, c.outcome}).Add(float64(min(c.n, math.MaxUint32)))
		}
	}
}

// Panicked counts a request that ended in a panic.
func (m *Metrics) Panicked() { m.panics.Inc() }

// ReloadFailed counts a reload that left the old policy in force.
func (m *Metrics) ReloadFailed() { m.reloads.Inc() }

// ConfigReloadFailed counts a configuration file that had a fault and left the old one in
// force.
func (m *Metrics) ConfigReloadFailed() { m.configs.Inc() }

// StoreCalled counts a call to a shared store that took so long, or work of the
// embedded one on its disk. kind is of the failure, "" for none; store, op and kind are from small fixed sets.
func (m *Metrics) StoreCalled(store, op string, took time.Duration, kind string) {
	m.store.WithLabelValues(store, op).Observe(took.Seconds())
	if kind != "" {
		m.failures.WithLabelValues(store, kind).Inc()
	}
}

// Failed counts a request that a door answered with a problem.
func (m *Metrics) Failed(door, code string) { m.errors.of(key{code, door}).Inc() }

// Decided counts a decision that took so long. It keeps no string of d.
func (o *Door) Decided(d *Decision, took time.Duration) {
	m, h := o.m, o.handle(labels{d.Application, d.Rule, d.Plan, d.Reason})
	h.decisions.Inc()
	if d.charged() && d.Cost > 0 {
		h.cost.Add(float64(d.Cost))
	}
	o.seconds.Observe(took.Seconds())
	if !d.Allowed {
		m.aliases.hits.of(key{d.Plan, d.Reason.String()}).Inc()
	}
	if d.Degraded != "" {
		m.degraded.of(key{d.Application, d.Degraded}).Inc()
		if d.Degraded == "open" && d.Allowed {
			m.failOpen.Inc()
		}
	}
	if d.Replayed {
		m.replayed.of(key{d.Application}).Inc()
	}
	if d.WouldDeny {
		m.shadow.of(key{d.Application, d.Rule}).Inc()
	}
	if d.Tried {
		m.candidate.of(key{d.Application, d.Rule, strconv.FormatBool(d.TriedAllowed)}).Inc()
	}
}

// Charged counts what a decision charged in another unit than requests; Decided
// counts the rest of it.
func (m *Metrics) Charged(d *Decision, unit string, cost int64) {
	if d.charged() && cost > 0 {
		m.cost.of(key{d.Application, d.Rule, unit}).Add(float64(cost))
	}
}

func (o *Door) handle(l labels) *handle {
	at := &o.recent[l.slot()]
	if h := at.Load(); h != nil && h.labels == l {
		return h
	}
	h, ok := o.handles.Load(l)
	if !ok {
		h = o.newHandle(l)
	}
	at.Store(h)
	return h
}

func (o *Door) newHandle(l labels) *handle {
	m := o.m
	if m.sets.Load() >= MaxSets {
		l.application, l.rule, l.plan = other, other, other
	}
	// What l points to belongs to the request.
	l.application, l.rule, l.plan = strings.Clone(l.application), strings.Clone(l.rule), strings.Clone(l.plan)
	h, loaded := o.handles.LoadOrCompute(l, func() (*handle, bool) {
		return &handle{
			labels:    l,
			decisions: m.decisions.WithLabelValues(l.application, l.rule, l.plan, l.reason.String(), o.name),
			cost:      m.cost.of(key{l.application, l.rule, "requests"}),
		}, false
	})
	if !loaded {
		m.sets.Add(1)
	}
	return h
}
