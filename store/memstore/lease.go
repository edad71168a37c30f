package memstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// incarnation names the state that a store has: of a journal, as long as that
// lacks no commits. Who holds leases goes on with them in the next process.
func incarnation(c *Config) headgate.Epoch {
	seed := c.Secret
	if c.Journal == nil || seed == [32]byte{} {
		rand.Read(seed[:])
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(append(seed[:], "epoch"...), uint64(c.Past.Lost)))
	return headgate.Epoch{ID: max(1, binary.BigEndian.Uint64(sum[:])>>11)}
}

// Acquire grants leases, on the terms of [algo.DefaultTerms]; see
// [headgate.Authority]. Cells that keys share are never leased. With a journal a
// reply is given when what it grants would survive a crash.
func (s *Store) Acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	return s.acquire(ctx, s.Now(), requests, replies)
}

// acquire is Acquire at an instant.
func (s *Store) acquire(ctx context.Context, now int64, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	if !algo.PackedRange(now - s.origin) {
		return errInstant
	}
	if s.versions.due(now) {
		s.collectDue(now)
	}
	if s.kept != nil {
		if err := s.registerLeases(ctx, requests, now); err != nil {
			return err
		}
	}
	wait := false
	for i := range requests {
		noted, err := s.lend(ctx, &requests[i], now, &replies[i])
		if err != nil {
			return err
		}
		wait = wait || noted
	}
	if !wait {
		return nil
	}
	return s.kept.promise().wait(ctx)
}

// registerLeases tells the journal of the limits of which something may be leased.
func (s *Store) registerLeases(ctx context.Context, requests []headgate.LeaseRequest, now int64) error {
	charges := make([]headgate.Charge, 0, len(requests))
	for i := range requests {
		if l := requests[i].Limit; algo.Lendable(l) {
			charges = append(charges, headgate.Charge{Limit: l})
		}
	}
	return s.register(&haste{ctx: ctx}, charges, true, now)
}

// lend answers one request. It reports whether the reply has to wait for the
// journal.
func (s *Store) lend(ctx context.Context, r *headgate.LeaseRequest, now int64, reply *headgate.LeaseReply) (noted bool, err error) {
	charges := []headgate.Charge{{Limit: r.Limit, Owner: r.Owner}}
	var f *fetch
	if s.kept != nil {
		f = new(fetch)
	}
	for spills := 0; ; {
		noted, err = s.lendOne(r, charges, now, f, reply)
		switch {
		case f != nil && f.missing:
			if err := s.kept.journal.Load(ctx, f.records); err != nil {
				return false, err
			}
			continue
		case f != nil && err == errFull && spills < mostSpills:
			spills++
			if err = s.spill(&haste{ctx: ctx}, charges, spills > 1); err == nil {
				continue
			}
		}
		if err == errFull || err == errVersions {
			*reply = headgate.LeaseReply{Status: headgate.LeaseFailed}
			return false, nil
		}
		return noted, err
	}
}

// lendOne is lend as far as memory goes. f is nil without a journal.
func (s *Store) lendOne(r *headgate.LeaseRequest, charges []headgate.Charge, now int64, f *fetch, reply *headgate.LeaseReply) (noted bool, err error) {
	var cells [1]cell
	s.locate(cells[:], charges)
	c, l := &cells[0], r.Limit
	sh := c.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return false, errClosed
	}
	now = sh.advance(now)
	unpin(cells[:])
	if f != nil {
		if ok, err := s.resolve(f, charges, cells[:], now); !ok {
			return false, err
		}
		s.stand(cells[:], charges, now)
	}
	b, shared := s.budget(c, l, now)
	changed := b.Acquire(r, now, s.epoch, &algo.DefaultTerms, reply)
	o := &reply.State
	o.Shared = shared && !changed
	o.Recovering = !o.Allowed && !o.Never && s.recovering(l, now)
	if !changed {
		return false, nil
	}
	if err := s.put(c, &b, now); err != nil {
		return false, err
	}
	return f != nil && s.note(headgate.Debit, charges, cells[:], now) != nil, nil
}

// budget returns a copy of the state that a charge of l would spend from, and
// whether that is one that keys share.
func (s *Store) budget(c *cell, l *headgate.Prepared, now int64) (b algo.Budget, shared bool) {
	sh := c.shard
	at, own := sh.find(c.id)
	if !own {
		at = s.standInFor(c, l)
	}
	if at < 0 {
		return algo.Budget{Limit: l, Words: s.initial(l, make([]int64, algo.Words(l)), now), Epoch: s.epoch.ID}, false
	}
	e := &sh.table[at]
	b = algo.Budget{Limit: s.versions.get(e.version &^ flags), Epoch: s.epoch.ID}
	var two [2]int64
	words, keep := s.words(sh, e, b.Limit, now, &two)
	b.Words, b.Keep = slices.Clone(words), keep
	if own {
		b.Leases = sh.accounts(c.id)
	}
	return b, e.lo&sharedBit != 0
}

