package observe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// State is what a server shows of itself at a scrape.
type State struct {
	// Memory is what the store of this process holds; nil where state lives
	// elsewhere.
	Memory *Memory
	// Shared is what this node sees of a store that others share; nil where
	// state lives in this process.
	Shared *Shared
	// StoreUp is whether the store can decide.
	StoreUp bool
	// UnknownPlans is the number of requests that named a plan that does not
	// exist, and were decided by the default plan.
	UnknownPlans uint64
	// Waiting is the number of requests that wait in line.
	Waiting int
	// Modes are the overrides of modes in force.
	Modes []Mode
	// Revision is that of the policy in force, ReloadOK and ReloadAt say how
	// and when it was last read.
	Revision uint64
	ReloadOK bool
	ReloadAt time.Time
	// Records are what people write down, and usage; nil where there are none.
	Records *Records
	// Ratios are the quotas of subjects of which most is used, one for each subject and
	// kind.
	Ratios []Ratio
	// Doors are those that are open.
	Doors []Connections
	// Upstreams are those of the reverse proxy.
	Upstreams []Upstream
	// NoAliases switches the names off that dashboards of other systems know.
	NoAliases bool
}

// Connections are those of a door: how many are open, and how many were refused because
// there were too many.
type Connections struct {
	Door    string
	Open    int
	Refused uint64
}

// Records is what a node sees of the records.
type Records struct {
	// Up is whether they can be asked.
	Up bool
	// UsageRows wait to be put on record, UsageFailures are the attempts that have failed
	// since the last that has not, Unattributed decisions are counted for no subject.
	UsageRows, UsageFailures int64
	Unattributed             uint64
}

// Memory is the state in memory.
type Memory struct {
	// Keys is the number of keys of which there is state, OverflowCells that
	// of the cells that keys share for want of memory.
	Keys, OverflowCells int64
	// Bytes is the memory that holds state, Limit its cap.
	Bytes, Limit int64
}

// Shared is one node's view of a shared store.
type Shared struct {
	// Breaker is 0 while it lets calls through, 1 while it tries, 2 while it
	// lets none through.
	Breaker int
	// Nodes is how many nodes shared the store when it was last heard from.
	Nodes int
	// LeaseTokens are granted to this node and not spent, Leases the budgets
	// of which it holds any.
	LeaseTokens, Leases int64
	// LeaseDecisions were made from leases, without asking the store.
	LeaseDecisions uint64
}

// Mode is an override in force. Application and Rule are empty where it holds
// for all; Mode is "shadow" or "enforce".
type Mode struct{ Application, Rule, Mode string }

// stateCollector reads the whole state once per scrape, so that its series fit
// together.
type stateCollector struct {
	state     func() State
	build     prometheus.Metric
	aliases   *aliases
	upstreams *upstreams

	keys, overflow, bytes, limit, up, plans, waiting, mode, revision, ok, at *prometheus.Desc
	breaker, nodes, leaseTokens, leases, leaseDecisions                      *prometheus.Desc
	recordsUp, usageRows, usageFailures, unattributed                        *prometheus.Desc
	open, refused                                                            *prometheus.Desc
}

