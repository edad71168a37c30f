package cas

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/headgate/headgate"
)

// MostLife is the longest that a node may say that it lives.
const MostLife = time.Minute

// nodesTries is how often the census is asked where asking again may help.
const nodesTries = 10

// Nodes counts the nodes that live; see [headgate.Census].
func (s *Store) Nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (int, error) {
	start := time.Now()
	n, err := s.nodes(ctx, node, ttl)
	return n, s.ended("nodes", start, err)
}

func (s *Store) nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (n int, err error) {
	if ttl != 0 && ttl < time.Millisecond || ttl > MostLife {
		return 0, &headgate.Error{Code: headgate.InvalidRequest, Err: fmt.Errorf("a node that lives for %v: must be 1ms to %v, or 0", ttl, MostLife)}
	}
	end, ok := s.begin()
	if !ok {
		return 0, errClosed
	}
	defer end()
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], node[0])
	binary.BigEndian.PutUint64(id[8:], node[1])
	for try := range nodesTries {
		if n, err = s.table.Nodes(ctx, id, ttl); !passing(err) {
			return n, err
		}
		timer := time.NewTimer(rand.N(time.Millisecond << min(try, 6)))
		select {
		case <-timer.C:
		case <-s.life.Done():
			timer.Stop()
			return 0, errClosed
		case <-ctx.Done():
			timer.Stop()
			return 0, &Failure{Kind: "timeout", Unsent: true, Err: errors.Join(context.Cause(ctx), err)}
		}
	}
	return 0, err
}
