package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/headgate/headgate/guard"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/server/observe"
)

// shared is a store that other nodes use too: leases, where they are wanted, over
// a guard, over the store itself.
type shared struct {
	guard *guard.Store
	lease *lease.Store // nil without leases
}

// openShared connects to the store of a kind that the URL names. called is told of
// every call of the store. memory is the cap of what is kept for the time in which
// the store is away.
func openShared(ctx context.Context, kind *sharedKind, url string, memory int64, called func(op string, took time.Duration, failure string), log *slog.Logger) (*backend, error) {
	ctx, cancel := context.WithTimeout(ctx, kind.patience)
	defer cancel()
	store, leases, err := kind.open(ctx, url, openOptions{log, called})
	if err != nil {
		return nil, err
	}
	s := new(shared)
	authority := guard.NewAuthority(store, guard.Config{LocalBytes: memory, Logger: log})
	s.guard = authority.Store
	b := &backend{store: authority, local: authority.Local(), now: authority.StoreNow, away: s.away, shared: s}
	if leases {
		s.lease = lease.New(authority, lease.Config{})
		b.store = s.lease
	}
	if err := s.guard.Meet(ctx); err != nil {
		b.store.Close()
		return nil, err
	}
	if kind.warning != "" {
		log.Warn("store " + kind.name + ": " + kind.warning)
	}
	log.Info("store "+kind.name+": state is shared by all nodes that name it", "leases", leases)
	log.Info(s.guard.Bound().String())
	return b, nil
}

// away reports whether the store is not asked at the moment.
func (s *shared) away() bool { return !s.guard.Stats().Up }

// observe fills in what this node sees of the store.
func (s *shared) observe(o *observe.State) {
	g := s.guard.Stats()
	o.StoreUp = o.StoreUp && g.Up
	o.Shared = &observe.Shared{Breaker: int(g.State), Nodes: g.Nodes}
	if s.lease != nil {
		l := s.lease.Stats()
		o.Shared.LeaseTokens, o.Shared.Leases, o.Shared.LeaseDecisions = l.Outstanding, int64(l.Leases), uint64(l.Local)
	}
}
