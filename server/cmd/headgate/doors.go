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
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/follow"
	"github.com/headgate/headgate/server/front/forwardauth"
	"github.com/headgate/headgate/server/front/httpapi"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/journal"
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
	log     *slog.Logger

	follower *follow.Follower
}

// newMetrics makes metrics that show h's gate and backend. Both must be there when
// somebody looks.
func newMetrics(h *house) *observe.Metrics {
	name, commit := buildVersion()
	return observe.New(observe.Build{Version: name, Commit: commit, GoVersion: runtime.Version()}, func() observe.State {
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
		return s
	})
}

// openGuard makes what knows the tokens of the administration. end gives back what it
// holds.
func (h *house) openGuard(s *settings) (guard *access.Guard, end func(), err error) {
	token := s.token
	if token == "" {
		var created bool
		if token, created, err = admin.OpenToken(s.data); err != nil {
			return nil, nil, fmt.Errorf("--data %s: no admin token: %w", s.data, err)
		}
		if created {
			h.log.Info("made an admin token", "file", filepath.Join(s.data, admin.TokenFile))
		}
	}
	failures := memstore.New(memstore.Config{MaxBytes: 1 << 20})
	limiter, err := headgate.New(failures, headgate.PerMinute(10).WithName("wrong-tokens"))
	if err != nil {
		return nil, nil, err
	}
	return access.New(access.Config{Token: token, Failures: limiter, Logger: h.log}), func() { failures.Close() }, nil
}

// openAdmin makes the routes of the administration, and the journal that they show.
func (h *house) openAdmin(s *settings, guard *access.Guard, db *records.DB) {
	h.journal = journal.New(journal.Config{})
	h.admin = admin.Routes(admin.Config{
		Gate: h.gate, Journal: h.journal, Guard: guard, Records: db, Pinned: s.policy, Backup: h.backend.backup(s.data), Logger: h.log,
		Reach: func(ctx context.Context, version int64) { h.follower.Reach(ctx, version) },
	})
}

// doors puts a server behind each listener.
func (h *house) doors(ls *listeners) []door {
	routes := map[string]http.Handler{
		forwardauth.Pattern:      forwardauth.New(forwardauth.Config{Gate: h.gate, Decided: h.decided("forward_auth"), Logger: h.log}),
		"/metrics":               httpapi.ReadOnly(h.metrics.Handler()),
		openapi.Path:             httpapi.ReadOnly(openapi.Handler()),
		"/v1/policy/schema.json": httpapi.ReadOnly(http.HandlerFunc(serveSchema)),
	}
	doors := []door{{name: "http", listener: ls.http}}
	if l := cmp.Or(ls.admin, ls.http); h.admin != nil && !onThisMachine(l.Addr()) {
		h.log.Warn("the admin token crosses the network in clear: let a proxy with TLS stand in front", "address", addressOf(l))
	}
	if ls.admin != nil {
		mux := http.NewServeMux()
		for pattern, route := range h.admin {
			mux.Handle(pattern, route)
		}
		mux.Handle("/", &problem.Problem{Name: "not_found", Status: http.StatusNotFound, Detail: "no such route; this is the administration"})
		doors = append(doors, door{name: "admin", listener: ls.admin, server: httpapi.NewServer(h.countFailures(mux), h.log)})
	} else {
		maps.Copy(routes, h.admin)
	}
	var now func() int64 // of a store whose clock is not ours nobody else says the instant
	if clock, ok := h.backend.store.(headgate.Clock); ok {
		now = clock.Now
	}
	doors[0].server = httpapi.NewServer(h.countFailures(httpapi.New(httpapi.Config{
		Gate: h.gate, Routes: routes, Now: now, Decided: h.decided("http"), Panicked: h.metrics.Panicked, Logger: h.log,
	})), h.log)
	return doors
}

func serveSchema(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/schema+json")
	w.Write(policy.Schema())
}

// decided returns what counts and records the decisions of a door.
func (h *house) decided(door string) func(*gate.Decision, time.Duration) {
	return func(d *gate.Decision, took time.Duration) {
		trial, _, tried := d.Candidate()
		o := observe.Decision{
			Application: d.Application, Rule: d.Rule, Plan: d.Plan, Reason: d.Reason, Allowed: d.Allowed, Door: door, Cost: d.Cost,
			Degraded: d.Degraded, Replayed: d.Replayed, WouldDeny: d.WouldDeny != headgate.NoReason, Tried: tried, TriedAllowed: trial.Allowed,
		}
		h.metrics.Decided(&o, took)
		for _, c := range d.Costs() {
			h.metrics.Charged(&o, c.Unit, c.Cost)
		}
		if h.journal == nil {
			return
		}
		e := journal.Entry{
			At: time.Now(), ID: d.ID, Application: d.Application, Rule: d.Rule, Operation: d.Operation, Subject: d.Subject, Plan: d.Plan,
			Cost: d.Cost, Allowed: d.Allowed, Reason: d.Reason, BoundBy: d.BoundByID(), RetryAfter: d.RetryAfter, Retryable: d.Retryable,
			WouldDeny: d.WouldDeny, Shadow: d.Shadow, Degraded: d.Degraded, Door: door,
		}
		if tried {
			e.Candidate, e.CandidateAllowed = trial.Reason, trial.Allowed
		}
		h.journal.Add(&e)
	}
}

// listeners are the addresses that were opened. admin is nil where the
// administration shares http, or is turned off.
type listeners struct{ http, admin net.Listener }

func openListeners(s *settings) (*listeners, error) {
	l, err := listen("http", s.http, s.open)
	if err != nil {
		return nil, err
	}
	ls := &listeners{http: l}
	address := s.adminAt(l.Addr())
	if address == "" {
		return ls, nil
	}
	// Open to all: who has the token may come from anywhere.
	if ls.admin, err = listen("admin", address, true); err != nil {
		ls.close()
		return nil, err
	}
	return ls, nil
}

// adminAt returns where the administration needs a listener of its own beside
// the HTTP door, or "".
func (s *settings) adminAt(door net.Addr) string {
	switch {
	case s.admin == s.http:
		return ""
	case s.admin != autoAdmin:
		return s.admin
	case onThisMachine(door):
		return ""
	}
	return adminAddress
}

func (ls *listeners) close() {
	ls.http.Close()
	if ls.admin != nil {
		ls.admin.Close()
	}
}

// onThisMachine is whether only this machine can reach an address.
func onThisMachine(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}
