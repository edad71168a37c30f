package cas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/record"
)

// call is a batch or a lease request on its way. One goroutine waits for it.
type call struct {
	lane *lane
	done chan struct{} // receives when the call has finished

	batch   headgate.Batch // the caller may be gone with its own
	hold    uint64         // that the batch asks with; the batch's own is the answer's
	at      int64          // the manual clock's instant; 0 without
	request headgate.LeaseRequest
	reply   headgate.LeaseReply
	leases  bool
	keys    []Key      // of the items, each once
	places  []int      // by charge, its item among keys
	widest  int        // the item among keys that most callers share
	mine    []*subject // by charge, while it is decided
	stakes  []stake
	step    step
	trial   uint64 // names what it takes on trial; 0 if it is no trial
	marking bool   // it may have to be undone
	marks   []mark // then: what it made of the budgets
	aside   bool   // it is done whether its caller waits or not, and when the store is being closed

	err error

	// Guarded by the lane's mu.
	finished bool
	waits    bool // among the lane's waiting
	gone     bool // nobody waits for it any more
}

// ask makes c ask what b asks.
func (c *call) ask(s *Store, b *headgate.Batch) {
	c.clear(s, b)
	charges := b.Charges()
	c.batch.Room(len(charges))
	widest := 0
	for i := range charges {
		x := &charges[i]
		// Charges that stood side by side in one batch fit into another.
		_, _ = c.batch.Add(*x)
		at := c.place(KeyOf(x.Owner, x.Limit))
		c.places = append(c.places, at)
		if w := width(x); w > widest {
			widest, c.widest = w, at
		}
	}
}

// clear makes c one that asks what b asks, without charges.
func (c *call) clear(s *Store, b *headgate.Batch) {
	c.leases, c.keys, c.places, c.widest, c.at = false, c.keys[:0], c.places[:0], 0, 0
	c.step, c.trial, c.marking, c.marks, c.aside = decides, 0, false, nil, false
	c.batch.Reset(b.Op)
	c.batch.Now, c.hold, c.batch.HoldFor, c.batch.MaxDelay, c.batch.Key, c.batch.Again = b.Now, b.Hold, b.HoldFor, b.MaxDelay, b.Key, b.Again
	if s.manual {
		c.at = b.Now
	}
}

// widths is more than any width.
const widths = 3

// width orders charges by how many callers have them. What remembers keys is the
// subject's own.
func width(c *headgate.Charge) int {
	switch {
	case c.Owner == "":
		return 2
	case c.Parent && c.Limit.Algorithm != headgate.Idempotency:
		return 1
	default:
		return 0
	}
}

func (c *call) place(k Key) int {
	if at := slices.Index(c.keys, k); at >= 0 {
		return at
	}
	c.keys = append(c.keys, k)
	return len(c.keys) - 1
}

// askLease makes c ask what r asks.
func (c *call) askLease(s *Store, r *headgate.LeaseRequest) {
	c.leases, c.request, c.widest, c.at, c.aside = true, *r, 0, 0, false
	c.keys = append(c.keys[:0], KeyOf(r.Owner, r.Limit))
}

// tell copies the answer into the caller's batch.
func (c *call) tell(b *headgate.Batch) error {
	b.Allowed, b.Replayed, b.At = c.batch.Allowed, c.batch.Replayed, c.batch.At
	if b.Replayed {
		b.Hold = c.batch.Hold
	}
	copy(b.Outcomes(), c.batch.Outcomes())
	return c.err
}

// deserted reports whether nobody needs the call any more.
func (c *call) deserted() bool { return c.gone && !c.aside }

// leave lets the caller go, unless the call has finished.
func (c *call) leave() bool {
	l := c.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.finished {
		<-c.done // sent before mu was unlocked
		return false
	}
	if c.gone = true; c.waits && c.deserted() {
		l.desert()
	}
	return true
}

// lane decides calls group by group, so that those of one process on one item
// seldom get in each other's way. What comes while a group is on its way waits for
// the next one.
type lane struct {
	store *Store

	mu      sync.Mutex
	waiting []*call
	gone    int // of those, how many are deserted
	flies   bool

	// The goroutine that flies has the rest.
	cache    cache
	calls    []*call
	subjects map[Key]*subject // of the calls, as they are decided
	homes    map[Key]int      // by item, its part
	changes  []Change
	group    int64 // the number of the group
}

const (
	// mostCalls is how many calls go in one group.
	mostCalls = 128
	// flightTime is how long a group may try.
	flightTime = 5 * time.Second
	// callTime is how long the table may take for one answer.
	callTime = 2 * time.Second
)

