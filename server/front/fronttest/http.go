package fronttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
)

// OverHTTP asks the JSON API of a door in front of g, and reads its answers with
// encoding/json.
func OverHTTP(g *Gate, door http.Handler) HTTP { return HTTP{localMore{g}, g, door} }

// HTTP is the way of [OverHTTP]. Subjects are not reset there: the gate answers that.
type HTTP struct {
	More
	gate *Gate
	door http.Handler
}

func (o HTTP) Decide(ctx context.Context, c gatetest.Call) (gatetest.Answer, error) {
	o.gate.At(c.At)
	path := "/v1/take"
	if c.Peek {
		path = "/v1/peek"
	}
	return o.decide(ctx, path, jsonOf(&c.Request))
}

func (o HTTP) Reserve(ctx context.Context, c gatetest.Call, ttl time.Duration) (gatetest.Answer, error) {
	o.gate.At(c.At)
	body := jsonOf(&c.Request)
	if ttl != 0 {
		body["ttl_ms"] = ttl.Milliseconds()
	}
	return o.decide(ctx, "/v1/reserve", body)
}

func (o HTTP) Claim(ctx context.Context, c gatetest.ClaimCall) (gatetest.Answer, error) {
	o.gate.At(c.At)
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

func (o HTTP) TakeAll(ctx context.Context, at time.Time, rs []gate.Request) ([]gatetest.Answer, int, error) {
	o.gate.At(at)
	items := make([]map[string]any, len(rs))
	for i := range rs {
		items[i] = jsonOf(&rs[i])
	}
	var got struct {
		Results []struct {
			Decision *jsonDecision `json:"decision"`
		} `json:"results"`
	}
	if err := o.post(ctx, "/v1/take/batch", map[string]any{"items": items, "atomic": true}, &got); err != nil {
		failed, err := itemOf(err)
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

// Explain asks /v1/explain.
func (o HTTP) Explain(ctx context.Context, c gatetest.Call) (a gatetest.Answer, e gate.Explanation, err error) {
	o.gate.At(c.At)
	var got struct {
		Decision    jsonDecision
		Explanation struct {
			Verdict string
			Steps   []struct{ About, Text string }
		}
	}
	if err := o.post(ctx, "/v1/explain", jsonOf(&c.Request), &got); err != nil {
		return a, e, err
	}
	e.Verdict = got.Explanation.Verdict
	for _, s := range got.Explanation.Steps {
		e.Steps = append(e.Steps, gate.Step(s))
	}
	a, err = got.Decision.read()
	return a, e, err
}

// Throttle asks /v1/throttle, which cannot only look: the gate does.
func (o HTTP) Throttle(ctx context.Context, at time.Time, t gate.Throttle) (gatetest.Answer, error) {
	if t.Peek {
		return o.More.Throttle(ctx, at, t)
	}
	o.gate.At(at)
	rate := fmt.Sprintf("%d/%dms", t.Count, t.Period.Milliseconds())
	return o.decide(ctx, "/v1/throttle", map[string]any{"key": t.Key, "rate": rate, "burst": t.Burst, "cost": t.Cost})
}

// TakeEach asks for a batch that is not atomic.
func (o HTTP) TakeEach(ctx context.Context, at time.Time, rs []gate.Request) ([]Result, error) {
	o.gate.At(at)
	items := make([]map[string]any, len(rs))
	for i := range rs {
		items[i] = jsonOf(&rs[i])
	}
	var got struct {
		Results []struct {
			Decision *jsonDecision
			Problem  *jsonProblem
		}
	}
	if err := o.post(ctx, "/v1/take/batch", map[string]any{"items": items}, &got); err != nil {
		return nil, err
	}
	list := make([]Result, len(got.Results))
	for i, r := range got.Results {
		if r.Problem != nil {
			list[i].Err = ofItem(i, r.Problem.error())
			continue
		}
		list[i].Answer, list[i].Err = r.Decision.read()
	}
	return list, nil
}

// ofItem is the error of item i of a batch as that of the item alone.
func ofItem(i int, err error) error {
	failed, err := itemOf(err)
	if failed != i {
		return fmt.Errorf("item %d, not %d: %w", failed, i, err)
	}
	return err
}

// itemOf is the error of a batch as that of the item at fault, if it is one's.
func itemOf(err error) (failed int, _ error) {
	e, ok := errors.AsType[*headgate.Error](err)
	if !ok {
		return -1, err
	}
	rest, ok := strings.CutPrefix(e.Field, "items.")
	if !ok {
		return -1, err
	}
	number, field, _ := strings.Cut(rest, ".")
	failed, wrong := strconv.Atoi(number)
	if wrong != nil {
		return -1, err
	}
	return failed, &headgate.Error{Code: e.Code, Field: field, Err: e.Err}
}

func (o HTTP) decide(ctx context.Context, path string, body map[string]any) (gatetest.Answer, error) {
	a := new(jsonDecision)
	if err := o.post(ctx, path, body, a); err != nil {
		return gatetest.Answer{}, err
	}
	return a.read()
}

// post sends body and reads what comes back.
func (o HTTP) post(ctx context.Context, path string, body map[string]any, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(string(text)))
	r.Header.Set("Content-Type", "application/json")
	o.door.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		return problemOf(w)
	}
	dec := json.NewDecoder(w.Body)
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

// problemOf is a problem as the error that it was.
func problemOf(w *httptest.ResponseRecorder) error {
	var p jsonProblem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		return fmt.Errorf("status %d: %w", w.Code, err)
	}
	if p.Status != w.Code {
		return fmt.Errorf("status %d, and %d in the problem", w.Code, p.Status)
	}
	return p.error()
}

// jsonProblem is an error as it is sent.
type jsonProblem struct {
	Type, Title, Detail, Field string
	Status                     int
	Errors                     []struct{ Pointer, Detail string }
}

func (p *jsonProblem) error() error {
	code := map[int]headgate.Code{400: headgate.InvalidRequest, 404: headgate.NotFound, 422: headgate.Conflict, 503: headgate.Unavailable}[p.Status]
	return &headgate.Error{Code: code, Field: p.Field, Err: errors.New(strings.TrimPrefix(p.Detail, p.Field+": "))}
}

// jsonOf is r as a client writes it.
func jsonOf(r *gate.Request) map[string]any {
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

// jsonDecision has every field of an answer.
type jsonDecision struct {
	DecisionID     string           `json:"decision_id"`
	Allowed        bool             `json:"allowed"`
	Reason         string           `json:"reason"`
	BoundBy        *string          `json:"bound_by"`
	Retryable      bool             `json:"retryable"`
	Application    string           `json:"application"`
	Rule           string           `json:"rule"`
	Operation      string           `json:"operation"`
	Subject        string           `json:"subject"`
	Plan           string           `json:"plan"`
	Cost           int64            `json:"cost"`
	Costs          map[string]int64 `json:"costs"`
	Limit          *int64           `json:"limit"`
	Remaining      *int64           `json:"remaining"`
	RetryAfterMS   *int64           `json:"retry_after_ms"`
	ResetAfterMS   *int64           `json:"reset_after_ms"`
	Limits         []jsonLimit      `json:"limits"`
	Mode           string           `json:"mode"`
	WouldDeny      *string          `json:"would_deny"`
	Candidate      *jsonCandidate   `json:"candidate"`
	Degraded       *string          `json:"degraded"`
	Replayed       bool             `json:"replayed"`
	WaitedMS       int64            `json:"waited_ms"`
	Ticket         *string          `json:"ticket"`
	PolicyRevision uint64           `json:"policy_revision"`
	DelayMS        int64            `json:"delay_ms"`
	Message        string           `json:"message"`
	Held           *bool            `json:"held"`
}

type jsonCandidate struct {
	Allowed      bool        `json:"allowed"`
	Reason       string      `json:"reason"`
	BoundBy      *string     `json:"bound_by"`
	RetryAfterMS *int64      `json:"retry_after_ms"`
	Limits       []jsonLimit `json:"limits"`
}

type jsonLimit struct {
	ID           string  `json:"id"`
	Algorithm    string  `json:"algorithm"`
	Owner        string  `json:"owner"`
	Unit         string  `json:"unit"`
	Allowed      bool    `json:"allowed"`
	Limit        int64   `json:"limit"`
	Used         int64   `json:"used"`
	Remaining    int64   `json:"remaining"`
	Overage      int64   `json:"overage"`
	Rollover     int64   `json:"rollover"`
	RetryAfterMS *int64  `json:"retry_after_ms"`
	ResetAfterMS int64   `json:"reset_after_ms"`
	ResetsAt     *string `json:"resets_at"`
	Mode         string  `json:"mode"`
	Exact        bool    `json:"exact"`
	Recovering   bool    `json:"recovering"`
}

// read is the answer in the words of the contract.
func (a *jsonDecision) read() (got gatetest.Answer, err error) {
	got = gatetest.Answer{
		Allowed: a.Allowed, Reason: a.Reason, Retryable: a.Retryable, BoundBy: or(a.BoundBy),
		Rule: a.Rule, Plan: a.Plan, Subject: a.Subject, Cost: a.Cost, Limit: or(a.Limit), Remaining: or(a.Remaining),
		RetryAfter: ms(or(a.RetryAfterMS)), ResetAfter: ms(or(a.ResetAfterMS)),
		Shadow: a.Mode == "shadow", WouldDeny: or(a.WouldDeny), Degraded: or(a.Degraded),
		Replayed: a.Replayed, Held: or(a.Held), Ticket: or(a.Ticket),
	}
	if len(a.Costs) > 0 {
		got.Costs = a.Costs
	}
	if c := a.Candidate; c != nil {
		got.Candidate = &gatetest.Candidate{Allowed: c.Allowed, Reason: c.Reason, BoundBy: or(c.BoundBy), RetryAfter: ms(or(c.RetryAfterMS))}
		if got.Candidate.Limits, err = jsonStates(c.Limits); err != nil {
			return got, err
		}
	}
	got.Limits, err = jsonStates(a.Limits)
	return got, err
}

func jsonStates(limits []jsonLimit) ([]gatetest.State, error) {
	var list []gatetest.State
	for i := range limits {
		l := &limits[i]
		s := gatetest.State{
			ID: l.ID, Owner: l.Owner, Unit: l.Unit, Allowed: l.Allowed, Limit: l.Limit, Used: l.Used, Remaining: l.Remaining,
			Overage: l.Overage, RetryAfter: ms(or(l.RetryAfterMS)), ResetAfter: ms(l.ResetAfterMS), Shadow: l.Mode == "shadow",
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

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// or is what p points to, the zero value for null.
func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
