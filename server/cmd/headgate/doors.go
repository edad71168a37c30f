package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/follow"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/envoyrls"
	"github.com/headgate/headgate/server/front/forwardauth"
	"github.com/headgate/headgate/server/front/httpapi"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/front/proxy"
	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/observe"
	"github.com/headgate/headgate/server/openapi"
	"github.com/headgate/headgate/server/records"
	"github.com/headgate/headgate/store/memstore"
)

// house is what the doors lead into.
type house struct {
	gate    *gate.Gate
	backend *backend
	metrics *observe.Metrics
	journal *journal.Journal        // nil where nobody can read it
	admin   map[string]http.Handler // nil where it is turned off
	guard   *access.Guard           // nil where nothing needs a token
	proxy   *proxy.Proxy            // nil where nothing is forwarded
	certs   *certReloader           // nil where nobody speaks TLS
	live    atomic.Pointer[live]    // what the configuration says at present
	open    atomic.Pointer[[]door]  // nil before there are any
	log     *slog.Logger

	records  *records.DB // nil where there are none
	follower *follow.Follower
	meter    *meter.Meter // nil where there are no records

	// What a node says of itself: settings is what it was told.
	settings *settings
	name     string
	at       *listeners
	started  time.Time

	unmatched unmatched

	clock func() time.Time // of usage; nil is time.Now
}

// apply puts what may change while the server runs in force.
func (h *house) apply(l *live) {
	if h.guard != nil {
		h.guard.Allow(l.allowFrom)
	}
	h.live.Store(l)
	if h.meter != nil {
		h.meter.Set(l.meter())
	}
}

// newMetrics makes metrics that show h's state.
func newMetrics(h *house) *observe.Metrics {
	name, commit := buildVersion()
	return observe.New(observe.Build{Version: name, Commit: commit, GoVersion: runtime.Version()}, h.state)
}

// state is what the server shows of itself. Gate and backend must be there when somebody
// looks.
func (h *house) state() observe.State {
	st := h.gate.Status()
	var modes []observe.Mode
	for _, m := range h.gate.Modes() {
		name := "enforce"
		if m.Shadow {
			name = "shadow"
		}
		modes = append(modes, observe.Mode{Application: m.Application, Rule: m.Rule, Mode: name})
	}
	s := observe.State{
		StoreUp: h.gate.Ready() == nil, UnknownPlans: h.gate.UnknownPlans(), Waiting: h.gate.Waiting(), Modes: modes,
		Revision: st.Revision, ReloadOK: st.LastReloadOK, ReloadAt: st.LastReloadAt,
	}
	h.backend.observe(&s)
	h.observeDoors(&s)
	h.observeProxy(&s)
	h.observeRecords(&s)
	return s
}

// openGuard makes what knows the tokens. end gives back what it holds.
func (h *house) openGuard(s *settings) (end func(), err error) {
	token := s.token
	if token == "" {
		var created bool
		if token, created, err = admin.OpenToken(s.data); err != nil {
			return nil, fmt.Errorf("--data %s: no admin token: %w", s.data, err)
		}
		if created {
			h.log.Info("made an admin token", "file", filepath.Join(s.data, admin.TokenFile))
		}
	}
	failures := memstore.New(memstore.Config{MaxBytes: 1 << 20})
	limiter, err := headgate.New(failures, headgate.PerMinute(10).WithName("wrong-tokens"))
	if err != nil {
		return nil, err
	}
	h.guard = access.New(access.Config{Token: token, Failures: limiter, Logger: h.log})
	return func() { failures.Close() }, nil
}

// openAdmin makes the routes of the administration, and the journal that they show.
func (h *house) openAdmin(s *settings, db *records.DB) {
	h.journal = journal.New(journal.Config{})
	h.admin = admin.Routes(admin.Config{
		Gate: h.gate, Journal: h.journal, Guard: h.guard, Records: db, Pinned: s.pinned(), Backup: h.backend.backup(s.data), Logger: h.log,
		Reach: func(ctx context.Context, version int64) { h.follower.Reach(ctx, version) }, Meter: h.meter, Node: h.node,
	})
}

