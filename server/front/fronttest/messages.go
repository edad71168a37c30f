package fronttest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// OverMessages asks the gRPC service of a door in front of g with the messages
// themselves, as a program in another language would.
func OverMessages(g *Gate, conn grpc.ClientConnInterface) *Messages {
	return &Messages{localMore{g}, g, headgatev1.NewHeadgateServiceClient(conn)}
}

// Messages is the way of [OverMessages]. Subjects are not reset there: the gate answers that.
type Messages struct {
	More
	gate *Gate
	stub headgatev1.HeadgateServiceClient
}

func (o *Messages) Decide(ctx context.Context, c gatetest.Call) (gatetest.Answer, error) {
	o.gate.At(c.At)
	do := o.stub.Take
	if c.Peek {
		do = o.stub.Peek
	}
	return readMessage(do(ctx, messageOf(&c.Request)))
}

func (o *Messages) Reserve(ctx context.Context, c gatetest.Call, ttl time.Duration) (gatetest.Answer, error) {
	o.gate.At(c.At)
	return readMessage(o.stub.Reserve(ctx, &headgatev1.ReserveRequest{Take: messageOf(&c.Request), TtlMs: ttl.Milliseconds()}))
}

func (o *Messages) Claim(ctx context.Context, c gatetest.ClaimCall) (gatetest.Answer, error) {
	o.gate.At(c.At)
	q := &c.Claim
	switch c.Op {
	case headgate.Renew:
		return readMessage(o.stub.Renew(ctx, &headgatev1.RenewRequest{Ticket: q.Ticket, Application: q.Application, TtlMs: q.TTL.Milliseconds()}))
	case headgate.Release:
		return readMessage(o.stub.Release(ctx, &headgatev1.ReleaseRequest{Ticket: q.Ticket, Application: q.Application}))
	}
	in := &headgatev1.SettleRequest{Ticket: q.Ticket, Application: q.Application, Costs: q.Costs}
	if q.CostSaid {
		in.Cost = new(q.Cost)
	}
	return readMessage(o.stub.Settle(ctx, in))
}

func (o *Messages) TakeAll(ctx context.Context, at time.Time, rs []gate.Request) ([]gatetest.Answer, int, error) {
	o.gate.At(at)
	in := &headgatev1.TakeBatchRequest{Atomic: true}
	for i := range rs {
		in.Items = append(in.Items, messageOf(&rs[i]))
	}
	out, err := o.stub.TakeBatch(ctx, in)
	if err != nil {
		failed, err := itemOf(statusError(err))
		return nil, failed, err
	}
	var answers []gatetest.Answer
	for _, r := range out.Results {
		a, err := readMessage(r.GetDecision(), nil)
		if err != nil {
			return nil, -1, err
		}
		answers = append(answers, a)
	}
	return answers, -1, nil
}

// Explain asks with the message.
func (o *Messages) Explain(ctx context.Context, c gatetest.Call) (a gatetest.Answer, e gate.Explanation, _ error) {
	o.gate.At(c.At)
	out, err := o.stub.Explain(ctx, messageOf(&c.Request))
	if err != nil {
		return a, e, statusError(err)
	}
	e.Verdict = out.Explanation.GetVerdict()
	for _, s := range out.Explanation.GetSteps() {
		e.Steps = append(e.Steps, gate.Step{About: s.About, Text: s.Text})
	}
	a, err = readMessage(out.Decision, nil)
	return a, e, err
}

// Throttle asks with the message.
func (o *Messages) Throttle(ctx context.Context, at time.Time, t gate.Throttle) (gatetest.Answer, error) {
	o.gate.At(at)
	return readMessage(o.stub.Throttle(ctx, &headgatev1.ThrottleRequest{
		Key: t.Key, Count: t.Count, PeriodUs: t.Period.Microseconds(), Burst: t.Burst, Cost: new(t.Cost), Peek: t.Peek,
	}))
}

