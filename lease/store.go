package lease

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// Config says what is leased and how much of it. The zero value is a good one.
type Config struct {
	// Terms are those of the authority. The zero value means algo.DefaultTerms.
	Terms algo.Terms
	// Hot is the number of charges a second, 1 to 65,535, from which a budget
	// is leased. 0 means 20. A budget of which less than half as many tokens a
	// second are spent is leased no longer.
	Hot int
	// Horizon is for how long a lease should last, 1 ms to 1 s; the authority
	// is asked about once per Horizon for each budget. 0 means 100 ms.
	Horizon time.Duration
	// MaxLeases is the largest number of budgets that are leased at once, 1 to
	// 2^20. A lease takes about 1 KB. 0 means 8,192.
	MaxLeases int
	// Timeout is for how long one call of the authority's Acquire is waited
	// for. 0 means a quarter of Terms.TTL.
	Timeout time.Duration
	// Return is for how long Close tries to return what is leased. 0 means 1 s.
	Return time.Duration
	// WallClockForTest, if not nil, is the machine's clock, in microseconds since
	// the Unix epoch.
	WallClockForTest func() int64
}

func (c Config) withDefaults() Config {
	if c.Terms == (algo.Terms{}) {
		c.Terms = algo.DefaultTerms
	}
	c.Hot = cmp.Or(c.Hot, 20)
	c.Horizon = cmp.Or(c.Horizon, 100*time.Millisecond)
	c.MaxLeases = cmp.Or(c.MaxLeases, 8192)
	c.Timeout = cmp.Or(c.Timeout, time.Duration(c.Terms.TTL)*time.Microsecond/4)
	c.Return = cmp.Or(c.Return, time.Second)
	return c
}

func (c *Config) validate() error {
	switch {
	case c.Terms.TTL < 1000 || c.Terms.Grace < 0 || c.Terms.Least < 1:
		return fmt.Errorf("terms with a TTL of %d µs, a grace of %d µs, at least %d tokens: must be at least 1,000, 0, 1", c.Terms.TTL, c.Terms.Grace, c.Terms.Least)
	case c.Hot < 1 || c.Hot > heatCount:
		return fmt.Errorf("hot %d: must be 1 to %d", c.Hot, heatCount)
	case c.Horizon < time.Millisecond || c.Horizon > time.Second:
		return fmt.Errorf("horizon %v: must be 1ms to 1s", c.Horizon)
	case c.MaxLeases < 1 || c.MaxLeases > 1<<20:
		return fmt.Errorf("max leases %d: must be 1 to %d", c.MaxLeases, 1<<20)
	case c.Timeout < 0 || c.Return < 0:
		return fmt.Errorf("timeout %v, return %v: must not be negative", c.Timeout, c.Return)
	}
	return nil
}

// Store is a [headgate.Store] that decides requests on hot budgets from leases of
// an authority, and all others by asking it. See the package's comment for which.
// Make one with [New].
type Store struct {
	authority headgate.Authority
	terms     algo.Terms
	horizon   int64
	hot       int
	timeout   time.Duration
	giveBack  time.Duration

	clock  clock
	offset atomic.Int64 // of the authority's clock from the monotonic one
	table  table
	heat   heat

	run [2]uint64 // names this store among all holders
	ids atomic.Uint64

	mu     sync.Mutex
	called []*cell

	kick, stop, kept chan struct{}
	closing          sync.Once
	closed           error

	counters counters
}

// New returns a store over a, which it closes when it is closed. Panics if a
// number of c is out of its range.
func New(a headgate.Authority, c Config) *Store {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		panic(fmt.Sprintf("lease: %v", err))
	}
	s := &Store{
		authority: a,
		terms:     c.Terms,
		horizon:   c.Horizon.Microseconds(),
		hot:       c.Hot,
		timeout:   c.Timeout,
		giveBack:  c.Return,
		heat:      newHeat(max(256, c.MaxLeases/2), c.Hot),
		run:       [2]uint64{rand.Uint64(), rand.Uint64()},
		kick:      make(chan struct{}, 1),
		stop:      make(chan struct{}),
		kept:      make(chan struct{}),
	}
	s.clock.wall = c.WallClockForTest
	s.clock.begin()
	s.table.begin(c.MaxLeases)
	go s.keep()
	return s
}