// doors puts a server behind each listener.
func (h *house) doors() (list []door) {
	ls := h.at
	h.warnOfClearTokens()
	if ls.http != nil {
		list = append(list, h.encrypted(door{name: "http", listener: ls.http, service: newHTTPServer(h.httpDoor())}, "http/1.1"))
	}
	if ls.admin != nil {
		list = append(list, h.encrypted(door{name: "admin", listener: ls.admin, service: newHTTPServer(h.adminDoor())}, "http/1.1"))
	}
	if ls.grpc != nil {
		list = append(list, h.grpcDoor(ls.grpc))
	}
	if ls.resp != nil {
		list = append(list, h.respDoor(ls.resp))
	}
	if ls.proxy != nil {
		list = append(list, h.proxyDoor(ls.proxy))
	}
	for i := range list {
		if list[i].bounded == nil {
			list[i].bounded = front.Bound(list[i].listener, 0)
		}
	}
	h.open.Store(&list)
	return list
}

// observeDoors adds what there is to see of connections.
func (h *house) observeDoors(s *observe.State) {
	if open := h.open.Load(); open != nil {
		for _, d := range *open {
			s.Doors = append(s.Doors, observe.Connections{Door: d.name, Open: d.bounded.Open(), Refused: d.bounded.Refused()})
		}
	}
}

// encrypted is a door with TLS where the configuration asks for it. What only this
// machine's files lead to needs none.
func (h *house) encrypted(d door, protocols ...string) door {
	if h.certs != nil && d.listener.Addr().Network() != "unix" {
		d.tls = h.certs.TLS(protocols...)
	}
	return d
}

// warnOfClearTokens tells of listeners where others could read tokens.
func (h *house) warnOfClearTokens() {
	if h.certs != nil {
		return
	}
	for _, l := range h.at.all() {
		if l == h.at.proxy { // nobody shows a token there
			continue
		}
		if !onThisMachine(l.Addr()) && (!h.admission(l).open || h.admin != nil && l == cmp.Or(h.at.admin, h.at.http)) {
			h.log.Warn("tokens cross the network in clear: name a certificate in the configuration, under tls, or let a proxy with TLS stand in front", "address", addressOf(l))
		}
	}
}

// httpDoor makes the server of decisions, with the administration where that has no
// listener of its own.
func (h *house) httpDoor() *http.Server {
	auth := h.admission(h.at.http)
	routes := map[string]http.Handler{
		forwardauth.Pattern:      forwardauth.New(forwardauth.Config{Gate: h.gate, Admit: auth.proxies(), Decided: h.decided("forward_auth"), Logger: h.log}),
		"/metrics":               httpapi.ReadOnly(auth.metrics(h.metrics.Handler())),
		openapi.Path:             httpapi.ReadOnly(openapi.Handler()),
		envoyrls.Path:            h.admittedTo(auth, h.envoy("envoy").JSON()),
		"/v1/policy/schema.json": httpapi.ReadOnly(http.HandlerFunc(serveSchema)),
	}
	if h.at.admin == nil {
		maps.Copy(routes, h.admin)
	}
	return httpapi.NewServer(h.countFailures(httpapi.New(httpapi.Config{
		Gate: h.gate, Admit: auth.decisions(), Routes: routes, Now: h.now(), Decided: h.decidedNamed("http"), Corrected: h.corrected, Panicked: h.metrics.Panicked, Logger: h.log,
	})), h.log)
}

// adminDoor makes the server of the administration alone. Metrics are here where there
// is no other place.
func (h *house) adminDoor() *http.Server {
	mux := http.NewServeMux()
	for pattern, route := range h.admin {
		mux.Handle(pattern, route)
	}
	if h.at.http == nil {
		mux.Handle("/metrics", httpapi.ReadOnly(h.admission(h.at.admin).metrics(h.metrics.Handler())))
	}
	mux.Handle("/", &problem.Problem{Name: "not_found", Status: http.StatusNotFound, Detail: "no such route; this is the administration"})
	return httpapi.NewServer(h.countFailures(mux), h.log)
}

