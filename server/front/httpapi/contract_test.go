package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/store/memstore"
)

// clocked is a gate that decides at an instant of the test's.
type clocked struct {
	*gate.Gate
	now int64
}

func (c *clocked) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	r.Now = c.now
	return c.Gate.Take(ctx, r, d)
}

func (c *clocked) Peek(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	r.Now = c.now
	return c.Gate.Peek(ctx, r, d)
}

func (c *clocked) Explain(ctx context.Context, r *gate.Request, d *gate.Decision, e *gate.Explanation) error {
	r.Now = c.now
	return c.Gate.Explain(ctx, r, d, e)
}

func (c *clocked) Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error {
	r.Now = c.now
	return c.Gate.Reserve(ctx, r, ttl, d)
}

func (c *clocked) Settle(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	q.Now = c.now
	return c.Gate.Settle(ctx, q, d)
}

func (c *clocked) Renew(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	q.Now = c.now
	return c.Gate.Renew(ctx, q, d)
}

func (c *clocked) Release(ctx context.Context, q *gate.Claim, d *gate.Decision) error {
	q.Now = c.now
	return c.Gate.Release(ctx, q, d)
}

func (c *clocked) TakeAll(ctx context.Context, rs []*gate.Request, ds []*gate.Decision) (int, error) {
	for _, r := range rs {
		r.Now = c.now
	}
	return c.Gate.TakeAll(ctx, rs, ds)
}

// overHTTP asks a door and reads its answers with encoding/json.
type overHTTP struct {
	gate *clocked
	door http.Handler
}

// TestContract: every decision of the contract is the same through this door.
func TestContract(t *testing.T) {
	gatetest.Run(t, func(t *testing.T, policy string) gatetest.Holder {
		store := memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: gatetest.Start.UnixMicro()})
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: store})
		if err != nil {
			t.Fatal(err)
		}
		c := &clocked{Gate: g}
		return overHTTP{c, New(Config{Gate: c})}
	})
}

// TestContractAway: and so is every one without the store.
func TestContractAway(t *testing.T) {
	gatetest.RunAway(t, func(t *testing.T, policy string, wrap func(headgate.Store) headgate.Store) gatetest.Holder {
		memory := func() headgate.Store {
			return memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: gatetest.Start.UnixMicro()})
		}
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: wrap(memory()), Local: memory()})
		if err != nil {
			t.Fatal(err)
		}
		c := &clocked{Gate: g}
		return overHTTP{c, New(Config{Gate: c})}
	})
}

func (o overHTTP) Decide(ctx context.Context, c gatetest.Call) (gatetest.Answer, error) {
	o.gate.now = c.At.UnixMicro()
	path := "/v1/take"
	if c.Peek {
		path = "/v1/peek"
	}
	return o.decide(ctx, path, wire(&c.Request))
}

func (o overHTTP) Reserve(ctx context.Context, c gatetest.Call, ttl time.Duration) (gatetest.Answer, error) {
	o.gate.now = c.At.UnixMicro()
	body := wire(&c.Request)
	body["ttl_ms"] = ttl.Milliseconds()
	return o.decide(ctx, "/v1/reserve", body)
}

func (o overHTTP) Claim(ctx context.Context, c gatetest.ClaimCall) (gatetest.Answer, error) {
	o.gate.now = c.At.UnixMicro()
	q := &c.Claim
	body := map[string]any{"ticket": q.Ticket, "application": q.Application}
	if q.CostSaid {
		body["cost"] = q.Cost
	}
	if q.Costs != nil {
		body["costs"] = q.Costs
	}
	if q.TTL != 0 {
		body["ttl_ms"] = q.TTL.Milliseconds()
	}
	return o.decide(ctx, "/v1/"+c.Op.String(), body)
}

func (o overHTTP) TakeAll(ctx context.Context, at time.Time, rs []gate.Request) ([]gatetest.Answer, int, error) {
	o.gate.now = at.UnixMicro()
	items := make([]map[string]any, len(rs))
	for i := range rs {
		items[i] = wire(&rs[i])
	}
	var got struct {
		Results []struct {
			Decision *answer `json:"decision"`
		} `json:"results"`
	}
	if err := o.post(ctx, "/v1/take/batch", map[string]any{"items": items, "atomic": true}, &got); err != nil {
		e, _ := errors.AsType[*headgate.Error](err)
		failed := -1
		if field := strings.SplitN(e.Field, ".", 3); len(field) == 3 {
			failed, _ = strconv.Atoi(field[1])
			e.Field = field[2]
		}
		return nil, failed, err
	}
	answers := make([]gatetest.Answer, len(got.Results))
	for i, r := range got.Results {
		a, err := r.Decision.read()
		if err != nil {
			return nil, -1, err
		}
		answers[i] = a
	}
	return answers, -1, nil
}

