package memstore_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/storetest"
)

var _ headgate.Authority = (*memstore.Store)(nil)

// told is a store that leases at the latest instant that a batch told it.
type told struct {
	*memstore.Store
	now atomic.Int64
}

func (s *told) Apply(ctx context.Context, b *headgate.Batch) error {
	for now := s.now.Load(); now < b.Now && !s.now.CompareAndSwap(now, b.Now); {
		now = s.now.Load()
	}
	return s.Store.Apply(ctx, b)
}

func (s *told) Acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	if now := s.now.Load(); now != 0 {
		return s.Store.AcquireAt(ctx, now, requests, replies)
	}
	return s.Store.Acquire(ctx, requests, replies)
}

// authorities returns a function that opens authorities of the configuration.
func authorities(c memstore.Config) func(*testing.T) headgate.Authority {
	return func(t *testing.T) headgate.Authority {
		return &told{Store: opener[*testing.T](c)(t).(*memstore.Store)}
	}
}

// authoritiesOnPaper is authorities with journals of their own.
func authoritiesOnPaper(c memstore.Config) func(*testing.T) headgate.Authority {
	return func(t *testing.T) headgate.Authority {
		c := c
		c.Journal, c.Secret = newPaper(), secret
		return authorities(c)(t)
	}
}

var lending = storetest.Capabilities{
	ManualClock: true,
	Footprint:   func(s headgate.Store) (keys, bytes int64) { return capabilities.Footprint(s.(*told).Store) },
}

func TestAuthority(t *testing.T) {
	for _, w := range []struct {
		name string
		open func(*testing.T) headgate.Authority
	}{
		{"memory", authorities(memstore.Config{})},
		{"one shard", authorities(memstore.Config{Shards: 1})},
		{"journal", authoritiesOnPaper(memstore.Config{})},
		{"journal, one shard", authoritiesOnPaper(memstore.Config{Shards: 1})},
	} {
		t.Run(w.name, func(t *testing.T) {
			storetest.RunAuthority(t, w.open, lending)
		})
		t.Run(w.name+", own clock", func(t *testing.T) {
			storetest.RunAuthority(t, w.open, storetest.Capabilities{})
		})
	}
}

func TestDifferentialAuthority(t *testing.T) {
	racetest.Alone(t)
	t.Run("one shard", func(t *testing.T) {
		storetest.DifferentialAuthority(t, authorities(memstore.Config{Shards: 1}), lending, *ops/2, 11)
	})
	t.Run("many shards", func(t *testing.T) {
		storetest.DifferentialAuthority(t, authorities(memstore.Config{Shards: 256}), lending, *ops/2, 12)
	})
	t.Run("journal", func(t *testing.T) {
		storetest.DifferentialAuthority(t, authoritiesOnPaper(memstore.Config{Shards: 1}), lending, *ops/4, 13)
	})
}
