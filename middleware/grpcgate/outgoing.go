package grpcgate

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/middleware/grpclimit"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
)

// OutgoingConfig says how calls that a program makes are put to an engine. The zero
// value asks about application "default". Functions must be safe for concurrent use.
type OutgoingConfig struct {
	// Application is the policy's application; "" means "default".
	Application string
	// Operation is what the call does, for rules that match by operation; nil or ""
	// means that rules match by method and path.
	Operation func(grpclimit.Call) string
	// Costs are those in other units than requests; nil leaves them to the rule.
	Costs func(grpclimit.Call) map[string]int64
	// Plan is the subject's plan where its record names none; nil or "" means the
	// rule's, else that of the application.
	Plan func(grpclimit.Call) string
	// OnError is told of slots that could not be renewed or released; nil means nobody
	// is. Of calls that were not decided the grpclimit.Client tells.
	OnError func(grpclimit.Call, error)
}

// Outgoing returns a budget for grpclimit.NewClientOver: the calls that a program makes
// are decided by a policy, in this process or on a server, which processes share.
//
//	budget := grpcgate.Outgoing(engine, grpcgate.OutgoingConfig{Application: "partners"})
//	limits := grpclimit.NewClientOver(budget, grpclimit.ClientConfig{MaxWait: time.Second})
//
// The grpclimit.Client's key is the subject, at most gate.MaxSubject bytes, and its
// cost the cost in requests, whatever the rule says. The engine is told the method as
// for a [Server], and as the host what stands behind the last '/' of the target, but no
// metadata, which may hold secrets. Nobody waits in line: it is the grpclimit.Client
// that waits, as long as the decision says and it may. Slots are renewed until the call
// has ended. It panics if e is nil.
func Outgoing(e Engine, c OutgoingConfig) grpclimit.Budget {
	if e == nil {
		panic("grpcgate: Outgoing without an engine")
	}
	if c.OnError == nil {
		c.OnError = func(grpclimit.Call, error) {}
	}
	c.Application = cmp.Or(c.Application, "default")
	return &outgoing{OutgoingConfig: c, engine: e}
}

type outgoing struct {
	OutgoingConfig
	engine Engine
}

// Acquire implements grpclimit.Budget.
func (o *outgoing) Acquire(c grpclimit.Call, key string, cost int64) (answer.Verdict, func() error, error) {
	st := states.Get().(*state)
	defer st.free()
	st.req = gate.Request{
		Application: o.Application, Subject: key, Cost: cost, CostSaid: true,
		Method: http.MethodPost, Path: c.Method, Host: c.Target[strings.LastIndexByte(c.Target, '/')+1:],
		NoWait: true, Releases: true,
	}
	if o.Operation != nil {
		st.req.Operation = o.Operation(c)
	}
	if o.Costs != nil {
		st.req.Costs = o.Costs(c)
	}
	if o.Plan != nil {
		st.req.Plan = o.Plan(c)
	}
	if err := o.engine.Take(c.Context, &st.req, &st.d); err != nil {
		return answer.Verdict{}, nil, err
	}
	v := verdict(&st.d)
	if !st.d.HasTicket() {
		return v, nil, nil
	}
	held := inlet.Keep(c.Context, o.engine, o.Application, &st.d, func(err error) { o.OnError(c, err) })
	return v, func() error {
		held.Release() // it tells OnError itself
		return nil
	}, nil
}
