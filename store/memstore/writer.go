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
	r := k.round
	k.mu.Unlock()
	k.hurry()
	return r
}

// hurry has the next round written at once.
func (k *keeper) hurry() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

const (
	// laziness is how long what nobody waits for may wait for more of it.
	laziness = 2 * time.Millisecond
	// retryEvery is how long after a failure what nobody waits for is tried again.
	retryEvery = time.Second
	// mostRecords is how many records a commit has at most.
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

// commit writes what is to be written.
func (s *Store) commit(k *keeper, c *Commit) error {
	k.mu.Lock()
	r, dirty, uses := k.round, k.dirty, k.uses
	k.round, k.dirty, k.uses = newRound(), nil, nil
	now := k.latest
	k.mu.Unlock()
	*c = Commit{Now: now, Records: c.Records[:0], Limits: uses}
	for len(dirty) > 0 || len(c.Limits) > 0 {
		n := min(len(dirty), mostRecords)
		part := dirty[:n]
		dirty = dirty[n:]
		c.Records = c.Records[:0]
		for _, p := range part {
			s.image(p, c)
		}
		if r.err = k.journal.Commit(c); r.err != nil {
			r.err = unwritten(r.err)
			s.failed(k, part, dirty, c.Limits)
			break
		}
		c.Limits = nil
		s.landed(part)
	}
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

// image appends the record of a state as the journal is to have it: ahead of what
// was used.
func (s *Store) image(at dirt, c *Commit) {
	sh := &s.shards[at.shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p := sh.pending[at.id]
	p.dirty, p.flying, p.flight = false, true, algo.Mark{}
	r := Record{Key: Key{at.id.hi, at.id.lo}}
	if i, found := sh.find(at.id); found {
		e := &sh.table[i]
		l := s.versions.get(e.version &^ flags)
		if sh.lasts(e, l, sh.last) {
			if p.flight = sh.markAt(e, l); !p.leaving {
				p.flight = p.flight.Ahead(l)
			}
			s.record(&r, sh, e, l, p.flight)
		}
	}
	c.Records = append(c.Records, r)
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
	}
	r.Until = max(r.Keep, algo.AbsentAt(l, r.Words))
}

// landed notes that the journal has what flew.
func (s *Store) landed(part []dirt) {
	for _, at := range part {
		sh := &s.shards[at.shard]
		sh.mu.Lock()
		p := sh.pending[at.id]
		p.flying, p.mark = false, p.flight
		if !p.dirty {
			delete(sh.pending, at.id)
			if i, found := sh.find(at.id); found {
				if p.leaving {
					s.remove(sh, i)
					sh.evicted++
				} else {
					sh.table[i].version &^= unsure
				}
			}
		}
		sh.mu.Unlock()
	}
}

// failed notes that the journal may not have what flew, and nothing of the rest.
func (s *Store) failed(k *keeper, flown, rest []dirt, uses []Use) {
	again := slices.Clone(rest)
	for _, at := range flown {
		sh := &s.shards[at.shard]
		sh.mu.Lock()
		p := sh.pending[at.id]
		p.flying, p.leaving = false, false
		if !p.dirty {
			p.dirty = true
			again = append(again, at)
		}
		sh.mu.Unlock()
	}
	k.mu.Lock()
	k.dirty = append(k.dirty, again...)
	k.uses = append(k.uses, uses...)
	k.mu.Unlock()
}

// finish ends the writer and commits all states as they are, in order.
func (s *Store) finish() error {
	k := s.kept
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.parkAll()
		sh.closed = true
		sh.mu.Unlock()
	}
	close(k.quit)
	k.ended.Wait()
	k.mu.Lock()
	k.round.err = errClosed // for all who come later
	close(k.round.done)
	c := Commit{Now: k.latest}
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
	c.Limits, c.Clean = k.uses, len(k.dirty) == 0 && err == nil && (k.past.Clean || k.past.Latest == 0 || s.Now() >= k.settled)
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
