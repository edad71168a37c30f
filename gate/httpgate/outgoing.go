package httpgate

import (
	"cmp"
	"net/http"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/faultlog"
	"github.com/headgate/headgate/middleware/httplimit"
)

// OutgoingConfig says how requests that a program sends are put to an engine. The zero
// value asks about application "default". Functions must be safe for concurrent use.
type OutgoingConfig struct {
	// Application is the policy's application; "" means "default".
	Application string
	// Operation is what the request does, for rules that match by operation; nil or ""
	// means that rules match by method and path.
	Operation func(*http.Request) string
	// Costs are those in other units than requests; nil leaves them to the rule.
	Costs func(*http.Request) map[string]int64
	// Plan is the subject's plan where its record names none; nil or "" means the rule's,
	// else that of the application.
	Plan func(*http.Request) string
	// OnError is told of slots that could not be renewed or released; nil logs it as that
	// of Config does. Of requests that were not decided the Transport tells.
	OnError func(*http.Request, error)
}

// Outgoing returns a budget for httplimit.NewTransportOver: the requests that a program
// sends are decided by a policy, in this process or on a server, which processes share.
//
//	budget := httpgate.Outgoing(engine, httpgate.OutgoingConfig{Application: "partners"})
//	client := &http.Client{Transport: httplimit.NewTransportOver(budget, nil, httplimit.TransportConfig{MaxWait: time.Second})}
//
// The Transport's key is the subject, at most gate.MaxSubject bytes, and its cost the
// cost in requests, whatever the rule says. The engine is told method, host and path, but
// neither query nor header fields, which may hold secrets. Nobody waits in line: it is
// the Transport that waits, as long as the decision says and it may. Slots are renewed
// until the answer was read. It panics if e is nil.
func Outgoing(e Engine, c OutgoingConfig) httplimit.Budget {
	if e == nil {
		panic("httpgate: Outgoing without an engine")
	}
	c.Application = cmp.Or(c.Application, "default")
	return &outgoing{OutgoingConfig: c, keeper: &middleware{Config: Config{Application: c.Application, OnError: c.OnError}, engine: e, faults: faultlog.Faults{Pause: logEvery}}}
}

type outgoing struct {
	OutgoingConfig
	keeper *middleware // of slots
}

// Acquire implements httplimit.Budget.
func (o *outgoing) Acquire(r *http.Request, key string, cost int64) (headgate.Decision, func() error, error) {
	c := calls.Get().(*call)
	defer c.free()
	c.req = gate.Request{
		Application: o.Application, Subject: key, Cost: cost, CostSaid: true,
		Method: cmp.Or(r.Method, http.MethodGet), Host: cmp.Or(r.Host, r.URL.Host), Path: cmp.Or(r.URL.EscapedPath(), "/"),
		NoWait: true, Releases: true,
	}
	if o.Operation != nil {
		c.req.Operation = o.Operation(r)
	}
	if o.Costs != nil {
		c.req.Costs = o.Costs(r)
	}
	if o.Plan != nil {
		c.req.Plan = o.Plan(r)
	}
	if err := o.keeper.engine.Take(r.Context(), &c.req, &c.d); err != nil {
		return headgate.Decision{}, nil, err
	}
	if !c.d.HasTicket() {
		return c.d.Decision, nil, nil
	}
	s := o.keeper.keep(r, &c.d)
	return c.d.Decision, func() error {
		s.Release() // it tells OnError itself
		return nil
	}, nil
}
