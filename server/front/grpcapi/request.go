package grpcapi

import (
	"net/http"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/front"
)

// ask is a request as it was read, and what it points to, which is used again for the
// next one.
type ask struct {
	req     gate.Request
	head    http.Header
	entries []gate.Entry
}

// maxKept is the number of headers or entries above which a request's are left to the
// collector instead of being used again.
const maxKept = 64

func (a *ask) reset() {
	a.req = gate.Request{}
	if len(a.head) > maxKept {
		a.head = nil
	}
	clear(a.head)
	if cap(a.entries) > maxKept {
		a.entries = nil
	}
	clear(a.entries)
	a.entries = a.entries[:0]
}

// read reads in, of which the request's strings and maps are parts; nil is an empty
// one.
func (a *ask) read(in *headgatev1.TakeRequest) error {
	if in == nil {
		return nil
	}
	r := &a.req
	r.Application, r.Operation, r.Subject, r.Plan = in.Application, in.Operation, in.Subject, in.Plan
	r.IdempotencyKey = in.IdempotencyKey
	if in.Cost != nil {
		r.Cost, r.CostSaid = *in.Cost, true
	}
	if in.MaxWaitMs != nil {
		ms, most := *in.MaxWaitMs, policy.MaxMaxWait.Milliseconds()
		if ms < 0 || ms > most {
			return invalid("max_wait_ms", "%d: must be 0 to %d, which is %v", ms, most, policy.MaxMaxWait)
		}
		r.MaxWait, r.MaxWaitSaid = time.Duration(ms)*time.Millisecond, true
	}
	if in.WaitCapMs < 0 {
		return invalid("wait_cap_ms", "%d: must not be negative", in.WaitCapMs)
	}
	r.WaitCap = time.Duration(min(in.WaitCapMs, policy.MaxMaxWait.Milliseconds())) * time.Millisecond
	r.NoWait, r.Releases = in.NoWait, !in.NoRelease
	if err := checkCosts(in.Costs); err != nil {
		return err
	}
	r.Costs, r.Attributes = in.Costs, in.Attributes
	for _, e := range in.Descriptor_ {
		a.entries = append(a.entries, gate.Entry{Key: e.Key, Value: e.Value})
	}
	if len(a.entries) > 0 {
		r.Descriptor = a.entries
	}
	if in.Request != nil {
		return a.request(in.Request)
	}
	return nil
}

// request reads the description of the HTTP request that is to be decided on.
func (a *ask) request(in *headgatev1.HttpRequest) error {
	r := &a.req
	r.Method, r.Path, r.Host, r.Stranger = in.Method, in.Path, in.Host, in.Stranger
	var err error
	if r.IP, err = front.Address("request.ip", in.Ip); err != nil {
		return err
	}
	for _, h := range in.Headers {
		name := http.CanonicalHeaderKey(h.Name)
		if _, is := a.head[name]; is {
			return invalid("request.headers."+h.Name, "given twice")
		}
		if a.head == nil {
			a.head = make(http.Header)
		}
		a.head[name] = h.Values
		r.Headers = a.head
	}
	return nil
}

// checkCosts looks at the units; at the numbers the gate does.
func checkCosts(costs map[string]int64) error {
	if len(costs) > front.MaxUnits {
		return invalid("costs", "more than %d units", front.MaxUnits)
	}
	for unit := range costs {
		if err := headgate.CheckName(unit); err != nil {
			return invalid("costs", "%w", err)
		}
	}
	return nil
}

// hold is for how long something is held; 0 if it was not said.
func hold(ms int64) (time.Duration, error) {
	if ms == 0 {
		return 0, nil
	}
	return front.Hold(ms)
}