func (o overHTTP) decide(ctx context.Context, path string, body map[string]any) (gatetest.Answer, error) {
	a := new(answer)
	if err := o.post(ctx, path, body, a); err != nil {
		return gatetest.Answer{}, err
	}
	return a.read()
}

// post sends body and reads what comes back.
func (o overHTTP) post(ctx context.Context, path string, body map[string]any, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(string(text)))
	r.Header.Set("Content-Type", "application/json")
	o.door.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		return failure(w)
	}
	dec := json.NewDecoder(w.Body)
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

// wire is r as a client writes it.
func wire(r *gate.Request) map[string]any {
	request := map[string]any{"method": r.Method, "path": r.Path, "host": r.Host}
	if r.IP.IsValid() {
		request["ip"] = r.IP.String()
	}
	if len(r.Headers) > 0 {
		request["headers"] = r.Headers
	}
	m := map[string]any{
		"application": r.Application, "operation": r.Operation, "subject": r.Subject, "plan": r.Plan, "request": request,
	}
	if r.CostSaid {
		m["cost"] = r.Cost
	}
	if r.Attributes != nil {
		m["attributes"] = r.Attributes
	}
	if r.Costs != nil {
		m["costs"] = r.Costs
	}
	if r.IdempotencyKey != "" {
		m["idempotency_key"] = r.IdempotencyKey
	}
	if r.MaxWaitSaid {
		m["max_wait_ms"] = r.MaxWait.Milliseconds()
	}
	return m
}

// failure is a problem as the error that it was.
func failure(w *httptest.ResponseRecorder) error {
	var p struct{ Type, Detail, Field string }
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		return fmt.Errorf("status %d: %w", w.Code, err)
	}
	code := map[int]headgate.Code{400: headgate.InvalidRequest, 404: headgate.NotFound, 422: headgate.Conflict, 503: headgate.Unavailable}[w.Code]
	return &headgate.Error{Code: code, Field: p.Field, Err: errors.New(strings.TrimPrefix(p.Detail, p.Field+": "))}
}

// read is the answer in the words of the contract.
func (a *answer) read() (got gatetest.Answer, err error) {
	got = gatetest.Answer{
		Allowed: a.Allowed, Reason: a.Reason, Retryable: a.Retryable, BoundBy: or(a.BoundBy),
		Rule: a.Rule, Plan: a.Plan, Subject: a.Subject, Cost: a.Cost, Limit: or(a.Limit), Remaining: or(a.Remaining),
		RetryAfter: ms(a.RetryAfterMS), ResetAfter: ms(a.ResetAfterMS),
		Shadow: a.Mode == "shadow", WouldDeny: or(a.WouldDeny), Degraded: or(a.Degraded),
		Replayed: a.Replayed, Held: or(a.Held), Ticket: or(a.Ticket),
	}
	if len(a.Costs) > 0 {
		got.Costs = a.Costs
	}
	if c := a.Candidate; c != nil {
		got.Candidate = &gatetest.Candidate{Allowed: c.Allowed, Reason: c.Reason, BoundBy: or(c.BoundBy), RetryAfter: ms(c.RetryAfterMS)}
		if got.Candidate.Limits, err = states(c.Limits); err != nil {
			return got, err
		}
	}
	got.Limits, err = states(a.Limits)
	return got, err
}

func ms(v *int64) time.Duration { return time.Duration(or(v)) * time.Millisecond }

func states(limits []answerLimit) ([]gatetest.State, error) {
	var list []gatetest.State
	for i := range limits {
		l := &limits[i]
		s := gatetest.State{
			ID: l.ID, Owner: l.Owner, Unit: l.Unit, Allowed: l.Allowed, Limit: l.Limit, Used: l.Used, Remaining: l.Remaining,
			Overage: l.Overage, RetryAfter: ms(l.RetryAfterMS), ResetAfter: ms(&l.ResetAfterMS), Shadow: l.Mode == "shadow",
		}
		if l.ResetsAt != nil {
			at, err := time.Parse(time.RFC3339, *l.ResetsAt)
			if err != nil {
				return nil, err
			}
			s.ResetsAt = at.UTC()
		}
		list = append(list, s)
	}
	return list, nil
}

// or is what p points to, the zero value for null.
func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
