package fronttest

import (
	"context"
	"math"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
)

// Envoy asks for limits as an Envoy does.
type Envoy interface {
	// Call answers descriptors of one domain that are decided together. The error, if
	// nothing was decided, is an *headgate.Error with the code.
	Call(ctx context.Context, at time.Time, domain string, ds []gatetest.Descriptor) (Verdict, error)
}

// Verdict is what an Envoy is told of a call.
type Verdict struct {
	Over     bool // the whole call is refused
	Statuses []Status
}

// Status is what an Envoy is told of one descriptor.
type Status struct {
	Over bool
	// Limited is true where a limit decided, of which Limit is the count.
	Limited bool
	Limit   int64
	// Remaining is math.MaxUint32 where a rule matched that has no limit.
	Remaining int64
	// Reset is whole seconds. Where nothing is used, it is the end of a fixed window, and 0
	// of all other limits.
	Reset time.Duration
}

// OverEnvoy asks the rate limit service of a door in front of g.
func OverEnvoy(g *Gate, conn grpc.ClientConnInterface) Envoy {
	return overEnvoy{g, pb.NewRateLimitServiceClient(conn)}
}

type overEnvoy struct {
	gate *Gate
	stub pb.RateLimitServiceClient
}

func (o overEnvoy) Call(ctx context.Context, at time.Time, domain string, ds []gatetest.Descriptor) (v Verdict, err error) {
	o.gate.At(at)
	in := &pb.RateLimitRequest{Domain: domain}
	for i := range ds {
		in.Descriptors = append(in.Descriptors, envoyMessage(&ds[i]))
	}
	out, err := o.stub.ShouldRateLimit(ctx, in)
	if err != nil {
		s := status.Convert(err)
		return v, &headgate.Error{Code: codeOf(s.Code()), Err: s.Err()}
	}
	v.Over = out.OverallCode == pb.RateLimitResponse_OVER_LIMIT
	for _, s := range out.Statuses {
		got := Status{Over: s.Code == pb.RateLimitResponse_OVER_LIMIT, Remaining: int64(s.LimitRemaining)}
		if l := s.CurrentLimit; l != nil {
			got.Limited, got.Limit, got.Reset = true, int64(l.RequestsPerUnit), s.DurationUntilReset.AsDuration()
		}
		v.Statuses = append(v.Statuses, got)
	}
	return v, nil
}

func envoyMessage(d *gatetest.Descriptor) *common.RateLimitDescriptor {
	m := &common.RateLimitDescriptor{HitsAddend: wrapperspb.UInt64(uint64(d.Hits)), IsNegativeHits: d.Back}
	for _, e := range d.Entries {
		m.Entries = append(m.Entries, &common.RateLimitDescriptor_Entry{Key: e.Key, Value: e.Value})
	}
	if d.Said != nil {
		m.Limit = &common.RateLimitDescriptor_RateLimitOverride{
			RequestsPerUnit: uint32(d.Said.Count), Unit: typev3.RateLimitUnit_SECOND, UnitMultiplier: wrapperspb.UInt32(uint32(d.Said.Period / time.Second)),
		}
	}
	return m
}

// LocalEnvoy answers by g itself, for rules that have one limit at most.
func LocalEnvoy(g *Gate) Envoy { return localEnvoy{g} }

type localEnvoy struct{ gate *Gate }

func (l localEnvoy) Call(ctx context.Context, at time.Time, domain string, ds []gatetest.Descriptor) (v Verdict, _ error) {
	l.gate.At(at)
	app := l.gate.Domain(domain)
	if app == "" {
		return v, &headgate.Error{Code: headgate.NotFound}
	}
	rs, got := make([]*gate.Request, len(ds)), make([]*gate.Decision, len(ds))
	for i, d := range ds {
		rs[i], got[i] = &gate.Request{Application: app, Descriptor: d.Entries, Said: d.Said, Cost: d.Hits, CostSaid: true}, new(gate.Decision)
	}
	if ds[0].Back {
		if err := l.gate.Refund(ctx, rs[0], got[0]); err != nil {
			return v, err
		}
	} else {
		allowed, _, err := l.gate.TakeDescriptors(ctx, rs, got)
		if err != nil {
			return v, err
		}
		v.Over = !allowed
	}
	for _, d := range got {
		v.Statuses = append(v.Statuses, statusOf(d, at))
	}
	return v, nil
}

// statusOf is what an Envoy has to be told of a decision at an instant: of a limit that
// refuses nothing remains.
func statusOf(d *gate.Decision, at time.Time) Status {
	of := gatetest.StatusOf(d)
	s := Status{Over: of.Over, Remaining: of.Remaining}
	if of.Unlimited {
		s.Remaining = math.MaxUint32
	}
	if len(d.Limits()) == 0 {
		return s
	}
	l := &d.Limits()[0]
	s.Limited, s.Limit, s.Reset = true, of.Limit, up(l.ResetAfter, time.Second)
	if s.Reset == 0 && l.Limit.Algorithm == headgate.FixedWindow {
		s.Reset = up(l.Limit.Period-time.Duration(at.UnixNano()%int64(l.Limit.Period)), time.Second)
	}
	if !l.Allowed {
		s.Remaining = 0
	}
	return s
}

// up rounds d up to whole units.
func up(d, unit time.Duration) time.Duration {
	if part := d % unit; part > 0 {
		d += unit - part
	}
	return d
}
