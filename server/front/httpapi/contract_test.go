package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
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

// overHTTP asks a door and reads its answers with encoding/json.
type overHTTP struct {
	gate *clocked
	door http.Handler
}

// TestContract: every decision of the contract is the same through this door.
func TestContract(t *testing.T) {
	gatetest.Run(t, func(t *testing.T, policy string) gatetest.Decider {
		store := memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: gatetest.Start.UnixMicro()})
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: store})
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
	body, err := json.Marshal(wire(&c.Request))
	if err != nil {
		return gatetest.Answer{}, err
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(string(body)))
	r.Header.Set("Content-Type", "application/json")
	o.door.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		return gatetest.Answer{}, failure(w)
	}
	var a answer
	dec := json.NewDecoder(w.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&a); err != nil {
		return gatetest.Answer{}, err
	}
	return a.read()
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
	return m
}

// failure is a problem as the error that it was.
func failure(w *httptest.ResponseRecorder) error {
	var p struct{ Type, Detail, Field string }
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		return fmt.Errorf("status %d: %w", w.Code, err)
	}
	code := map[int]headgate.Code{400: headgate.InvalidRequest, 404: headgate.NotFound}[w.Code]
	return &headgate.Error{Code: code, Field: p.Field, Err: errors.New(strings.TrimPrefix(p.Detail, p.Field+": "))}
}

// read is the answer in the words of the contract.
func (a *answer) read() (gatetest.Answer, error) {
	ms := func(v *int64) time.Duration { return time.Duration(or(v)) * time.Millisecond }
	got := gatetest.Answer{
		Allowed: a.Allowed, Reason: a.Reason, Retryable: a.Retryable, BoundBy: or(a.BoundBy),
		Rule: a.Rule, Plan: a.Plan, Subject: a.Subject, Cost: a.Cost, Limit: or(a.Limit), Remaining: or(a.Remaining),
		RetryAfter: ms(a.RetryAfterMS), ResetAfter: ms(a.ResetAfterMS),
		Shadow: a.Mode == "shadow", WouldDeny: or(a.WouldDeny), Degraded: or(a.Degraded),
	}
	for i := range a.Limits {
		l := &a.Limits[i]
		s := gatetest.State{
			ID: l.ID, Owner: l.Owner, Unit: l.Unit, Allowed: l.Allowed, Limit: l.Limit, Used: l.Used, Remaining: l.Remaining,
			Overage: l.Overage, RetryAfter: ms(l.RetryAfterMS), ResetAfter: ms(&l.ResetAfterMS), Shadow: l.Mode == "shadow",
		}
		if l.ResetsAt != nil {
			at, err := time.Parse(time.RFC3339, *l.ResetsAt)
			if err != nil {
				return got, err
			}
			s.ResetsAt = at.UTC()
		}
		got.Limits = append(got.Limits, s)
	}
	return got, nil
}

// or is what p points to, the zero value for null.
func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
