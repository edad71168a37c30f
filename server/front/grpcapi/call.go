package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// call is everything that one call needs, used again for the next one.
type call struct {
	ask
	inbound
	caller  front.Caller
	d       gate.Decision
	take    headgatev1.TakeRequest
	reply   reply
	out     proto.Message // the answer
	written []byte        // the answer as it is sent, instead of out
}

var calls = sync.Pool{New: func() any { return new(call) }}

// free returns the call for use by others. What the decision's strings point to is
// gone after it.
func (c *call) free() {
	c.ask.reset()
	if cap(c.raw) > MaxMessage {
		c.raw = nil // grown for a batch: many of them would be kept for nothing
	}
	c.inbound = inbound{raw: c.raw}
	c.caller, c.out, c.written = nil, nil, nil
	c.take.Reset()
	calls.Put(c)
}

// method is one of the service's.
type method struct {
	name string
	// into says where a message is read to.
	into func(*call) inbound
	// serve answers: it sets c.out or c.written.
	serve func(*door, context.Context, *call) error
}

var methods = []method{
	{"Take", takeInto, (*door).take},
	{"TakeBatch", batchInto, (*door).batch},
	{"Peek", takeInto, (*door).peek},
	{"Explain", takeInto, (*door).explain},
	{"Reserve", fresh[headgatev1.ReserveRequest](reserveShape), (*door).reserve},
	{"Settle", fresh[headgatev1.SettleRequest](flat), (*door).settle},
	{"Renew", fresh[headgatev1.RenewRequest](flat), (*door).renew},
	{"Release", fresh[headgatev1.ReleaseRequest](flat), (*door).release},
	{"Throttle", fresh[headgatev1.ThrottleRequest](flat), (*door).throttle},
}

func takeInto(c *call) inbound { return inbound{shape: takeShape, msg: &c.take, raw: c.raw} }

func batchInto(c *call) inbound { return inbound{raw: c.raw} }

// fresh reads into a message that is not used again.
func fresh[T any, P interface {
	*T
	proto.Message
}](s shape) func(*call) inbound {
	return func(c *call) inbound { return inbound{shape: s, msg: P(new(T)), raw: c.raw} }
}

// service describes HeadgateService with handlers of our own: those that are
// generated make messages anew for every call.
func (d *door) service() *grpc.ServiceDesc {
	desc := headgatev1.HeadgateService_ServiceDesc
	desc.HandlerType, desc.Methods = (*any)(nil), nil
	for _, m := range methods {
		desc.Methods = append(desc.Methods, grpc.MethodDesc{
			MethodName: m.name,
			// The door admits and recovers by itself, as its interceptor would.
			Handler: func(_ any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return d.call(ctx, &m, read)
			},
		})
	}
	return &desc
}

// call answers one call with a *call, which the codec writes and frees.
func (d *door) call(ctx context.Context, m *method, read func(any) error) (answer any, err error) {
	defer d.linger(ctx)
	c := calls.Get().(*call)
	defer func() {
		if p := recover(); p != nil {
			answer, err = nil, d.panicked(m.name, p, debug.Stack()) // c may be in any state
			return
		}
		if err != nil {
			c.free()
		}
	}()
	if c.caller, err = d.admit(ctx); err != nil {
		return nil, err
	}
	c.inbound = m.into(c)
	if err := read(&c.inbound); err != nil {
		return nil, err
	}
	if err = c.inbound.err; err == nil {
		if err = ctx.Err(); err == nil { // else nobody reads the answer, so nothing is charged
			err = m.serve(d, ctx, c)
		}
	}
	if err != nil {
		return nil, d.fail(ctx, m.name, err)
	}
	return c, nil
}

// read reads the request to decide on.
func (c *call) read(in *headgatev1.TakeRequest) error {
	if err := c.ask.read(in); err != nil {
		return err
	}
	return front.Reach(c.caller, c.req.Application)
}

func (d *door) take(ctx context.Context, c *call) error {
	if err := c.read(&c.take); err != nil {
		return err
	}
	began := time.Now()
	return d.answer(c, began, d.Gate.Take(ctx, &c.req, &c.d))
}

func (d *door) reserve(ctx context.Context, c *call) error {
	in := c.msg.(*headgatev1.ReserveRequest)
	ttl, err := hold(in.TtlMs)
	if err != nil {
		return err
	}
	if err := c.read(in.GetTake()); err != nil {
		return err
	}
	began := time.Now()
	return d.answer(c, began, d.Gate.Reserve(ctx, &c.req, ttl, &c.d))
}

func (d *door) peek(ctx context.Context, c *call) error {
	err := c.read(&c.take)
	if err == nil {
		err = d.Gate.Peek(ctx, &c.req, &c.d)
	}
	if err == nil {
		c.out = c.reply.fill(&c.d)
	}
	return err
}

