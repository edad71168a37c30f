package pgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/cas"
)

const (
	// mostLife is the longest that a node may say that it lives.
	mostLife = time.Minute
	// nodesTries is how often the census is asked where asking again may help.
	nodesTries = 3
)

// Nodes counts the nodes that live; see [headgate.Census].
func (s *Store) Nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (int, error) {
	start := time.Now()
	n, err := s.nodes(ctx, node, ttl)
	kind := ""
	if f, ok := errors.AsType[*cas.Failure](err); ok {
		kind = f.Kind
	}
	if s.observe != nil {
		s.observe("nodes", time.Since(start), kind)
	}
	if err != nil {
		return 0, fmt.Errorf("nodes: %w", err)
	}
	return n, nil
}

func (s *Store) nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (n int, err error) {
	if ttl != 0 && ttl < time.Millisecond || ttl > mostLife {
		return 0, &headgate.Error{Code: headgate.InvalidRequest, Err: fmt.Errorf("a node that lives for %v: must be 1ms to %v, or 0", ttl, mostLife)}
	}
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], node[0])
	binary.BigEndian.PutUint64(id[8:], node[1])
	for range nodesTries {
		// Doing it twice does no harm.
		if n, err = s.table.nodes(ctx, id, ttl); err == nil {
			return n, nil
		}
		if f := diagnose(err, false); !f.Passing {
			break
		}
	}
	code := headgate.Unavailable
	if s.closed.Load() {
		code = headgate.Closed
	}
	return 0, &headgate.Error{Code: code, Err: err}
}

func (t *table) nodes(ctx context.Context, id [16]byte, ttl time.Duration) (n int, err error) {
	c, err := t.acquire(ctx)
	if err != nil {
		return 0, err
	}
	err = c.QueryRow(ctx, `select headgate_nodes($1, $2, $3)`, id, ttl.Microseconds(), mostLife.Microseconds()).Scan(&n)
	if err == nil {
		release(c, nil)
		return n, nil
	}
	f := diagnose(err, false)
	release(c, f)
	return 0, f
}
