package guard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/headgate/headgate"
)

// How nodes are counted.
const (
	beatEvery    = 2 * time.Second // less up to a tenth, so that nodes do not beat as one
	beatTTL      = 3 * beatEvery
	beatPatience = 250 * time.Millisecond
	meetPatience = 5 * time.Second // of who starts, and cannot do anything before
	sweepEvery   = 30              // beats
)

// census tells the store that this node lives, and how many do. It also probes a
// store that is away, where no request does.
type census struct {
	of   headgate.Census // nil if the store counts no nodes
	node [2]uint64
	kick chan struct{} // holds one: the time of the next beat has changed
	stop context.CancelFunc
	done chan struct{} // closed when the last beat is over
}

// begin starts to count, if the store behind s can.
func (c *census) begin(s *Store) {
	c.of, _ = s.inner.(headgate.Census)
	if c.of == nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	c.node, c.stop = [2]uint64{rand.Uint64(), rand.Uint64()}, stop
	c.kick, c.done = make(chan struct{}, 1), make(chan struct{})
	go s.beats(ctx)
}

// end returns when no more beats will be, and the store was told that this node
// is gone, if it is there: the shares of the others need not wait until it counts
// no longer.
func (s *Store) end() {
	c := &s.census
	if c.of == nil {
		return
	}
	c.stop()
	<-c.done
	// The breaker has the error; what was not told runs out.
	_ = s.doWithin(context.Background(), beatPatience, math.MaxInt, func(ctx context.Context) error {
		_, err := c.of.Nodes(ctx, c.node, 0)
		return err
	})
}

// wake lets the next beat be planned anew.
func (c *census) wake() {
	select {
	case c.kick <- struct{}{}:
	default: // it has not heard the last one yet, or there is nobody
	}
}

// beats beats until ctx ends. It does not break a beat off, which might come after
// the word that this node is gone.
func (s *Store) beats(ctx context.Context) {
	defer close(s.census.done)
	t := time.NewTimer(0)
	defer t.Stop()
	for n := 1; ; {
		select {
		case <-ctx.Done():
			return
		case <-s.census.kick:
		case <-t.C:
			_ = s.beat(context.WithoutCancel(ctx), beatPatience) // the breaker and the counts have it
			if n++; n%sweepEvery == 0 {
				s.local.sweep()
			}
		}
		t.Reset(s.nextBeat())
	}
}

// nextBeat is the time until the next beat: that of the next probe while the
// store is away.
func (s *Store) nextBeat() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.breaker.state != Closed {
		return max(0, s.breaker.next-time.Since(s.start))
	}
	return beatEvery - rand.N(beatEvery/10)
}

// beat tells the store that this node lives. However many calls are in flight, it
// is one more: nodes that are busy are not gone.
func (s *Store) beat(ctx context.Context, patience time.Duration) error {
	var nodes int
	err := s.doWithin(ctx, patience, math.MaxInt, func(ctx context.Context) (err error) {
		nodes, err = s.census.of.Nodes(ctx, s.census.node, beatTTL)
		return err
	})
	if err == nil {
		s.readClock(ctx)
	}
	s.mu.Lock()
	if err != nil {
		s.population.lost()
	} else {
		s.population.saw(nodes, time.Since(s.start))
	}
	nodes = s.population.nodes
	before := s.local.nodes.Swap(int32(nodes))
	s.mu.Unlock()
	if int(before) != nodes {
		s.log.Info("nodes share the store", "nodes", nodes)
	}
	return err
}

// readClock asks the store what its clock shows: decisions say it, but there may
// have been none since it was set, or ever.
func (s *Store) readClock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatPatience)
	defer cancel()
	b := &headgate.Batch{Op: headgate.Peek, Patience: beatPatience.Microseconds()}
	if s.inner.Apply(ctx, b) == nil && b.At != 0 {
		s.local.clock.set(b.At)
	}
}

// population is how many nodes there are, as far as is known. More are believed
// at once, fewer when no more were seen for as long as a node lives that does not
// beat, without a break: a store that was away for a while has forgotten those
// that will beat in a moment. The zero value has met nobody.
type population struct {
	nodes int
	fewer int           // the most that were seen since, 0 if nodes were
	since time.Duration // some start
}

// saw takes what the store said at now.
func (p *population) saw(nodes int, now time.Duration) {
	switch nodes = min(max(1, nodes), maxNodes); {
	case nodes >= p.nodes:
		p.nodes, p.fewer = nodes, 0
	case p.fewer == 0:
		p.fewer, p.since = nodes, now
	default:
		p.fewer = max(p.fewer, nodes)
		if now-p.since >= beatTTL {
			p.nodes, p.fewer = p.fewer, 0
		}
	}
}

// lost says that the store could not be asked.
func (p *population) lost() { p.fewer = 0 }

// Meet asks the store at once how many nodes share it, which otherwise happens a
// moment after New and every two seconds. Before that, Local admits nothing. It
// waits for up to 5 s. The error says why it does not know.
func (s *Store) Meet(ctx context.Context) error {
	if s.census.of == nil {
		return errors.New("guard: the store does not count its nodes: none has a share of its limits")
	}
	if err := s.beat(ctx, meetPatience); err != nil {
		return fmt.Errorf("guard: count nodes: %w", err)
	}
	return nil
}

// Bound is how much of a limit with on_store_error: local may be admitted over
// any interval in which the store is away, by all nodes together, as multiples of
// the limit.
type Bound struct {
	// Nodes is how many nodes shared the store when it was last asked, and Share
	// what each admits by itself; both 0 on a node that never met the store.
	Nodes int
	Share float64
	// Usual is where all nodes know of the same number of nodes, Most where each
	// was alone when it last met the store. What the store itself admitted is in
	// both.
	Usual, Most float64
}

// Bound returns the bound by the number of nodes that is known.
func (s *Store) Bound() Bound {
	b := Bound{Nodes: int(s.local.nodes.Load()), Usual: 1, Most: 1}
	if b.Nodes > 0 {
		const all = float64(shareParts) / shareWhole
		b.Share, b.Usual, b.Most = all/float64(b.Nodes), 1+all, 1+all*float64(b.Nodes)
	}
	return b
}

// String returns a sentence for a log.
func (b Bound) String() string {
	if b.Nodes == 0 {
		return "this node has not met the store: while that is away it admits nothing of limits with on_store_error: local"
	}
	return fmt.Sprintf("while the store is away each node, of %d, admits %.3g of a limit with on_store_error: local: together with what the store admitted %.3g x the limit, and never more than %.3g x",
		b.Nodes, b.Share, b.Usual, b.Most)
}