// id names a new lease.
func (s *Store) id() [2]uint64 { return [2]uint64{s.run[0], s.run[1] + s.ids.Add(1)} }

// Close returns what is leased, for at most Config.Return and Timeout, and closes
// the authority. Its error is the authority's.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.table.close()
		close(s.stop)
		<-s.kept
		s.closed = s.authority.Close()
	})
	return s.closed
}

// Apply does b.Op; see [headgate.Store]. A Take that is decided locally neither
// blocks nor fails, and its outcomes are estimates, marked as Leased: what other
// holders did since the authority was last asked is not in them. b.At is an
// estimate of the authority's clock.
func (s *Store) Apply(ctx context.Context, b *headgate.Batch) error {
	charges := b.Charges()
	switch {
	case b.Op == headgate.Reset:
		s.revoke(charges)
	case b.Op != headgate.Take || b.Hold != 0 || b.HoldFor != 0 || b.Now != 0 || b.Key != headgate.RequestKey{}:
	case len(charges) == 1:
		var cell [1]*cell
		return s.one(ctx, b, &charges[0], cell[:])
	case len(charges) > 0 && len(charges) <= few:
		var cells [few]*cell
		var claims [few]Claim
		return s.take(ctx, b, cells[:len(charges)], claims[:len(charges)])
	case len(charges) > 0 && len(charges) <= headgate.MaxCharges:
		var cells [headgate.MaxCharges]*cell
		var claims [headgate.MaxCharges]Claim
		return s.take(ctx, b, cells[:len(charges)], claims[:len(charges)])
	}
	return s.ask(ctx, b)
}

// few is how many charges most batches have at most.
const few = 4

// one decides a batch of one charge.
func (s *Store) one(ctx context.Context, b *headgate.Batch, ch *headgate.Charge, cells []*cell) error {
	c := s.find(ch)
	if c == nil {
		return s.miss(ctx, b, cells)
	}
	cells[0] = c
	now, mono := s.clock.now()
	left, ok := c.holder.Lease().Take(spend(ch), now)
	if !ok {
		return s.miss(ctx, b, cells)
	}
	b.Allowed, b.Replayed, b.At = true, false, mono+s.offset.Load()
	c.view.Load().outcome(ch.Limit, left, now, &b.Outcomes()[0])
	s.counters.local()
	if c.use(left) {
		s.call(c)
	}
	return nil
}

// take decides a batch of several charges, from all leases or from none.
func (s *Store) take(ctx context.Context, b *headgate.Batch, cells []*cell, claims []Claim) error {
	charges, found := b.Charges(), true
	for i := range charges {
		c := s.find(&charges[i])
		if cells[i] = c; c == nil {
			found = false
			continue
		}
		claims[i] = Claim{Lease: c.holder.Lease(), Cost: spend(&charges[i])}
	}
	if !found {
		return s.miss(ctx, b, cells)
	}
	now, mono := s.clock.now()
	if !TakeAll(claims, now) {
		return s.miss(ctx, b, cells)
	}
	b.Allowed, b.Replayed, b.At = true, false, mono+s.offset.Load()
	outcomes := b.Outcomes()
	s.counters.local()
	for i, c := range cells {
		c.view.Load().outcome(charges[i].Limit, claims[i].Left, now, &outcomes[i])
		if c.use(claims[i].Left) {
			s.call(c)
		}
	}
	return nil
}

// spend is what a charge takes of a lease: of a ban, whose lease is a word, nothing.
func spend(c *headgate.Charge) int64 {
	if c.Limit.Algorithm == headgate.Ban {
		return 0
	}
	return c.Cost
}