func (l *lane) init(s *Store) {
	l.store = s
	l.cache.init()
	l.subjects, l.homes = make(map[Key]*subject), make(map[Key]int)
}

// enqueue sends c on its way.
func (l *lane) enqueue(c *call) {
	c.lane, c.err, c.finished, c.waits, c.gone = l, nil, false, true, false
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store.closed.Load() && !c.aside {
		c.err, c.finished = errClosed, true
		c.done <- struct{}{}
		return
	}
	l.waiting = append(l.waiting, c)
	if !l.flies {
		l.flies = true
		l.store.flights.Go(l.fly)
	}
}

// desert counts one more of the calls that wait as deserted. When most are they are
// forgotten: a group may be on its way for long, and a call is some 3 KB.
func (l *lane) desert() {
	if l.gone++; 2*l.gone > len(l.waiting) {
		l.waiting, l.gone = slices.DeleteFunc(l.waiting, (*call).deserted), 0
	}
}

// close fails what waits, but for what is done aside. A group that is on its way
// ends by itself.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = 0
	l.waiting = slices.DeleteFunc(l.waiting, func(c *call) bool {
		if c.aside {
			return false
		}
		c.err, c.finished = errClosed, true
		if !c.gone {
			c.done <- struct{}{}
		}
		return true
	})
}

// fly decides groups until nobody waits. Before each, those who were just answered
// have a turn: what they ask next goes along.
func (l *lane) fly() {
	for runtime.Gosched(); l.board(); runtime.Gosched() {
		l.group = l.store.groups.Add(1)
		l.decide()
	}
}

// board takes the calls that wait, but those whose callers have gone.
func (l *lane) board() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = l.calls[:0]
	n := 0
	for ; n < len(l.waiting) && len(l.calls) < mostCalls; n++ {
		c := l.waiting[n]
		if c.deserted() {
			l.gone--
			continue
		}
		if len(l.calls) > 0 && c.at != l.calls[0].at {
			break // it has an instant of its own
		}
		c.waits = false
		l.calls = append(l.calls, c)
	}
	l.waiting = slices.Delete(l.waiting, 0, n)
	l.flies = len(l.calls) > 0
	return l.flies
}

// finish ends a call.
func (l *lane) finish(c *call, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.finished, c.err = true, err
	l.store.decided.Add(1)
	if !c.gone {
		c.done <- struct{}{}
	}
}

// fail ends all calls that are left.
func (l *lane) fail(err error) {
	for _, c := range l.calls {
		l.finish(c, err)
	}
	l.calls = l.calls[:0]
}

var errContended = errors.New("others change the same state all the time")

// decide decides the group: on what is known of the items, and again on what the
// table says where that has changed.
func (l *lane) decide() {
	s, start := l.store, time.Now()
	for round := 0; len(l.calls) > 0; round++ {
		if time.Since(start) > flightTime {
			l.fail(&Failure{Kind: "contended", Err: errContended})
			return
		}
		if round > 1 && !l.rest(min(time.Duration(round)*contention, mostContention)) {
			l.fail(errClosed)
			return
		}
		if err := l.look(start); err != nil {
			l.fail(err)
			return
		}
		if l.putOff(); len(l.calls) == 0 {
			return
		}
		m, known := s.clock.present()
		if !known {
			continue // another lane has heard that the epoch is over
		}
		s.rounds.Add(1)
		if s.manual {
			m.Now = cmp.Or(s.manualNow(l.calls[0].at), m.Now)
		}
		parts := l.part(m)
		if err := l.swap(start, m.Epoch.ID, parts); err != nil {
			l.fail(err)
			return
		}
		l.settle(parts)
	}
}

// putOff drops the calls whose callers have gone: nothing of them was done so far.
func (l *lane) putOff() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = slices.DeleteFunc(l.calls, func(c *call) bool {
		c.finished = c.deserted()
		return c.finished
	})
}

const (
	// contention is how much longer a lane rests, at most, each time that others were
	// faster, up to mostContention: who rests for long never has a turn beside one
	// that has just won, and so knows what stands.
	contention, mostContention = 200 * time.Microsecond, 4 * time.Millisecond
	// mostRest is how long it rests, at most, between two tries of a table that
	// fails.
	mostRest = 50 * time.Millisecond
)

// rest waits for a while around most. It reports whether the store still lives.
func (l *lane) rest(most time.Duration) bool {
	timer := time.NewTimer(most/4 + rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.store.life.Done():
		return false
	}
}

// manualNow returns when a manual clock that is told now decides: it does not go
// back. 0 is by the table's clock.
func (s *Store) manualNow(now int64) int64 {
	for {
		latest := s.latest.Load()
		if now <= latest {
			return latest
		}
		if s.latest.CompareAndSwap(latest, now) {
			return now
		}
	}
}

