package memstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// round is one commit of the journal, for those who wait for it.
type round struct {
	done chan struct{}
	err  error
}

func newRound() *round { return &round{done: make(chan struct{})} }

// wait returns when the round has been committed, or has failed.
func (r *round) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		select {
		case <-r.done:
			return r.err
		default:
		}
		return &headgate.Error{Code: headgate.Unavailable, Err: fmt.Errorf("journal: not written in time: %w", ctx.Err())}
	}
}

// promise returns the round that will have everything that was noted so far, and
// sees to it.
func (k *keeper) promise() *round {
	k.mu.Lock()
	defer k.mu.Unlock()
	wake(k.kick)
	return k.round
}

const (
	// laziness is how long what nobody waits for may wait for more of it.
	laziness = 2 * time.Millisecond
	// retryEvery is how long after a failure what nobody waits for is tried again.
	retryEvery = time.Second
	// mostRecords is about how many records a commit has at the stop.
	mostRecords = 8192
)

// write commits rounds until the store is closed.
func (s *Store) write(k *keeper) {
	var c Commit
	for {
		select {
		case <-k.kick:
		case <-k.quit:
			s.commit(k, &c)
			return
		case <-k.lazy:
			if !k.rest(laziness) {
				s.commit(k, &c)
				return
			}
		}
		for s.commit(k, &c) != nil {
			if !k.rest(retryEvery) {
				s.commit(k, &c)
				return
			}
		}
	}
}

// rest waits, but not if there is a hurry. It reports false at the end.
func (k *keeper) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-k.kick:
	case <-k.quit:
		return false
	}
	return true
}

// commit writes what was noted, in one piece: what one batch has moved is in the
// journal all or not at all.
func (s *Store) commit(k *keeper, c *Commit) error {
	k.mu.Lock()
	r, notes, seq := k.round, k.notes, k.seq
	*c = Commit{Now: k.latest, Records: c.Records[:0], Limits: k.uses}
	k.round, k.notes, k.uses = newRound(), k.spare[:0], nil
	k.crowd.Store(false)
	k.seq++
	k.mu.Unlock()
	if len(notes) > 0 || len(c.Limits) > 0 {
		for i := range notes {
			c.Records = append(c.Records, notes[i].Record)
		}
		if err := k.journal.Commit(c); err != nil {
			r.err = unwritten(err)
			s.failed(k, notes, seq, c.Limits)
		} else {
			s.landed(notes, seq)
		}
		clear(c.Records)
		clear(notes)
	}
	k.spare = notes
	close(r.done)
	return r.err
}

// unwritten is what callers are told who wait for a commit that failed.
func unwritten(err error) error {
	if headgate.CodeOf(err) == headgate.Unknown {
		err = &headgate.Error{Code: headgate.Unavailable, Err: err}
	}
	return err
}

// record fills in r with the state of an entry, raised to a mark.
func (s *Store) record(r *Record, sh *shard, e *entry, l *headgate.Prepared, m algo.Mark) {
	r.Limit, r.Keep = l, math.MinInt64
	if e.version&wide == 0 {
		r.Words = make([]int64, algo.Words(l))
		algo.Unpack(l, r.Words, m.Top, sh.last-s.origin, sh.last)
	} else {
		r.Words = slices.Clone(algo.Trim(l, sh.arena.state(e.state)))
		m.Lift(l, r.Words)
		if keep := *sh.arena.keep(e.state); keep != 0 {
			r.Keep = keep
		}
		if sh.lent(e, l, sh.last) {
			r.Leases = sh.accounts(ident{e.hi, e.lo})
		}
	}
	r.Until = max(r.Keep, algo.AbsentAt(l, r.Words))
}

// landed notes that the journal has what a round had.
func (s *Store) landed(notes []note, seq uint64) {
	for i := range notes {
		n := &notes[i]
		sh := &s.shards[n.shard]
		sh.mu.Lock()
		s.arrived(sh, n, seq)
		sh.mu.Unlock()
	}
}

// arrived is landed for one note.
func (s *Store) arrived(sh *shard, n *note, seq uint64) {
	p := n.pending
	if p.mark = n.mark; p.limit != n.limit && (p.limit == nil || n.limit == nil || !p.limit.SameNumbers(n.limit)) {
		p.mark = algo.Mark{}
	}
	if p.seq != seq {
		return // there is a newer one
	}
	delete(sh.pending, n.id)
	i, found := sh.find(n.id)
	if !found {
		return
	}
	e := &sh.table[i]
	switch {
	case p.leaving:
		s.remove(sh, i)
		sh.evicted++
	case n.limit == nil || !n.mark.OK || n.mark == sh.markAt(e, n.limit).Ahead(n.limit):
		e.version &^= unsure
	} // else it was to leave, and the journal has it exactly
}

// failed puts the notes of a round that was not written into the next one, but those
// that it has newer ones of.
func (s *Store) failed(k *keeper, notes []note, seq uint64, uses []Use) {
	for i := range notes {
		n := notes[i]
		sh := &s.shards[n.shard]
		sh.mu.Lock()
		k.mu.Lock()
		n.leaving = false
		if n.seq == seq {
			k.enqueue(n)
		}
		k.mu.Unlock()
		sh.mu.Unlock()
	}
	k.mu.Lock()
	for _, u := range uses {
		k.tell(u)
	}
	k.mu.Unlock()
}

// finish ends the writer and commits all states as they are, in order.
func (s *Store) finish() error {
	k := s.kept
	latest := int64(math.MinInt64)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.parkAll()
		sh.closed = true
		latest = max(latest, sh.last)
		sh.mu.Unlock()
	}
	close(k.quit)
	k.ended.Wait()
	k.mu.Lock()
	k.round.err = errClosed // for all who come later
	close(k.round.done)
	c := Commit{Now: max(k.latest, latest)}
	k.mu.Unlock()
	var err error
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		s.flush(sh, &c)
		sh.mu.Unlock()
		if len(c.Records) >= mostRecords {
			err = errors.Join(err, k.journal.Commit(&c))
			c.Records = c.Records[:0]
		}
	}
	// Shortly after a kill, what it has made of states is known to this process only.
	k.mu.Lock() // a batch that comes too late may be telling of its limits
	c.Limits, c.Clean = k.uses, len(k.notes) == 0 && err == nil && (k.past.Clean || k.past.Latest == 0 || s.Now() >= k.settled)
	k.mu.Unlock()
	return errors.Join(err, k.journal.Commit(&c))
}

// flush appends the records of a shard's states.
func (s *Store) flush(sh *shard, c *Commit) {
	for i := range sh.table {
		e := &sh.table[i]
		if e.version == 0 || e.lo&sharedBit != 0 {
			continue
		}
		l := s.versions.get(e.version &^ flags)
		r := Record{Key: Key{e.hi, e.lo}}
		s.record(&r, sh, e, l, sh.markAt(e, l))
		switch {
		case sh.last < r.Until:
			c.Records = append(c.Records, r)
		case s.durable(l): // the journal may have it further ahead
			c.Records = append(c.Records, Record{Key: r.Key})
		}
	}
}

// Latest returns the latest instant that was committed or is about to be, in
// microseconds since the Unix epoch; without a journal math.MinInt64.
func (s *Store) Latest() int64 {
	k := s.kept
	if k == nil {
		return math.MinInt64
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.latest
}