// now is the clock by which doors date what came in together: that of a store in this
// process. Of another one nobody else says the instant.
func (h *house) now() func() int64 {
	if clock, ok := h.backend.store.(headgate.Clock); ok {
		return clock.Now
	}
	return nil
}

func serveSchema(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/schema+json")
	w.Write(policy.Schema())
}

// decided returns what counts and records the decisions of a door.
func (h *house) decided(door string) func(*gate.Decision, time.Duration) {
	counters := h.metrics.Door(door)
	return func(d *gate.Decision, took time.Duration) {
		trial, _, tried := d.Candidate()
		o := observe.Decision{
			Application: d.Application, Rule: d.Rule, Plan: d.Plan, Reason: d.Reason, Allowed: d.Allowed, Cost: d.Cost,
			Degraded: d.Degraded, Replayed: d.Replayed, WouldDeny: d.WouldDeny != headgate.NoReason, Tried: tried, TriedAllowed: trial.Allowed,
		}
		counters.Decided(&o, took)
		for _, c := range d.Costs() {
			h.metrics.Charged(&o, c.Unit, c.Cost)
		}
		if h.meter != nil {
			h.meter.Count(d)
		}
		if h.journal == nil {
			return
		}
		at := d.At() // by the clock of the store
		if at.IsZero() {
			at = time.Now()
		}
		e := journal.Entry{
			At: at, ID: d.ID, Application: d.Application, Rule: d.Rule, Operation: d.Operation, Subject: d.Subject, Plan: d.Plan,
			Cost: d.Cost, Allowed: d.Allowed, Reason: d.Reason, BoundBy: d.BoundByID(), RetryAfter: d.RetryAfter, Retryable: d.Retryable,
			WouldDeny: d.WouldDeny, Shadow: d.Shadow, Degraded: d.Degraded, Door: door,
		}
		if tried {
			e.Candidate, e.CandidateAllowed = trial.Reason, trial.Allowed
		}
		h.journal.Add(&e)
	}
}

// decidedNamed is decided for a door whose callers name the operation themselves.
func (h *house) decidedNamed(door string) func(*gate.Decision, time.Duration) {
	decided := h.decided(door)
	return func(d *gate.Decision, took time.Duration) {
		decided(d, took)
		h.noteUnmatched(d, time.Now)
	}
}

// listeners are the addresses that were opened, nil for those that are turned off.
// admin is nil too where the administration shares http.
type listeners struct{ http, admin, grpc, resp, proxy net.Listener }

// openListeners opens what the settings name, or nothing.
func openListeners(s *settings) (*listeners, error) {
	ls := new(listeners)
	open := func(to *net.Listener, flag, address string) (err error) {
		if address != "" {
			*to, err = listen(flag, address)
		}
		return err
	}
	err := open(&ls.http, "http", s.http)
	var at net.Addr
	if ls.http != nil {
		at = ls.http.Addr()
	}
	if err == nil {
		err = open(&ls.admin, "admin", s.adminAt(at))
	}
	if err == nil {
		err = open(&ls.grpc, "grpc", s.grpc)
	}
	if err == nil {
		err = open(&ls.resp, "resp", s.resp)
	}
	if err == nil {
		err = open(&ls.proxy, s.proxyFlag, s.proxy)
	}
	if err != nil {
		ls.close()
		return nil, err
	}
	return ls, nil
}

// all returns those that are open.
func (ls *listeners) all() []net.Listener {
	return slices.DeleteFunc([]net.Listener{ls.http, ls.admin, ls.grpc, ls.resp, ls.proxy}, func(l net.Listener) bool { return l == nil })
}

// adminAt returns where the administration needs a listener of its own beside
// the HTTP door, or "".
func (s *settings) adminAt(door net.Addr) string {
	switch {
	case s.admin == s.http:
		return ""
	case s.admin != autoAdmin:
		return s.admin
	case door != nil && onThisMachine(door):
		return ""
	}
	return adminAddress
}

func (ls *listeners) close() {
	for _, l := range ls.all() {
		l.Close()
	}
}