// try asks the table until it answers, or there is no hope. It counts from start,
// which ask may move.
func (l *lane) try(start *time.Time, ask func(context.Context) error) error {
	for n := 0; ; n++ {
		ctx, cancel := context.WithTimeout(context.Background(), callTime)
		err := ask(ctx)
		cancel()
		f, ok := errors.AsType[*Failure](err)
		if err == nil || ok && f.Stale || !passing(err) || time.Since(*start) > flightTime || !l.rest(min(time.Millisecond<<min(n, 10), mostRest)) {
			return err
		}
	}
}

// look reads the items of the group that are not known.
func (l *lane) look(start time.Time) error {
	var missing []Item
	for _, c := range l.calls {
		for _, k := range c.keys {
			if l.cache.items[k] == nil {
				l.cache.know(Item{Key: k}, cached{})
				missing = append(missing, Item{Key: k})
			}
		}
	}
	if _, known := l.store.clock.present(); len(missing) == 0 && known {
		return nil
	}
	var m Moment
	err := l.try(&start, func(ctx context.Context) (err error) {
		m, err = l.store.table.Read(ctx, missing)
		return err
	})
	if err != nil {
		for i := range missing {
			l.cache.drop(missing[i].Key)
		}
		return err
	}
	l.store.clock.told(m)
	for i := range missing {
		l.cache.remember(missing[i]).told = l.group
	}
	return nil
}

// part is calls that have items in common, directly or by others: they change
// together.
type part struct {
	calls []*call
	keys  []Key
	err   error
}

// part decides the calls one after the other and makes the changes of it.
func (l *lane) part(m Moment) []part {
	s, subjects, home := l.store, l.subjects, l.homes
	clear(subjects)
	clear(home)
	var parts []part
	for _, c := range l.calls {
		at := -1
		for _, k := range c.keys {
			p, ok := home[k]
			switch {
			case !ok:
			case at < 0:
				at = p
			case at != p: // the call joins two
				for _, moved := range parts[p].keys {
					home[moved] = at
				}
				parts[at].calls = append(parts[at].calls, parts[p].calls...)
				parts[at].keys = append(parts[at].keys, parts[p].keys...)
				if parts[at].err == nil {
					parts[at].err = parts[p].err
				}
				parts[p] = part{}
			}
		}
		if at < 0 {
			at = len(parts)
			parts = append(parts, part{})
		}
		p := &parts[at]
		for _, k := range c.keys {
			if _, ok := home[k]; !ok {
				home[k] = at
				p.keys = append(p.keys, k)
				known := l.cache.items[k]
				subjects[k] = &subject{Owner: record.Owner{Budgets: slices.Clone(known.owner.Budgets)}, at: known.item.At}
				if known.err != nil {
					p.err = known.err
				}
			}
		}
		p.calls = append(p.calls, c)
		if p.err == nil {
			c.decide(moment{m.Now, m.Epoch}, subjects)
		}
	}
	l.changes = l.changes[:0]
	parts = slices.DeleteFunc(parts, func(p part) bool { return len(p.calls) == 0 })
	swaps := make([]Swap, 0, len(subjects))
	for i := range parts {
		p, from := &parts[i], len(swaps)
		for _, k := range p.keys {
			swap := Swap{Old: l.cache.items[k].item}
			if x := subjects[k]; p.err == nil && x.moved {
				swap.Write = true
				swap.New = Item{Key: k, Version: rand.Uint64() | 1, Value: x.Append(nil, x.at), Expires: x.Absent(), At: x.at}
				if len(swap.New.Value) > s.mostSize {
					p.err = &headgate.Error{Code: headgate.Overloaded, Err: fmt.Errorf("state of %d bytes: at most %d of one owner", len(swap.New.Value), s.mostSize)}
				}
			}
			swaps = append(swaps, swap)
		}
		change := Change{Items: swaps[from:len(swaps):len(swaps)]}
		switch {
		case p.err != nil:
			change.Items = nil
		case l.store.apart && !change.writes() && l.cache.items[p.keys[0]].told == l.group:
			change.Done = true // was just read
		}
		l.changes = append(l.changes, change)
	}
	return parts
}

// decide does the call on its subjects.
func (c *call) decide(m moment, subjects map[Key]*subject) {
	if c.leases {
		m.acquire(&c.request, subjects[c.keys[0]], &algo.DefaultTerms, &c.reply)
		return
	}
	for _, at := range c.places {
		c.mine = append(c.mine, subjects[c.keys[at]])
	}
	c.err = m.decide(c)
	clear(c.mine)
	clear(c.stakes)
	c.mine, c.stakes = c.mine[:0], c.stakes[:0]
}
