package memstore

import (
	"context"

	"github.com/headgate/headgate"
)

// AcquireAt is Acquire at an instant, for stores that are told the time.
func (s *Store) AcquireAt(ctx context.Context, now int64, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	return s.acquire(ctx, now, requests, replies)
}
