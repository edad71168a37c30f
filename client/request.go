package client

import (
	"fmt"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
)

// asked is a request as it is sent. The messages refer to what the request refers to.
type asked struct {
	take    headgatev1.TakeRequest
	request headgatev1.HttpRequest
	cost    int64
	wait    int64
}

func (a *asked) reset() {
	a.take.Reset()
	a.request.Reset()
}

// fill makes a say what r does.
func (a *asked) fill(r *gate.Request) error {
	if r.Said != nil {
		return invalid("descriptor", "a limit that the caller says crosses no wire")
	}
	t := &a.take
	t.Application, t.Operation, t.Subject, t.Plan = r.Application, r.Operation, r.Subject, r.Plan
	t.Costs, t.Attributes, t.IdempotencyKey = r.Costs, r.Attributes, r.IdempotencyKey
	t.NoWait, t.WaitCapMs, t.NoRelease = r.NoWait, millis(r.WaitCap), !r.Releases
	if r.CostSaid {
		a.cost = r.Cost
		t.Cost = &a.cost
	}
	if r.MaxWaitSaid {
		a.wait = r.MaxWait.Milliseconds()
		t.MaxWaitMs = &a.wait
	}
	for _, e := range r.Descriptor {
		t.Descriptor_ = append(t.Descriptor_, &headgatev1.DescriptorEntry{Key: e.Key, Value: e.Value})
	}
	if r.Method == "" && r.Path == "" && r.Host == "" && !r.IP.IsValid() && len(r.Headers) == 0 {
		return nil
	}
	h := &a.request
	t.Request = h
	h.Method, h.Path, h.Host, h.Stranger = r.Method, r.Path, r.Host, r.Stranger
	if r.IP.IsValid() {
		h.Ip = r.IP.String()
	}
	for name, lines := range r.Headers {
		h.Headers = append(h.Headers, &headgatev1.Header{Name: name, Values: lines})
	}
	return nil
}

// hold is for how long something is held; 0 stays 0.
func hold(ttl time.Duration) (int64, error) {
	if ttl < 0 || ttl > 0 && ttl < time.Millisecond {
		return 0, invalid("ttl_ms", "%v: must be 1 ms to %v", ttl, headgate.MaxHold)
	}
	return millis(ttl), nil
}

// millis rounds up.
func millis(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d%time.Millisecond > 0 {
		ms++
	}
	return ms
}

func invalid(field, format string, args ...any) error {
	return &headgate.Error{Code: headgate.InvalidRequest, Field: field, Err: fmt.Errorf(format, args...)}
}
