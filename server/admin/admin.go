// Package admin is the management API: what was decided lately, and the switch
// for a bad night. Every route needs a token with the scope of what it does.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/records"
)

// maxBody is the largest body of a request in bytes.
const maxBody = 64 << 10

// engine is what the routes need of a gate.
type engine interface {
	SetMode(gate.Mode) error
	Modes() []gate.Mode
	Now() int64
	TrustedProxies(application string) ([]netip.Prefix, bool)
	Policy() *policy.Policy
	Source() gate.Source
	Inspect(ctx context.Context, application, subject string) (*gate.SubjectState, error)
	Reset(ctx context.Context, application, subject string, match func(*gate.LimitState) bool) (*gate.SubjectState, error)
}

// Config is what the routes are made of. Gate, Journal and Guard are required.
type Config struct {
	Gate    engine
	Journal *journal.Journal
	// Records are what is written down; nil leaves the routes out that need them.
	Records *records.DB
	// Reach, if not nil, waits until a write to the records is in force on this node, by
	// its number, or ctx ends.
	Reach func(ctx context.Context, version int64)
	// Pinned is the policy file that rules whatever is on record; "" if none does.
	Pinned string
	// Guard knows who callers are, by Authorization: Bearer.
	Guard *access.Guard
	// Backup copies the state of limits; nil where that is not in this process's
	// data directory.
	Backup func(ctx context.Context) (Backup, error)
	// Meter knows what is used, and what goes on now. nil leaves the routes out that need
	// it, and so do Records that are nil.
	Meter counting
	// Node tells the present state of this node; nil lists it as others are.
	Node func() NodeState
	// Logger takes changes of modes; nil discards them.
	Logger *slog.Logger
}

