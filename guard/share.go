package guard

import (
	"math/big"
	"sync"
	"time"

	"github.com/headgate/headgate"
)

// A node's share of a limit is shareParts / (shareWhole x nodes). What is left
// pays for nodes of which the others did not know yet.
const (
	shareParts = 4
	shareWhole = 5
)

// maxNodes is how many nodes are told apart: with more than that, everybody's
// share is as if there were that many.
const maxNodes = 1 << 16

// share returns a node's share of n tokens, at most headgate.MaxInt, rounded
// down.
func share(n int64, nodes int) int64 { return n * shareParts / (shareWhole * int64(nodes)) }

// capacity is the most that a limit ever holds.
func capacity(l *headgate.Prepared) int64 {
	switch l.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		return l.Burst
	case headgate.Quota:
		return l.Count + l.Rollover
	default:
		return l.Count
	}
}

// scale returns a node's share of l as a limit, nil if it is less than one token.
// Bans, idempotency limits and soft quotas stay whole: they admit nothing that
// another limit refuses. A quota carries nothing over, as a node does not know
// what all of them have left.
func scale(l *headgate.Prepared, nodes int) *headgate.Prepared {
	s := l.Limit
	switch {
	case s.Algorithm == headgate.Ban || s.Algorithm == headgate.Idempotency || s.Soft:
		return l
	case s.Algorithm == headgate.TokenBucket || s.Algorithm == headgate.LeakyBucket:
		return scaleBucket(s, nodes)
	}
	s.Count, s.Rollover = share(s.Count, nodes), 0
	return prepared(s)
}

// scaleBucket scales burst and rate: the rate exactly if the numbers fit, else
// down to one that does.
func scaleBucket(s headgate.Limit, nodes int) *headgate.Prepared {
	s.Burst = share(s.Burst, nodes)
	n := shareWhole * int64(nodes)
	if s.Count <= headgate.MaxInt/shareParts && s.Period <= headgate.MaxPeriod/time.Duration(n) {
		exact := s
		exact.Count, exact.Period = s.Count*shareParts, s.Period*time.Duration(n)
		if p := prepared(exact); p != nil {
			return p
		}
	}
	// Tokens per microsecond, and the longest period in which the burst and what
	// comes in it fit.
	rate := new(big.Rat).SetFrac(big.NewInt(s.Count*shareParts), big.NewInt(s.Period.Microseconds()))
	rate.Mul(rate, big.NewRat(1, n))
	whole := func(r *big.Rat) int64 { return new(big.Int).Quo(r.Num(), r.Denom()).Int64() }
	period := min(headgate.MaxInt/(s.Burst+whole(rate)+1), headgate.MaxPeriod.Microseconds())
	s.Count = whole(rate.Mul(rate, new(big.Rat).SetInt64(period)))
	s.Period = time.Duration(period) * time.Microsecond
	return prepared(s)
}

// prepared returns nil for a limit that admits nothing.
func prepared(s headgate.Limit) *headgate.Prepared {
	if s.Count < 1 || s.Burst < 1 && (s.Algorithm == headgate.TokenBucket || s.Algorithm == headgate.LeakyBucket) {
		return nil // a burst of 0 would stand for the count
	}
	p, err := s.Prepare()
	if err != nil {
		return nil
	}
	return p
}

// maxScaled bounds the limits whose share is kept ready.
const maxScaled = 1 << 14

// shares keeps the shares of limits ready, for one number of nodes.
type shares struct {
	mu     sync.RWMutex
	nodes  int
	scaled map[uint32]*headgate.Prepared // by the limit's Serial; nil entries admit nothing
}

// of returns a node's share of l, nil if it admits nothing.
func (s *shares) of(l *headgate.Prepared, nodes int) *headgate.Prepared {
	s.mu.RLock()
	p, known := s.scaled[l.Serial]
	known = known && s.nodes == nodes
	s.mu.RUnlock()
	if known {
		return p
	}
	p = scale(l, nodes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if q, known := s.scaled[l.Serial]; known && s.nodes == nodes {
		return q // one for all, or the store would take them for others
	}
	if s.nodes != nodes || len(s.scaled) >= maxScaled {
		s.nodes, s.scaled = nodes, make(map[uint32]*headgate.Prepared)
	}
	s.scaled[l.Serial] = p
	return p
}
