package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
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
	text, leases, err := cutLeases(text)
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

// cutLeases takes the option leases out of the URL of a store. It is true unless
// the URL says else.
func cutLeases(text string) (rest string, leases bool, err error) {
	rest, query, found := strings.Cut(text, "?")
	if !found {
		return text, true, nil
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", false, errors.New("the options after ? are not URL-encoded") // err shows them
	}
	leases = true
	if said := values["leases"]; len(said) > 0 {
		if leases, err = strconv.ParseBool(said[0]); err != nil || len(said) > 1 {
			return "", false, fmt.Errorf("leases: must be true or false, once")
		}
		values.Del("leases")
	}
	if len(values) == 0 {
		return rest, leases, nil
	}
	return rest + "?" + values.Encode(), leases, nil
}

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