func (d *door) explain(ctx context.Context, c *call) error {
	var e gate.Explanation
	err := c.read(&c.take)
	if err == nil {
		err = d.Gate.Explain(ctx, &c.req, &c.d, &e)
	}
	if err != nil {
		return err
	}
	steps := make([]*headgatev1.ExplanationStep, len(e.Steps))
	for i, s := range e.Steps {
		steps[i] = &headgatev1.ExplanationStep{About: text(s.About), Text: text(s.Text)}
	}
	c.out = &headgatev1.ExplainResponse{
		Decision:    c.reply.fill(&c.d),
		Explanation: &headgatev1.Explanation{Verdict: text(e.Verdict), Steps: steps},
	}
	return nil
}

// answer makes a decision that may have charged the answer, or returns its error.
func (d *door) answer(c *call, began time.Time, err error) error {
	if err == nil {
		c.out = c.reply.fill(&c.d)
	}
	if err == nil || c.d.Kept {
		d.Decided(&c.d, time.Since(began)-c.d.Waited)
	}
	return err
}

func (d *door) settle(ctx context.Context, c *call) error {
	in := c.msg.(*headgatev1.SettleRequest)
	if err := checkCosts(in.Costs); err != nil {
		return err
	}
	claim := gate.Claim{Ticket: in.Ticket, Application: in.Application, Costs: in.Costs}
	if in.Cost != nil {
		claim.Cost, claim.CostSaid = *in.Cost, true
	}
	return d.claim(ctx, c, &claim, d.Gate.Settle)
}

func (d *door) renew(ctx context.Context, c *call) error {
	in := c.msg.(*headgatev1.RenewRequest)
	ttl, err := hold(in.TtlMs)
	if err != nil {
		return err
	}
	return d.claim(ctx, c, &gate.Claim{Ticket: in.Ticket, Application: in.Application, TTL: ttl}, d.Gate.Renew)
}

func (d *door) release(ctx context.Context, c *call) error {
	in := c.msg.(*headgatev1.ReleaseRequest)
	return d.claim(ctx, c, &gate.Claim{Ticket: in.Ticket, Application: in.Application}, d.Gate.Release)
}

// claim answers what is asked about a ticket.
func (d *door) claim(ctx context.Context, c *call, claim *gate.Claim, do func(context.Context, *gate.Claim, *gate.Decision) error) error {
	if !c.caller.Everywhere() {
		claim.Reaches = c.caller.Reaches
	}
	if err := do(ctx, claim, &c.d); err != nil {
		return err
	}
	d.Corrected(&c.d)
	c.out = c.reply.fill(&c.d)
	return nil
}

var errNotEverywhere = Forbidden("the keys of this method belong to no application, and this token is not for all of them")

func (d *door) throttle(ctx context.Context, c *call) error {
	if !c.caller.Everywhere() {
		return errNotEverywhere
	}
	in := c.msg.(*headgatev1.ThrottleRequest)
	const most = int64(headgate.MaxPeriod / time.Microsecond)
	if in.PeriodUs < 1 || in.PeriodUs > most {
		return invalid("rate", "period %d µs: must be 1 to %d", in.PeriodUs, most)
	}
	ask := gate.Throttle{
		Key: in.Key, Count: in.Count, Period: time.Duration(in.PeriodUs) * time.Microsecond, Burst: in.Burst, Cost: 1, Peek: in.Peek,
	}
	if in.Cost != nil {
		ask.Cost = *in.Cost
	}
	began := time.Now()
	if err := d.Gate.Throttle(ctx, &ask, &c.d); err != nil {
		return err
	}
	c.out = c.reply.fill(&c.d)
	if !ask.Peek {
		d.Decided(&c.d, time.Since(began))
	}
	return nil
}

// fail is the status of an error.
func (d *door) fail(ctx context.Context, method string, err error) error {
	switch {
	case ctx.Err() != nil:
		return statusOf(ctx.Err())
	case broken(err):
		d.log(method, err)
	}
	return statusOf(err)
}

func (d *door) log(method string, err error) {
	code := headgate.CodeOf(err).String()
	d.faults.Log(d.Logger, slog.LevelError, code, "no decision", "method", method, "code", code, "error", err)
}

func invalid(field, format string, args ...any) error {
	return &headgate.Error{Code: headgate.InvalidRequest, Field: field, Err: fmt.Errorf(format, args...)}
}

// panicked reports a panic.
func (d *door) panicked(method string, p any, stack []byte) error {
	d.Logger.Error("panic in a handler", "method", method, "panic", p, "stack", string(stack))
	d.Panicked()
	return errPanic
}

var errPanic = statusOf(errors.New("panic"))
