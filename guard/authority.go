package guard

import (
	"context"
	"time"

	"github.com/headgate/headgate"
)

// Authority is a [Store] in front of a [headgate.Authority].
type Authority struct {
	*Store
	inner headgate.Authority
}

// NewAuthority returns a guard of inner as New does.
func NewAuthority(inner headgate.Authority, c Config) *Authority {
	return &Authority{New(inner, c), inner}
}

// acquirePatience is how long leases may take to be granted: a grant that comes
// much later is of little use.
const acquirePatience = 250 * time.Millisecond

// Acquire passes the requests on to the authority behind a; see
// [headgate.Authority].
func (a *Authority) Acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	err := a.doWithin(ctx, acquirePatience, a.config.MaxInFlight, func(ctx context.Context) error {
		return a.inner.Acquire(ctx, requests, replies)
	})
	if err == nil {
		a.local.seeLeases(requests, replies)
	}
	return err
}