func newStateCollector(b Build, state func() State, a *aliases, u *upstreams) *stateCollector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	build := prometheus.NewDesc("headgate_build_info", "What this program was built from; always 1.", []string{"version", "commit", "go"}, nil)
	return &stateCollector{
		state:   state,
		aliases: a, upstreams: u,
		build:    prometheus.MustNewConstMetric(build, prometheus.GaugeValue, 1, b.Version, b.Commit, b.GoVersion),
		keys:     desc("headgate_keys", "Keys of which the store has state."),
		overflow: desc("headgate_overflow_cells", "Cells that keys share because the memory for state is full."),
		bytes:    desc("headgate_memory_bytes", "Memory that holds state."),
		limit:    desc("headgate_memory_limit_bytes", "Memory that state may take."),
		waiting:  desc("headgate_waiting", "Requests that wait in line."),
		mode: prometheus.NewDesc("headgate_mode_override", "1 for each override of modes in force; an empty label stands for all.",
			[]string{"application", "rule", "mode"}, nil),
		up:       desc("headgate_store_up", "1 while the store can decide: 0 while it cannot be asked, or written to."),
		plans:    desc("headgate_unknown_plans_total", "Requests that named an unknown plan and were decided by the default plan."),
		revision: desc("headgate_policy_revision", "Revision of the policy in force."),
		ok:       desc("headgate_policy_last_reload_successful", "1 if the policy was read without fault when it was last read."),

		breaker:        desc("headgate_breaker_state", "Whether calls to the store are let through: 0 closed, they are; 1 half-open, one now and then; 2 open, none."),
		nodes:          desc("headgate_nodes", "Nodes that shared the store when it was last heard from."),
		leaseTokens:    desc("headgate_lease_outstanding", "Tokens that the store granted to this node and that are not spent."),
		leases:         desc("headgate_leases", "Budgets of which this node holds tokens."),
		leaseDecisions: desc("headgate_lease_decisions_total", "Decisions made from leases, without asking the store."),

		recordsUp:     desc("headgate_records_up", "1 while the records can be asked: policies, subjects, tokens, usage."),
		usageRows:     desc("headgate_usage_rows", "Rows of usage that wait to be put on record."),
		usageFailures: desc("headgate_usage_report_failures", "Attempts to put usage on record that have failed since the last that has not."),
		unattributed:  desc("headgate_usage_unattributed_total", "Decisions whose usage was counted for no subject, because too many rows waited."),

		open:    prometheus.NewDesc("headgate_connections", "Connections that are open.", []string{"door"}, nil),
		refused: prometheus.NewDesc("headgate_connections_refused_total", "Connections that were closed at once because there were too many.", []string{"door"}, nil),

		at: desc("headgate_policy_last_reload_timestamp_seconds", "When the policy was last read."),
	}
}

// Describe sends what Collect will.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	c.aliases.describe(ch)
	c.upstreams.describe(ch)
	for _, d := range []*prometheus.Desc{
		c.keys, c.overflow, c.bytes, c.limit, c.up, c.plans, c.waiting, c.mode, c.revision, c.ok, c.at, c.build.Desc(),
		c.breaker, c.nodes, c.leaseTokens, c.leases, c.leaseDecisions, c.recordsUp, c.usageRows, c.usageFailures, c.unattributed, c.open, c.refused,
	} {
		ch <- d
	}
}

// Collect sends the state as it is.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.state()
	c.aliases.collect(ch, &s)
	c.upstreams.collect(ch, s.Upstreams)
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	for _, d := range s.Doors {
		ch <- prometheus.MustNewConstMetric(c.open, prometheus.GaugeValue, float64(d.Open), d.Door)
		ch <- prometheus.MustNewConstMetric(c.refused, prometheus.CounterValue, float64(d.Refused), d.Door)
	}
	if m := s.Memory; m != nil {
		gauge(c.keys, float64(m.Keys))
		gauge(c.overflow, float64(m.OverflowCells))
		gauge(c.bytes, float64(m.Bytes))
		gauge(c.limit, float64(m.Limit))
	}
	if h := s.Shared; h != nil {
		gauge(c.breaker, float64(h.Breaker))
		gauge(c.nodes, float64(h.Nodes))
		gauge(c.leaseTokens, float64(h.LeaseTokens))
		gauge(c.leases, float64(h.Leases))
		ch <- prometheus.MustNewConstMetric(c.leaseDecisions, prometheus.CounterValue, float64(h.LeaseDecisions))
	}
	if r := s.Records; r != nil {
		gauge(c.recordsUp, oneIf(r.Up))
		gauge(c.usageRows, float64(r.UsageRows))
		gauge(c.usageFailures, float64(r.UsageFailures))
		ch <- prometheus.MustNewConstMetric(c.unattributed, prometheus.CounterValue, float64(r.Unattributed))
	}
	gauge(c.waiting, float64(s.Waiting))
	for _, m := range s.Modes[:min(len(s.Modes), MaxSets)] {
		ch <- prometheus.MustNewConstMetric(c.mode, prometheus.GaugeValue, 1, m.Application, m.Rule, m.Mode)
	}
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