// Routes returns the handlers by their patterns for [http.ServeMux]. Panics if a required field of c is not set.
func Routes(c Config) map[string]http.Handler {
	if c.Gate == nil || c.Journal == nil || c.Guard == nil {
		panic("admin: Config without Gate, Journal or Guard")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	a := &api{Config: c}
	reading := methods{http.MethodGet: records.Read, http.MethodHead: records.Read}
	routes := map[string]http.Handler{
		"/v1/backup":    a.protect(a.backup, methods{http.MethodPost: records.Admin}),
		"/v1/decisions": a.protect(a.decisions, reading),
		"/v1/mode":      a.protect(a.mode, methods{http.MethodGet: records.Read, http.MethodHead: records.Read, http.MethodPut: records.Operate}),
	}
	if c.Records != nil || c.Node != nil {
		routes["/v1/nodes"] = a.protect(a.nodes, reading)
	}
	if c.Records != nil && c.Meter != nil {
		routes["/v1/stats"] = a.protect(a.stats, reading)
		routes["/v1/top"] = a.protect(a.top, reading)
		routes["/v1/usage"] = a.protect(a.usage, reading)
	}
	if c.Records != nil {
		const application = "/v1/applications/{application}/"
		editing := methods{
			http.MethodGet: records.Read, http.MethodHead: records.Read, http.MethodPut: records.Admin, http.MethodDelete: records.Admin,
		}
		maps.Copy(routes, map[string]http.Handler{
			"/v1/audit":            a.protect(a.audit, reading),
			"/v1/policy":           a.protect(a.policy, methods{http.MethodGet: records.Read, http.MethodHead: records.Read, http.MethodPut: records.Admin}),
			"/v1/policy/revisions": a.protect(a.revisions, reading),
			"/v1/policy/rollback":  a.protect(a.rollback, methods{http.MethodPost: records.Admin}),
			"/v1/policy/validate":  a.protect(a.validatePolicy, methods{http.MethodPost: records.Read}),
			"/v1/tokens": a.protect(a.tokens, methods{
				http.MethodGet: records.Admin, http.MethodHead: records.Admin, http.MethodPost: records.Admin, http.MethodDelete: records.Admin,
			}),
			"/v1/plans":                      a.protect(a.plans, reading),
			"/v1/plans/{plan}":               a.protect(a.plan, editing),
			"/v1/applications":               a.protect(a.applications, reading),
			"/v1/applications/{application}": a.protect(a.application, editing),
			application + "subjects":         a.protect(a.subjects, reading),
			application + "subject": a.protect(a.subject, methods{
				http.MethodGet: records.Read, http.MethodHead: records.Read, http.MethodPut: records.Operate, http.MethodDelete: records.Operate,
			}),
			application + "subject/reset": a.protect(a.reset, methods{http.MethodPost: records.Operate}),
			application + "subject/ban":   a.protect(a.ban, methods{http.MethodPost: records.Operate, http.MethodDelete: records.Operate}),
		})
	}
	return routes
}

type api struct {
	Config
	// editing lets one request at a time change a part of the policy, so that those of
	// one node do not make each other begin anew.
	editing sync.Mutex
}

// modeItem is one override on the wire.
type modeItem struct {
	Application string    `json:"application"`
	Rule        string    `json:"rule"`
	Mode        string    `json:"mode"`
	Until       time.Time `json:"until"`
}

// modeChange is the body of PUT /v1/mode.
type modeChange struct{ application, rule, mode, span string }

// fields returns where each field of the body belongs.
func (c *modeChange) fields() map[string]*string {
	return map[string]*string{"application": &c.application, "rule": &c.rule, "mode": &c.mode, "for": &c.span}
}

// The bounds of an override's time. A day is enough for the night that it is
// for; what shall hold longer belongs into the policy.
const (
	minOverride = time.Second
	maxOverride = 24 * time.Hour
)

// mode lists the overrides in force, after a PUT with the one that it sets.
func (a *api) mode(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	if r.Method == http.MethodPut {
		var change modeChange
		if p := decode(w, r, change.fields()); p != nil {
			p.ServeHTTP(w, r)
			return
		}
		p := outside(who, change.application)
		if p == nil {
			p = a.setMode(r, &change, who)
		}
		if p != nil {
			p.ServeHTTP(w, r)
			return
		}
	}
	items := []modeItem{}
	for _, m := range a.Gate.Modes() {
		if m.Application != "" && !who.Reaches(m.Application) {
			continue
		}
		items = append(items, modeItem{m.Application, m.Rule, modeName(m.Shadow), m.Until.UTC()})
	}
	writeList(w, items, "")
}

func (a *api) setMode(r *http.Request, c *modeChange, who *access.Identity) *problem.Problem {
	if c.mode != "shadow" && c.mode != "enforce" {
		return problem.BadRequest("mode", fmt.Sprintf("mode %.64q: must be shadow or enforce", c.mode))
	}
	if c.span == "" {
		return problem.BadRequest("for", `for is required: how long, such as "30m"; "0s" ends it`)
	}
	d, err := ParseFor(c.span)
	if err != nil {
		return problem.BadRequest("for", err.Error())
	}
	until := time.UnixMicro(a.Gate.Now()).Add(d)
	if err := a.Gate.SetMode(gate.Mode{Application: c.application, Rule: c.rule, Shadow: c.mode == "shadow", Until: until}); err != nil {
		p := problem.Of(err)
		if p.Status >= http.StatusInternalServerError {
			a.Logger.Error("mode not set", "error", err)
		}
		return p
	}
	scope := []any{"application", c.application, "rule", c.rule}
	if d == 0 {
		a.Logger.Warn("mode override ended", append(scope, "by", who.Name)...)
	} else {
		a.Logger.Warn("mode override in force", append(scope, "mode", c.mode, "until", until.UTC().Format(time.RFC3339), "by", who.Name)...)
	}
	if a.Records == nil {
		return nil
	}
	e := entry(r, who, "mode.put")
	e.Application, e.Target = c.application, fmt.Sprintf("%s %s %s", c.mode, c.rule, c.span)
	if err := a.Records.PutMode(r.Context(), records.Mode{Application: c.application, Rule: c.rule, Shadow: c.mode == "shadow", Until: until}, e); err != nil {
		a.Logger.Error("a mode could not be put on record", "error", err)
		return &problem.Problem{
			Name: "records_unavailable", Status: http.StatusServiceUnavailable,
			Detail: "the mode is in force on this node alone: it could not be put on record, where other nodes would find it",
		}
	}
	return nil
}

// ParseFor reads for how long a mode shall hold: 1 second to 24 hours, or 0 to
// end it. The error names the field, as PUT /v1/mode answers it.
func ParseFor(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d != 0 && (d < minOverride || d > maxOverride) {
		return 0, fmt.Errorf(`for %.64q: must be a time of 1s to 24h, such as "30m", or "0s" to end it`, s)
	}
	return d, nil
}

func modeName(shadow bool) string {
	if shadow {
		return "shadow"
	}
	return "enforce"
}

// list is how every list is answered.
type list[T any] struct {
	Items []T     `json:"items"`
	Next  *string `json:"next"`
}

func writeList[T any](w http.ResponseWriter, items []T, next string) {
	l := list[T]{Items: items}
	if next != "" {
		l.Next = &next
	}
	writeJSON(w, l)
}

// reachTime is how long an answer waits for what it tells of to be in force here.
const reachTime = 2 * time.Second

// reach waits until a write is in force on this node.
func (a *api) reach(r *http.Request, version int64) {
	if a.Reach == nil {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), reachTime)
	defer cancel()
	a.Reach(ctx, version)
}

// writeJSON answers with a document.
func writeJSON(w http.ResponseWriter, document any) { writeStatus(w, http.StatusOK, document) }

func writeStatus(w http.ResponseWriter, status int, document any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(document) // an error says that the client has gone
}
