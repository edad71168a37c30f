package envoyrls

import (
	"context"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/envoy/envoytest"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/store/memstore"
)

// overGRPC asks a door as an Envoy does.
type overGRPC struct {
	*house
	last []int64 // what remained of the limit of each descriptor of the last call
}

// TestContract: every call of the contract gets the same answer through this door.
func TestContract(t *testing.T) {
	gatetest.RunDescriptors(t, func(t *testing.T, policy string) gatetest.Caller {
		store := memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: gatetest.Start.UnixMicro()})
		o := new(overGRPC)
		o.house = openOn(t, gate.Config{Policy: []byte(policy), Store: store}, func(c *Config) {
			c.UnknownDomain = AnswerOK
			c.Decided = func(d *gate.Decision, _ time.Duration) { o.last = append(o.last, gatetest.StatusOf(d).Remaining) }
		})
		o.caller = operator{}
		return o
	})
}

func (o *overGRPC) Call(ctx context.Context, at time.Time, domain string, descriptors []gatetest.Descriptor) (v gatetest.Verdict, err error) {
	o.now, o.last = at, nil
	request := &pb.RateLimitRequest{Domain: domain}
	for i := range descriptors {
		request.Descriptors = append(request.Descriptors, toMessage(&descriptors[i]))
	}
	r, err := o.send(request)
	if err != nil {
		return v, err
	}
	v.Over = r.OverallCode == pb.RateLimitResponse_OVER_LIMIT
	for i, s := range r.Statuses {
		got := gatetest.Status{Over: s.Code == pb.RateLimitResponse_OVER_LIMIT}
		switch l := s.CurrentLimit; {
		case l != nil:
			n := max(1, int64(l.GetUnitMultiplier().GetValue()))
			got.Limit, got.Period, got.Remaining = int64(l.RequestsPerUnit), time.Duration(n)*units[l.Unit], int64(s.LimitRemaining)
			if got.Over { // of which an Envoy is told that nothing remains
				got.Remaining = o.last[i]
			}
			if got.Remaining < got.Limit {
				got.Reset = s.DurationUntilReset.AsDuration()
			}
		default:
			got.Unlimited = s.LimitRemaining == 1<<32-1
		}
		v.Statuses = append(v.Statuses, got)
	}
	return v, nil
}

func toMessage(d *gatetest.Descriptor) *common.RateLimitDescriptor {
	m := &common.RateLimitDescriptor{HitsAddend: wrapperspb.UInt64(uint64(d.Hits)), IsNegativeHits: d.Back}
	for _, e := range d.Entries {
		m.Entries = append(m.Entries, &common.RateLimitDescriptor_Entry{Key: e.Key, Value: e.Value})
	}
	if d.Said != nil {
		says(m, uint32(d.Said.Count), typev3.RateLimitUnit_HOUR, uint32(d.Said.Period/time.Hour))
	}
	return m
}

// TestExamples: the configurations that envoyproxy/ratelimit documents, answered over the
// wire as they are there.
func TestExamples(t *testing.T) {
	for _, x := range envoytest.Examples(t) {
		t.Run(x.Name, func(t *testing.T) {
			h := open(t, convert(t, string(x.Config)), func(c *Config) { c.UnknownDomain = AnswerOK })
			h.check("OK none", "nowhere", descriptor("a=b"))
			for _, c := range x.Calls {
				h.now = c.At
				r := &pb.RateLimitRequest{Domain: x.Domain}
				for _, entries := range c.Descriptors {
					d := new(common.RateLimitDescriptor)
					for _, e := range entries {
						d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: e.Key, Value: e.Value})
					}
					r.Descriptors = append(r.Descriptors, d)
				}
				want := "OK"
				if c.Over {
					want = "OVER"
				}
				for _, s := range c.Statuses {
					want += " " + s
				}
				for i := range c.Times {
					answer, err := h.send(r)
					if err != nil {
						t.Fatal(err)
					}
					if got := short(answer); got != want {
						t.Fatalf("%s: call %d: %s", c.Line, i+1, got)
					}
				}
			}
		})
	}
}
