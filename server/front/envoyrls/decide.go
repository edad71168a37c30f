package envoyrls

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
)

// decide checks the call and asks the gate.
func (s *Service) decide(ctx context.Context, c *call) error {
	if err := c.check(); err != nil {
		return err
	}
	c.application, c.caller = s.Gate.Domain(c.domain), front.Of(ctx)
	if c.application == "" || !c.caller.Reaches(c.application) {
		if s.UnknownDomain == AnswerOK {
			return nil
		}
		return status.Errorf(codes.NotFound, "domain: %.64q is not in the policy", c.domain)
	}
	var now int64
	if s.Now != nil {
		now = s.Now()
	}
	refunds := false
	for i, it := range c.items[:c.n] {
		if err := it.request(c, now, s.Patience); err != nil {
			return invalid("descriptors[%d].%v", i, err)
		}
		refunds = refunds || it.negative
		if !it.negative {
			c.rs, c.ds = append(c.rs, &it.req), append(c.ds, &it.d)
		}
	}
	if refunds && !c.caller.Operates() {
		return status.Error(codes.PermissionDenied, "is_negative_hits: only callers that may operate give hits back: send a token with the scopes decide and operate")
	}
	c.began = time.Now()
	if len(c.rs) > 0 {
		if err := s.take(ctx, c); err != nil {
			return err
		}
	}
	took := time.Since(c.began)
	for _, it := range c.items[:c.n] {
		if it.decided {
			s.Decided(&it.d, took)
			it.count(s.Counted)
		}
	}
	if refunds && !c.over {
		return s.refund(ctx, c)
	}
	return nil
}

// check refuses calls that cannot be decided.
func (c *call) check() error {
	switch {
	case c.domain == "":
		return invalid("domain: is required")
	case c.n == 0:
		return invalid("descriptors: at least one is required")
	case c.excess:
		return invalid("descriptors: more than %d", MaxDescriptors)
	}
	for i, it := range c.items[:c.n] {
		switch {
		case len(it.entries) == 0:
			return invalid("descriptors[%d].entries: at least one is required", i)
		case it.excess:
			return invalid("descriptors[%d].entries: more than %d", i, MaxEntries)
		}
		for j := range it.entries {
			if it.entries[j].Key == "" {
				return invalid("descriptors[%d].entries[%d].key: is required", i, j)
			}
		}
	}
	return nil
}

// take decides the descriptors in rs.
func (s *Service) take(ctx context.Context, c *call) error {
	if !s.AfterTheFact {
		return s.ask(ctx, c)
	}
	checks := 0
	for _, it := range c.items[:c.n] {
		if it.checks() {
			checks++
		}
	}
	if checks > 0 {
		if over, err := s.look(ctx, c); over || err != nil || checks == len(c.rs) {
			return err
		}
		for _, r := range c.rs {
			r.Patience = max(1, s.left(c)) // 0 would be no bound
		}
	}
	err := s.ask(ctx, c)
	if err == nil && c.over {
		s.drain(ctx, c)
	}
	return err
}

// ask lets the gate decide, and makes the overall code of it.
func (s *Service) ask(ctx context.Context, c *call) error {
	allowed, _, err := s.Gate.TakeDescriptors(ctx, c.rs, c.ds)
	if err != nil {
		return err
	}
	c.over = !allowed
	for _, it := range c.items[:c.n] {
		if it.decided = !it.negative; it.decided && !it.d.Allowed && it.d.Reason == headgate.StoreUnavailable {
			return &headgate.Error{Code: headgate.Unavailable, Err: errors.New("the store is away, and the limits are closed then")}
		}
	}
	return nil
}

// look asks what remains, and refuses the call where the checks find nothing: that is
// known before anything is charged.
func (s *Service) look(ctx context.Context, c *call) (over bool, err error) {
	for _, r := range c.rs {
		r.Cost, r.CostSaid = 0, true
	}
	if err := s.ask(ctx, c); err != nil || c.over {
		return true, err
	}
	quotas, passed, strict := 0, 0, false
	for _, it := range c.items[:c.n] {
		if it.negative {
			continue
		}
		empty, quota := it.exhausted()
		it.empty = it.checks() && empty
		switch {
		case !quota:
			strict = strict || it.empty
		case it.empty:
			quotas++
		default:
			quotas++
			passed++
		}
		it.cost(c)
	}
	c.over = strict || quotas > 0 && passed == 0
	return c.over, nil
}

// left returns how long the store may still take to decide the call: all that is asked of
// it has the time of one decision.
func (s *Service) left(c *call) time.Duration { return s.Patience - time.Since(c.began) }

var errLate = errors.New("the store took too long to decide the call")

// drain takes what remains of the limits that refuse hits which are there already.
func (s *Service) drain(ctx context.Context, c *call) {
	for _, it := range c.items[:c.n] {
		remains := it.remains()
		if !it.decided || !it.hitsSaid || remains == 0 {
			continue
		}
		if c.spare == nil {
			c.spare = new(gate.Decision)
		}
		r := it.req
		r.Cost, r.Patience = remains, s.left(c)
		err := errLate
		if r.Patience > 0 {
			// Where others were faster, there is less, and the next check finds out.
			_, _, err = s.Gate.TakeDescriptors(ctx, []*gate.Request{&r}, []*gate.Decision{c.spare})
		}
		switch {
		case err != nil:
			s.faults.Log(s.Logger, slog.LevelWarn, "drain", "hits that did not fit were not counted", "application", c.application, "error", err)
		case c.spare.Allowed:
			it.drained = remains
			s.Decided(c.spare, time.Since(c.began))
		}
	}
}

// refund gives back what the call says.
func (s *Service) refund(ctx context.Context, c *call) error {
	for _, it := range c.items[:c.n] {
		if !it.negative {
			continue
		}
		it.req.Patience = max(1, s.left(c))
		if err := s.Gate.Refund(ctx, &it.req, &it.d); err != nil {
			return err
		}
		it.decided = true
		s.Corrected(&it.d)
	}
	return nil
}