// find returns the cell of a charge, with the charge's numbers.
func (s *Store) find(ch *headgate.Charge) *cell {
	c := s.table.find(s.table.hash(ch.Limit, ch.Owner), ch.Limit, ch.Owner)
	if c == nil || c.limit.Load() == ch.Limit {
		return c
	}
	return s.renumber(c, ch.Limit)
}

// renumber makes the cell one of l, if that has the same numbers. If not, it takes
// the cell out: what is leased under other numbers is not spent under these, but
// given back.
func (s *Store) renumber(c *cell, l *headgate.Prepared) *cell {
	old := c.limit.Load()
	if old.SameNumbers(l) {
		c.limit.CompareAndSwap(old, l)
		return c
	}
	s.table.remove(c)
	c.limit.Store(l)
	c.holder.Lease().Revoke()
	s.call(c)
	return nil
}

// revoke stops spending what is leased of the charges' budgets.
func (s *Store) revoke(charges []headgate.Charge) {
	for i := range charges {
		if c := s.find(&charges[i]); c != nil {
			c.holder.Lease().Revoke()
			s.call(c)
		}
	}
}

// ask lets the authority decide b.
func (s *Store) ask(ctx context.Context, b *headgate.Batch) error {
	s.counters.remote.Add(1)
	_, sent := s.clock.now()
	if err := s.authority.Apply(ctx, b); err != nil {
		return err
	}
	if b.Now == 0 {
		_, came := s.clock.now()
		s.offset.Store(b.At - (sent+came)/2)
	}
	return nil
}

// miss lets the authority decide a Take of which cells, some of them nil, have too
// little leased, and notes that.
func (s *Store) miss(ctx context.Context, b *headgate.Batch, cells []*cell) error {
	charges := b.Charges()
	var leases [headgate.MaxCharges]*Lease
	for i, c := range cells {
		// What all slices of a sliding window hold is not the count of one.
		if c != nil && charges[i].Limit.Algorithm != headgate.SlidingWindow {
			if l := c.holder.Lease(); l.Windowed() {
				leases[i] = l
			}
		}
	}
	if err := s.ask(ctx, b); err != nil {
		return err
	}
	now, _ := s.clock.now()
	outcomes := b.Outcomes()
	for i := range cells {
		if leases[i] != nil {
			leases[i].Saw(outcomes[i].Used, now)
		}
	}
	if b.Allowed && s.leasable(charges) {
		s.warm(charges, cells, now)
	}
	return nil
}

// leasable reports whether the whole batch might be decided locally.
func (s *Store) leasable(charges []headgate.Charge) bool {
	for i := range charges {
		if !algo.Leasable(charges[i].Limit, &s.terms) {
			return false
		}
	}
	return true
}

// warm counts a batch that could have been decided locally. If all its budgets
// are hot, they are leased from now on.
func (s *Store) warm(charges []headgate.Charge, cells []*cell, now int64) {
	hot := true
	for i := range charges {
		if ch := &charges[i]; cells[i] == nil && !s.heat.charge(s.table.hash(ch.Limit, ch.Owner), now) {
			hot = false
		}
	}
	if !hot {
		return
	}
	for i := range charges {
		ch, c := &charges[i], cells[i]
		if c == nil {
			k := newKept(now, float64(s.hot)*float64(ch.Cost)/1e6, s.terms.TTL)
			if c = s.table.add(s.table.hash(ch.Limit, ch.Owner), ch.Limit, ch.Owner, s.id(), k); c == nil {
				return
			}
		}
		c.miss(ch.Cost)
		s.call(c)
	}
}

// call tells the keeper to look after the cell.
func (s *Store) call(c *cell) {
	if c.called.Load() || !c.called.CompareAndSwap(false, true) {
		return
	}
	s.mu.Lock()
	s.called = append(s.called, c)
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