// TakeEach asks for a batch that is not atomic.
func (o *Messages) TakeEach(ctx context.Context, at time.Time, rs []gate.Request) ([]Result, error) {
	o.gate.At(at)
	in := new(headgatev1.TakeBatchRequest)
	for i := range rs {
		in.Items = append(in.Items, messageOf(&rs[i]))
	}
	out, err := o.stub.TakeBatch(ctx, in)
	if err != nil {
		return nil, statusError(err)
	}
	list := make([]Result, len(out.Results))
	for i, r := range out.Results {
		if p := r.GetProblem(); p != nil {
			e := &headgate.Error{Code: codeOf(codes.Code(p.Code)), Field: p.Field}
			e.Err = errors.New(strings.TrimPrefix(p.Detail, p.Field+": "))
			list[i].Err = ofItem(i, e)
			continue
		}
		list[i].Answer, list[i].Err = readMessage(r.GetDecision(), nil)
	}
	return list, nil
}

// messageOf is r as a client sends it.
func messageOf(r *gate.Request) *headgatev1.TakeRequest {
	m := &headgatev1.TakeRequest{
		Application: r.Application, Operation: r.Operation, Subject: r.Subject, Plan: r.Plan,
		Costs: r.Costs, Attributes: r.Attributes, IdempotencyKey: r.IdempotencyKey,
		Request: &headgatev1.HttpRequest{Method: r.Method, Path: r.Path, Host: r.Host},
	}
	if r.IP.IsValid() {
		m.Request.Ip = r.IP.String()
	}
	for name, lines := range r.Headers {
		m.Request.Headers = append(m.Request.Headers, &headgatev1.Header{Name: name, Values: lines})
	}
	for _, e := range r.Descriptor {
		m.Descriptor_ = append(m.Descriptor_, &headgatev1.DescriptorEntry{Key: e.Key, Value: e.Value})
	}
	if r.CostSaid {
		m.Cost = new(r.Cost)
	}
	if r.MaxWaitSaid {
		m.MaxWaitMs = new(r.MaxWait.Milliseconds())
	}
	return m
}

// statusError is a status as the error that it was.
func statusError(err error) error {
	s := status.Convert(err)
	e := &headgate.Error{Code: codeOf(s.Code())}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			e.Field = info.Metadata["field"]
		}
	}
	e.Err = errors.New(strings.TrimPrefix(s.Message(), e.Field+": "))
	return e
}

// codeOf is what a code of gRPC says of an error of the gate.
func codeOf(c codes.Code) headgate.Code {
	return map[codes.Code]headgate.Code{
		codes.InvalidArgument: headgate.InvalidRequest, codes.NotFound: headgate.NotFound,
		codes.AlreadyExists: headgate.Conflict, codes.Unavailable: headgate.Unavailable,
	}[c]
}

// readMessage is the answer in the words of the contract.
func readMessage(m *headgatev1.Decision, err error) (a gatetest.Answer, _ error) {
	switch {
	case err != nil:
		return a, statusError(err)
	case len(m.GetDecisionId()) != 32:
		return a, errors.New("decision_id is too short")
	}
	a = gatetest.Answer{
		Allowed: m.Allowed, Reason: reasonOf(m.Reason), Retryable: m.Retryable, BoundBy: m.BoundBy,
		Rule: m.Rule, Plan: m.Plan, Subject: m.Subject, Cost: m.Cost, Limit: m.Limit, Remaining: m.Remaining,
		RetryAfter: us(m.RetryAfterUs), ResetAfter: us(m.ResetAfterUs),
		Shadow: m.Mode == headgatev1.Mode_MODE_SHADOW, WouldDeny: reasonOf(m.WouldDeny), Degraded: m.Degraded,
		Replayed: m.Replayed, Held: m.Held, Ticket: m.Ticket, Limits: messageStates(m.Limits),
	}
	for _, c := range m.Costs {
		if a.Costs == nil {
			a.Costs = make(map[string]int64)
		}
		a.Costs[c.Unit] = c.Cost
	}
	if c := m.Candidate; c != nil {
		a.Candidate = &gatetest.Candidate{
			Allowed: c.Allowed, Reason: reasonOf(c.Reason), BoundBy: c.BoundBy, RetryAfter: us(c.RetryAfterUs), Limits: messageStates(c.Limits),
		}
	}
	return a, nil
}

