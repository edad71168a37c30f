package grpclimit

import (
	"context"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/pause"
	"github.com/headgate/headgate/internal/ratefield"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
)

// Headers is a set of conventions for the metadata that tells of limits. The
// names are in lower case, as all metadata.
type Headers uint8

// The conventions. HeadersNone stands alone.
const (
	// HeadersIETF is ratelimit-policy and ratelimit.
	HeadersIETF = Headers(ratefield.IETF)
	// HeadersDraft03 is ratelimit-limit, -remaining and -reset; reset in
	// seconds from now.
	HeadersDraft03 = Headers(ratefield.Draft03)
	// HeadersXDelta is x-ratelimit-limit, -remaining and -reset; reset in
	// seconds from now.
	HeadersXDelta = Headers(ratefield.XDelta)
	// HeadersXEpoch is as HeadersXDelta with reset in seconds since the Unix
	// epoch.
	HeadersXEpoch = Headers(ratefield.XEpoch)
	// HeadersNone sends no metadata about limits.
	HeadersNone Headers = 1 << 7
)

// plan is a limiter and what must be known of it beforehand.
type plan struct {
	*headgate.Limiter
	holds bool // one of the limits is a concurrency limit
}

func newPlan(lim *headgate.Limiter) plan {
	p := plan{Limiter: lim}
	for _, l := range lim.Limits() {
		p.holds = p.holds || l.Algorithm == headgate.Concurrency
	}
	return p
}

// decide charges a call. What it takes of concurrency limits is held until
// Release with the same batch.
func (p plan) decide(ctx context.Context, b *headgate.Batch, key string, cost int64) (headgate.Decision, error) {
	if p.holds {
		return p.Acquire(ctx, b, key, cost)
	}
	return p.Decide(ctx, b, key, cost)
}

// state is what the decision of one call needs and the next can use again.
type state struct {
	batch  headgate.Batch
	items  [headgate.MaxCharges]ratefield.Item
	setter ratefield.Setter
	header http.Header // empty between calls
}

var states = sync.Pool{New: func() any { return &state{header: http.Header{}} }}

// fields holds empty maps for the metadata of unary calls. grpc.SetHeader and
// grpc.SetTrailer copy what they are given.
var fields = sync.Pool{New: func() any { return metadata.MD{} }}

// describe adds to md what the limits of the batch are left with.
func (s *state) describe(md metadata.MD, styles ratefield.Styles) {
	if styles == 0 {
		return
	}
	outcomes := s.batch.Outcomes()
	for i, c := range s.batch.Charges() {
		s.items[i] = ratefield.From(c.Limit.Label, c.Limit, &outcomes[i])
	}
	s.setter.Set(s.header, styles, ratefield.Tightest(s.items[:len(outcomes)]), time.UnixMicro(s.batch.At))
	answer.Move(md, s.header)
}

// set sets a field of md, which has no other value of that name.
func (s *state) set(md metadata.MD, name, value string) {
	s.setter.SetString(http.Header(md), name, value)
}

// sleep waits for d. The error is the status of a call whose context ends first,
// or is known to; then it waits no longer.
func sleep(ctx context.Context, d time.Duration) error {
	if err := pause.Sleep(ctx, d); err != nil {
		return status.FromContextError(err).Err()
	}
	return nil
}
