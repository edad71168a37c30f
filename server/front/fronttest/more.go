package fronttest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
)

// More is what some doors can be asked besides.
type More interface {
	// Explain answers c and says how that came about; c.Peek counts for nothing.
	Explain(ctx context.Context, c gatetest.Call) (gatetest.Answer, gate.Explanation, error)
	// Throttle takes from a bucket that t describes.
	Throttle(ctx context.Context, at time.Time, t gate.Throttle) (gatetest.Answer, error)
	// TakeEach answers requests that are decided one after the other.
	TakeEach(ctx context.Context, at time.Time, rs []gate.Request) ([]Result, error)
	// Reset forgets what a subject has used of the limits with the ids, nil for all but
	// bans, and answers with their states and the subject's plan.
	Reset(ctx context.Context, at time.Time, application, subject string, limits []string) (gatetest.Answer, error)
}

// Result is what came of one request of several: an answer or an error.
type Result struct {
	Answer gatetest.Answer
	Err    error
}

// LocalMore asks g itself.
func LocalMore(g *Gate) More { return localMore{g} }

type localMore struct{ gate *Gate }

func (l localMore) Explain(ctx context.Context, c gatetest.Call) (a gatetest.Answer, e gate.Explanation, err error) {
	l.gate.At(c.At)
	var d gate.Decision
	if err := l.gate.Explain(ctx, &c.Request, &d, &e); err != nil {
		return a, e, err
	}
	return gatetest.Of(&d), e, nil
}

func (l localMore) Throttle(ctx context.Context, at time.Time, t gate.Throttle) (a gatetest.Answer, err error) {
	l.gate.At(at)
	var d gate.Decision
	if err := l.gate.Throttle(ctx, &t, &d); err != nil {
		return a, err
	}
	return gatetest.Of(&d), nil
}

func (l localMore) TakeEach(ctx context.Context, at time.Time, rs []gate.Request) ([]Result, error) {
	l.gate.At(at)
	list := make([]Result, len(rs))
	for i, r := range rs {
		if r.MaxWait > 0 {
			list[i].Err = &headgate.Error{Code: headgate.InvalidRequest, Field: "max_wait_ms", Err: errors.New("items do not wait")}
			continue
		}
		r.NoWait = true
		var d gate.Decision
		if list[i].Err = l.gate.Take(ctx, &r, &d); list[i].Err == nil {
			list[i].Answer = gatetest.Of(&d)
		}
	}
	return list, nil
}

func (l localMore) Reset(ctx context.Context, at time.Time, application, subject string, limits []string) (a gatetest.Answer, _ error) {
	l.gate.At(at)
	st, err := l.gate.Reset(ctx, application, subject, func(s *gate.LimitState) bool {
		if limits == nil {
			return s.Limit.Algorithm != headgate.Ban
		}
		return slices.ContainsFunc(limits, func(id string) bool { return s.ID == id || strings.HasSuffix(s.ID, "/"+id) })
	})
	switch {
	case err != nil:
		return a, err
	case len(st.Limits) == 0:
		return a, &headgate.Error{Code: headgate.NotFound, Field: "limits", Err: errors.New("there is none")}
	}
	return gatetest.Answer{Subject: subject, Plan: st.Plan, Limits: gatetest.States(st.Limits)}, nil
}

// clocked is a store whose clock is that of the test.
type clocked struct {
	headgate.Store
	gate *Gate
}

// Now returns the test's instant.
func (c clocked) Now() int64 { return c.gate.Now() }

// Apply does b at the test's instant, if it brings none.
func (c clocked) Apply(ctx context.Context, b *headgate.Batch) error {
	if b.Now == 0 {
		b.Now = c.Now()
	}
	return c.Store.Apply(ctx, b)
}