// reasonOf is the name of a reason in the JSON API, taken from that of the number here.
func reasonOf(r headgatev1.Reason) string {
	if r == headgatev1.Reason_REASON_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(r.String(), "REASON_"))
}

func us(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

func messageStates(limits []*headgatev1.LimitState) []gatetest.State {
	var list []gatetest.State
	for _, l := range limits {
		s := gatetest.State{
			ID: l.Id, Owner: l.Owner, Unit: l.Unit, Allowed: l.Allowed, Limit: l.Limit, Used: l.Used, Remaining: l.Remaining,
			Overage: l.Overage, RetryAfter: us(l.RetryAfterUs), ResetAfter: us(l.ResetAfterUs), Shadow: l.Mode == headgatev1.Mode_MODE_SHADOW,
		}
		if l.ResetsAtUs != 0 {
			s.ResetsAt = time.UnixMicro(l.ResetsAtUs).UTC()
		}
		list = append(list, s)
	}
	return list
}

// OverClient asks a door in front of g through package client. All its decisions are made
// in one, so that what one leaves behind shows in the next.
func OverClient(g *Gate, c *client.Client) *Client {
	return &Client{More: localMore{g}, gate: g, client: c}
}

// Client is the way of [OverClient]. It knows no batches but atomic ones, and subjects are not
// reset there: the gate answers that.
type Client struct {
	More
	gate     *Gate
	client   *client.Client
	decision gate.Decision
}

func (o *Client) Decide(ctx context.Context, c gatetest.Call) (gatetest.Answer, error) {
	o.gate.At(c.At)
	do := o.client.Take
	if c.Peek {
		do = o.client.Peek
	}
	return o.answer(do(ctx, &c.Request, &o.decision))
}

func (o *Client) answer(err error) (gatetest.Answer, error) {
	if err != nil {
		return gatetest.Answer{}, err
	}
	return gatetest.Of(&o.decision), nil
}

func (o *Client) Reserve(ctx context.Context, c gatetest.Call, ttl time.Duration) (gatetest.Answer, error) {
	o.gate.At(c.At)
	return o.answer(o.client.Reserve(ctx, &c.Request, ttl, &o.decision))
}

func (o *Client) Claim(ctx context.Context, c gatetest.ClaimCall) (gatetest.Answer, error) {
	o.gate.At(c.At)
	do := map[headgate.Op]func(context.Context, *gate.Claim, *gate.Decision) error{
		headgate.Settle: o.client.Settle, headgate.Renew: o.client.Renew, headgate.Release: o.client.Release,
	}[c.Op]
	return o.answer(do(ctx, &c.Claim, &o.decision))
}

func (o *Client) TakeAll(ctx context.Context, at time.Time, rs []gate.Request) ([]gatetest.Answer, int, error) {
	o.gate.At(at)
	asks, ds := make([]*gate.Request, len(rs)), make([]*gate.Decision, len(rs))
	for i := range rs {
		asks[i], ds[i] = &rs[i], new(gate.Decision)
	}
	failed, err := o.client.TakeAll(ctx, asks, ds)
	if err != nil {
		return nil, failed, err
	}
	answers := make([]gatetest.Answer, len(ds))
	for i, d := range ds {
		answers[i] = gatetest.Of(d)
	}
	return answers, failed, nil
}

// Explain asks through the client.
func (o *Client) Explain(ctx context.Context, c gatetest.Call) (a gatetest.Answer, e gate.Explanation, _ error) {
	o.gate.At(c.At)
	err := o.client.Explain(ctx, &c.Request, &o.decision, &e)
	a, err = o.answer(err)
	return a, e, err
}

// Throttle asks through the client.
func (o *Client) Throttle(ctx context.Context, at time.Time, t gate.Throttle) (gatetest.Answer, error) {
	o.gate.At(at)
	return o.answer(o.client.Throttle(ctx, &t, &o.decision))
}
