package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/headgate/headgate/guard"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/server/observe"
	"github.com/headgate/headgate/store/redisstore"
)

// shared is a store that other nodes use too: leases, where they are wanted, over
// a guard, over the store itself.
type shared struct {
	guard *guard.Store
	lease *lease.Store // nil without leases
}

// openTimeout is how long a store may take to answer when serve starts.
const openTimeout = 10 * time.Second

// openRedis connects to the store that the URL names. called is told of every
// call of the store. memory is the cap of what is kept for the time in which the
// store is away.
func openRedis(ctx context.Context, text string, memory int64, called func(op string, took time.Duration, kind string), log *slog.Logger) (*backend, error) {
	leases, err := redisstore.Leases(text)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	store, err := redisstore.Open(ctx, redisstore.Config{URL: text, Logger: log, Observe: called})
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
	log.Info("store redis: state is shared by all nodes that name it", "leases", leases)
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