// put makes b, of which there are accounts, the state of the key.
func (s *Store) put(c *cell, b *algo.Budget, now int64) error {
	sh := c.shard
	batch := [1]cell{*c}
	x := &batch[0]
	defer func() {
		s.tidy(batch[:], now)
		*c = *x
	}()
	if _, err := s.materialise(x, b.Limit, now, batch[:], false); err != nil {
		return err
	}
	x.at, _ = sh.find(x.id)
	e := &sh.table[x.at]
	was, had := none, none
	if e.version&wide != 0 {
		was = e.state
	}
	if ref, ok := sh.leases[x.id]; ok {
		had = ref
	}
	state, ok := sh.arena.fit(was, len(b.Words), sh.room(e.lo))
	if !ok {
		return errFull
	}
	accounts, ok := sh.arena.fit(had, len(b.Leases)*leaseWords, sh.room(e.lo))
	if !ok {
		if state != was {
			sh.arena.release(state)
		}
		return errFull
	}
	if was != none && state != was {
		sh.arena.release(was)
	}
	if had != none && accounts != had {
		sh.arena.release(had)
	}
	clear(sh.arena.state(state)[copy(sh.arena.state(state), b.Words):])
	*sh.arena.keep(state) = b.Keep
	e.version, e.state = e.version|wide, state
	sh.setAccounts(x.id, accounts, b.Leases)
	x.moved = true
	return nil
}

// resetLent does Reset on a state of which something is leased out, which stays
// held. It reports false, and has done nothing, if nothing is.
func (s *Store) resetLent(c *cell, l *headgate.Prepared, now int64, o *headgate.Outcome) bool {
	sh := c.shard
	if _, ok := sh.leases[c.id]; !ok {
		return false
	}
	b, _ := s.budget(c, l, now)
	b.Load(l, now, s.epoch)
	b.Reset(now, s.epoch)
	if len(b.Leases) == 0 {
		return false
	}
	// There is room: what is leased of has at least one hold, and goes on only
	// under numbers that need no more words.
	at, _ := sh.find(c.id)
	e := &sh.table[at]
	st := sh.arena.state(e.state)
	clear(st[copy(st, b.Words):])
	*sh.arena.keep(e.state) = b.Keep
	e.version = l.Serial | wide | e.version&unsure
	c.at, c.moved = at, true
	s.run(c, &algo.Call{Op: headgate.Peek, Now: now}, l, o)
	return true
}

// leased reports whether something is leased out of the state st of an entry, be
// it as it would be under other numbers.
func (sh *shard) leased(e *entry, l *headgate.Prepared, st []int64, now int64) bool {
	if len(sh.leases) == 0 {
		return false
	}
	if _, ok := sh.leases[ident{e.hi, e.lo}]; !ok {
		return false
	}
	out, _ := algo.Lent(l, st, now)
	return out > 0
}

// lent reports whether there are accounts of an entry that still mean something.
func (sh *shard) lent(e *entry, l *headgate.Prepared, now int64) bool {
	if len(sh.leases) == 0 || e.version&wide == 0 {
		return false
	}
	if _, ok := sh.leases[ident{e.hi, e.lo}]; !ok {
		return false
	}
	_, ok := algo.Lent(l, sh.arena.state(e.state), now)
	return ok
}

// endLeases forgets what nobody holds any more of the states of a batch.
func (s *Store) endLeases(cells []cell, now int64) {
	for i := range cells {
		c := &cells[i]
		if len(c.shard.leases) == 0 {
			continue
		}
		if at, found := c.shard.find(c.id); found {
			s.endLease(c.shard, at, now)
		}
	}
}

// endLease forgets the accounts of the entry at place at if they mean nothing any
// more, and packs its bucket.
func (s *Store) endLease(sh *shard, at int, now int64) {
	e := &sh.table[at]
	id := ident{e.hi, e.lo}
	if _, ok := sh.leases[id]; !ok {
		return
	}
	l := s.versions.get(e.version &^ flags)
	if sh.pending[id] != nil || sh.lent(e, l, now) {
		return // what is about to be written is the state in words
	}
	if sh.dropAccounts(id); e.version&wide == 0 {
		return
	}
	s.pack(&cell{shard: sh, at: at}, l, now)
	if s.kept != nil && e.version&wide == 0 {
		e.version |= unsure // the journal has it exactly, as it was in words
	}
}

// leaseWords is how many words an account takes in the arena, where those of a
// state are a block whose first word says how many they are.
const leaseWords = 6

// none is no reference to the arena.
const none int64 = -1

// accounts returns the accounts of those that hold leases of the key.
func (sh *shard) accounts(id ident) []algo.Lease {
	ref, ok := sh.leases[id]
	if !ok {
		return nil
	}
	st := sh.arena.state(ref)
	list := make([]algo.Lease, *sh.arena.keep(ref))
	for i := range list {
		w := st[i*leaseWords:]
		list[i] = algo.Lease{Holder: [2]uint64{uint64(w[0]), uint64(w[1])}, Granted: w[2], Settled: w[3], Returned: w[4], Seen: w[5]}
	}
	return list
}

// setAccounts makes a block, which has the room, that of the key's accounts.
func (sh *shard) setAccounts(id ident, ref int64, list []algo.Lease) {
	if sh.leases == nil {
		sh.leases = make(map[ident]int64)
	}
	sh.leases[id] = ref
	*sh.arena.keep(ref) = int64(len(list))
	st := sh.arena.state(ref)
	for i := range list {
		x := &list[i]
		copy(st[i*leaseWords:], []int64{int64(x.Holder[0]), int64(x.Holder[1]), x.Granted, x.Settled, x.Returned, x.Seen})
	}
}

// dropAccounts forgets the accounts of a key.
func (sh *shard) dropAccounts(id ident) {
	if len(sh.leases) == 0 {
		return
	}
	if ref, ok := sh.leases[id]; ok {
		sh.arena.release(ref)
		if delete(sh.leases, id); len(sh.leases) == 0 {
			sh.leases = nil
		}
	}
}
