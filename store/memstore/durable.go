package memstore

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// keeper is what a store with a journal has beside its table. Lock order: a
// shard's lock before its own.
type keeper struct {
	journal Journal
	past    Past
	since   int64 // when this process began
	settled int64 // from when on nothing of the process before counts for transient limits

	// bans are those of the process before whose owners have not come yet.
	bans struct {
		sync.Mutex
		left map[Key]Record
		some atomic.Bool
	}

	families struct {
		sync.RWMutex
		known map[[2]uint64]*family
		// forgotten says that some were, whose states may be in the journal.
		forgotten bool
	}

	// over has the serials of limits of which nothing that was lost counts any more.
	over struct {
		sync.RWMutex
		serials map[uint32]struct{}
	}

	mu     sync.Mutex
	round  *round // the next
	seq    uint64 // its number
	notes  []note // of it
	uses   []Use
	latest int64
	spare  []note      // room for the notes of another round; the writer's
	most   int         // how many notes may wait before new states have to
	crowd  atomic.Bool // so many do

	kick, lazy chan struct{} // there is something to write: now, or soon
	quit       chan struct{}
	closing    sync.Once
	ended      sync.WaitGroup
}

// family is the limits of one identity, under whatever numbers.
type family struct {
	// durable is set while states of it may be in the journal.
	durable atomic.Bool
	// lost are those whose states an earlier process may have had in memory only, and
	// have been lost with it.
	lost []*headgate.Prepared
	// known are the numbers that the journal has; guarded by the families' lock.
	known []*headgate.Prepared
}

// mostNumbers is how many numbers of one identity are remembered to be in the
// journal. Others are told to it again.
const mostNumbers = 64

// mostOver is of how many limits it is remembered that what was lost is over.
const mostOver = 1 << 16

// mostFamilies is how many identities are remembered, beside those of which states
// were lost.
const mostFamilies = 1 << 17

// keep makes s a store with a journal.
func (s *Store) keep(j Journal, past Past) {
	k := &keeper{
		journal: j, past: past, since: s.startMicros, settled: s.startMicros + algo.Horizon, latest: past.Latest,
		most: max(leastBacklog, int(s.maxBytes/backlogBytes)), round: newRound(), seq: 1, kick: make(chan struct{}, 1), lazy: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	s.kept = k
	k.families.known = make(map[[2]uint64]*family)
	k.over.serials = make(map[uint32]struct{})
	for _, u := range past.Limits {
		f := k.families.known[u.ID]
		if f == nil {
			f = new(family)
			k.families.known[u.ID] = f
		}
		if u.Durable {
			f.durable.Store(true)
		}
		switch {
		case !algo.Transient(u.Limit):
			f.learn(u.Limit)
		case !past.Clean && u.Since >= past.Began-algo.Horizon && !has(f.lost, u.Limit):
			f.lost = append(f.lost, u.Limit)
		} // and is told again when it is used again
	}
	k.bans.left = make(map[Key]Record)
	for _, r := range past.Bans {
		if r.Until > s.startMicros {
			k.bans.left[r.Key] = r
		}
	}
	k.bans.some.Store(len(k.bans.left) > 0)
	k.past.Bans, k.past.Limits = nil, nil
	k.ended.Go(func() { s.write(k) })
}

// durable reports whether every state of l is in the journal.
func (s *Store) durable(l *headgate.Prepared) bool { return s.kept != nil && !algo.Transient(l) }

// known returns the family of a limit that the journal has been told of, nil if it
// has not.
func (k *keeper) known(l *headgate.Prepared) *family {
	k.families.RLock()
	defer k.families.RUnlock()
	if f := k.families.known[l.ID]; f != nil && has(f.known, l) {
		return f
	}
	return nil
}

// durable reports whether states under whatever numbers of l may be in the journal.
func (k *keeper) durable(l *headgate.Prepared) bool {
	k.families.RLock()
	defer k.families.RUnlock()
	f := k.families.known[l.ID]
	return f != nil && f.durable.Load()
}

// has reports whether one of all has the numbers of l.
func has(all []*headgate.Prepared, l *headgate.Prepared) bool {
	for _, x := range all {
		if x == l || x.SameNumbers(l) {
			return true
		}
	}
	return false
}

// register tells the journal of limits that are new to it, before any state is kept
// under them.
func (s *Store) register(h *haste, charges []headgate.Charge, reserves bool, now int64) error {
	k := s.kept
	var r *round
	for i := range charges {
		l := charges[i].Limit
		durable := reserves || !algo.Transient(l)
		if f := k.known(l); f != nil && (!durable || f.durable.Load()) {
			continue
		}
		durable = durable || k.durable(l)
		k.mu.Lock()
		k.tell(Use{ID: l.ID, Limit: l, Since: now, Durable: durable})
		k.latest = max(k.latest, now)
		r = k.round
		k.mu.Unlock()
	}
	if r == nil {
		return nil
	}
	wake(k.kick)
	if err := r.wait(h.context()); err != nil {
		return err
	}
	k.families.Lock()
	defer k.families.Unlock()
	for i := range charges {
		l := charges[i].Limit
		f := k.families.known[l.ID]
		if f == nil {
			k.forgetFamilies()
			f = new(family)
			f.durable.Store(k.families.forgotten) // it may be one of those
			k.families.known[l.ID] = f
		}
		if !has(f.known, l) {
			f.learn(l)
		}
		if reserves || !algo.Transient(l) {
			f.durable.Store(true)
		}
	}
	return nil
}

// tell has the next round tell of a limit, once.
func (k *keeper) tell(u Use) {
	if !slices.ContainsFunc(k.uses, func(x Use) bool { return x.ID == u.ID && (x.Durable || !u.Durable) && x.Limit.SameNumbers(u.Limit) }) {
		k.uses = append(k.uses, u)
	}
}

// learn notes that the journal has the numbers.
func (f *family) learn(l *headgate.Prepared) {
	if len(f.known) >= mostNumbers {
		f.known = f.known[1:]
	}
	f.known = append(f.known, l)
}

// forgetFamilies makes room for another: any may go but those of which states were
// lost, which the journal has told. A limit of one that has gone is told to it again.
func (k *keeper) forgetFamilies() {
	if len(k.families.known) < mostFamilies {
		return
	}
	for id, f := range k.families.known {
		if len(f.lost) == 0 {
			k.families.forgotten = k.families.forgotten || f.durable.Load()
			delete(k.families.known, id)
		}
		if len(k.families.known) < mostFamilies/2 {
			return
		}
	}
}

// looked reports whether a state of l that is not in memory may be in the journal.
func (k *keeper) looked(l *headgate.Prepared, now int64) bool {
	// The deepest debt of a bucket takes twice as long to recover as a full one.
	if !algo.Transient(l) || k.past.Clean && now < k.since+2*algo.Horizon {
		return true
	}
	f := k.known(l)
	return f == nil || f.durable.Load()
}

// quiet reports whether a state of l that was never seen needs no thought: it is
// not in the journal, and nothing of it was lost.
func (s *Store) quiet(l *headgate.Prepared, now int64) bool {
	k := s.kept
	return k == nil || now >= k.settled && algo.Transient(l) && !k.looked(l, now)
}

// initial makes st the state of a budget that is neither in memory nor in the
// journal: never seen, or with nothing left when this process began, where what it
// was before may have been lost. It returns the state, which may have moved.
func (s *Store) initial(l *headgate.Prepared, st []int64, now int64) []int64 {
	algo.Init(l, st, now)
	k := s.kept
	if k == nil || !k.forgot(l, now) {
		return st
	}
	worst, least := st, int64(math.MaxInt64)
	for _, lost := range k.lost(l) {
		was, until := k.depleted(lost)
		if now >= until {
			continue
		}
		if lost != l {
			words := make([]int64, algo.ConvertWords(lost, l, was))
			algo.Convert(lost, l, words, was, now)
			was = words
		}
		if n := left(l, was, now); n < least {
			worst, least = was, n
		}
	}
	return worst
}

// explain says of every refusal whether it may be due to what was lost.
func (s *Store) explain(b *headgate.Batch, charges []headgate.Charge, now int64) {
	if b.Op != headgate.Take && b.Op != headgate.Peek {
		return
	}
	for i := range charges {
		o := &b.Outcomes()[i]
		o.Recovering = !o.Allowed && !o.Never && s.recovering(charges[i].Limit, now)
	}
}

// recovering reports whether a refusal by l may be due to what initial made of it.
func (s *Store) recovering(l *headgate.Prepared, now int64) bool {
	k := s.kept
	if k == nil || !k.forgot(l, now) {
		return false
	}
	return slices.ContainsFunc(k.lost(l), func(lost *headgate.Prepared) bool {
		_, until := k.depleted(lost)
		return now < until
	})
}

// lost returns the limits that a state of l, which is nowhere, may have been under: l
// itself, or those of which nothing is in the journal. None if it was never seen.
func (k *keeper) lost(l *headgate.Prepared) []*headgate.Prepared {
	var all []*headgate.Prepared
	if k.past.Lost != 0 || algo.Transient(l) {
		all = append(all, l)
	}
	if f := k.known(l); f != nil && !algo.Transient(l) {
		all = append(all, f.lost...)
	}
	return all
}

// depleted returns the worst that a state may be that was lost, and until when that
// counts.
func (k *keeper) depleted(l *headgate.Prepared) (st []int64, until int64) {
	at := k.since
	if k.past.Lost != 0 && (k.past.Clean || !algo.Transient(l)) {
		at = k.past.Lost
	}
	st = make([]int64, algo.Words(l))
	algo.Init(l, st, at)
	st = algo.Deplete(l, st, at)
	return st, algo.AbsentAt(l, st)
}

// forgot reports whether what the process before knew of states under l, and the
// journal does not, may still count.
func (k *keeper) forgot(l *headgate.Prepared, now int64) bool {
	if k.past.Lost == 0 {
		return k.past.Latest != 0 && !k.past.Clean && now < k.settled
	}
	k.over.RLock()
	_, over := k.over.serials[l.Serial]
	k.over.RUnlock()
	if over {
		return false
	}
	for _, lost := range k.lost(l) {
		if _, until := k.depleted(lost); now < until {
			return true
		}
	}
	k.over.Lock()
	defer k.over.Unlock()
	if len(k.over.serials) >= mostOver {
		clear(k.over.serials)
	}
	k.over.serials[l.Serial] = struct{}{}
	return false
}

// lacks reports whether a state under other numbers than those of l may have been
// charged under l since, in what a restore has lost.
func (k *keeper) lacks(l *headgate.Prepared, now int64) bool {
	return k != nil && k.past.Lost != 0 && k.forgot(l, now)
}

// fetch is what a batch knows of the journal while it is tried again.
type fetch struct {
	records []Record
	evicted []uint64 // of the records' shards, before they were loaded
	missing bool     // records are to be loaded
	wait    *round   // what has to be written before the batch is answered
}

// resolve makes sure that every state of the batch that the journal may have is in
// memory or known not to be. It reports false if some have to be loaded first.
// The caller holds all locks.
func (s *Store) resolve(f *fetch, charges []headgate.Charge, cells []cell, now int64) (bool, error) {
	k := s.kept
	loaded, evicted := f.records, f.evicted
	f.records, f.evicted, f.missing = nil, nil, false
	for i := range cells {
		c, l := &cells[i], charges[i].Limit
		if l.Algorithm == headgate.Ban {
			if r, ok := k.ban(c.id, false); ok {
				if err := s.admit(c.shard, c.id, &r, now); err != nil {
					return false, err
				}
				k.ban(c.id, true)
			}
			continue
		}
		if _, found := c.shard.find(c.id); found || c.shard.pending[c.id] != nil || !k.looked(l, now) {
			continue
		}
		if at := recordOf(loaded, c.id); at >= 0 && evicted[at] == c.shard.evicted {
			if err := s.admit(c.shard, c.id, &loaded[at], now); err != nil {
				return false, err
			}
			continue
		}
		f.records = append(f.records, Record{Key: Key{c.id.hi, c.id.lo}})
		f.evicted = append(f.evicted, c.shard.evicted)
		f.missing = true
	}
	return !f.missing, nil
}

// ban looks for a ban of the process before, and takes it out of the list.
func (k *keeper) ban(id ident, take bool) (r Record, ok bool) {
	if !k.bans.some.Load() {
		return r, false
	}
	k.bans.Lock()
	defer k.bans.Unlock()
	r, ok = k.bans.left[Key{id.hi, id.lo}]
	if ok && take {
		delete(k.bans.left, r.Key)
		k.bans.some.Store(len(k.bans.left) > 0)
	}
	return r, ok
}

// forgetBans forgets bans of the process before that are over.
func (k *keeper) forgetBans(now int64) {
	if k == nil || !k.bans.some.Load() {
		return
	}
	k.bans.Lock()
	defer k.bans.Unlock()
	maps.DeleteFunc(k.bans.left, func(_ Key, r Record) bool { return now >= r.Until })
	if len(k.bans.left) == 0 {
		k.bans.left = make(map[Key]Record) // a map keeps its room
	}
	k.bans.some.Store(len(k.bans.left) > 0)
}

// banned reports whether the process before has left a ban under the identity.
func (k *keeper) banned(id ident) bool {
	if k == nil {
		return false
	}
	_, ok := k.ban(id, false)
	return ok
}

func recordOf(records []Record, id ident) int {
	for i := range records {
		if records[i].Key == (Key{id.hi, id.lo}) {
			return i
		}
	}
	return -1
}

// admit puts a state that was loaded into the table, if it still counts.
func (s *Store) admit(sh *shard, id ident, r *Record, now int64) error {
	l := r.Limit
	if l == nil || now >= r.Until {
		return nil
	}
	if n := algo.Words(l); len(r.Words) < n {
		return fmt.Errorf("journal: state of %d words: %v needs %d", len(r.Words), l.Algorithm, n)
	}
	if k := s.kept; !k.past.Clean {
		algo.Settled(l, r.Words, k.since)
		if algo.Transient(l) && r.Keep <= k.since && !algo.Reserved(l, r.Words) {
			// It was written for as long as it bounded other numbers, and moved since.
			r.Words = algo.Deplete(l, r.Words, k.since)
		}
	}
	if !s.touch(sh, l) {
		return errVersions
	}
	e := entry{hi: id.hi, lo: id.lo, version: l.Serial | unsure}
	x, packed := algo.Repack(l, r.Words, now-s.origin, now)
	if packed = packed && r.Keep == math.MinInt64; packed {
		e.state = x
	} else {
		ref, ok := sh.arena.alloc(len(r.Words), sh.room(id.lo))
		if !ok {
			return errFull
		}
		clear(sh.arena.state(ref)[copy(sh.arena.state(ref), r.Words):])
		*sh.arena.keep(ref) = r.Keep
		e.version, e.state = e.version|wide, ref
	}
	accounts := none
	if _, lent := algo.Lent(l, r.Words, now); lent && !packed && len(r.Leases) > 0 {
		ref, ok := sh.arena.alloc(len(r.Leases)*leaseWords, sh.room(id.lo))
		if !ok {
			sh.release(e)
			return errFull
		}
		accounts = ref
	}
	if !sh.insert(e) {
		sh.release(e)
		if accounts != none {
			sh.arena.release(accounts)
		}
		return errFull
	}
	if accounts != none {
		sh.setAccounts(id, accounts, r.Leases)
	}
	return nil
}

// haste is how long a batch may wait for the journal: for its patience from when it
// has to wait first.
type haste struct {
	ctx      context.Context
	patience time.Duration // 0 is no bound
	cancel   context.CancelFunc
}

// context ends when the batch may not wait any longer.
func (h *haste) context() context.Context {
	if h.patience > 0 && h.cancel == nil {
		h.ctx, h.cancel = context.WithTimeout(h.ctx, h.patience)
	}
	return h.ctx
}

func (h *haste) end() {
	if h.cancel != nil {
		h.cancel()
	}
}

// applyKept decides a batch of a store with a journal. It may be decided several
// times, if states have to be loaded or room has to be made, but moves once.
func (s *Store) applyKept(ctx context.Context, b *headgate.Batch, charges []headgate.Charge, now int64) error {
	if err := b.Validate(); err != nil {
		return err
	}
	h := haste{ctx: ctx, patience: time.Duration(b.Patience) * time.Microsecond}
	defer h.end()
	if err := s.register(&h, charges, b.HoldFor > 0, now); err != nil {
		return err
	}
	var f fetch
	for spills := 0; ; {
		err := s.applyAll(b, charges, now, &f)
		switch {
		case f.missing:
			if err := s.kept.journal.Load(h.context(), f.records); err != nil {
				return err
			}
		case err == errBacklog:
			if err := s.kept.promise().wait(h.context()); err != nil {
				return err
			}
		case err == errFull && spills < mostSpills:
			switch err := s.spill(&h, charges, spills > 0); err {
			case nil:
				spills++
			case errFull:
				spills = mostSpills
			default:
				return err
			}
		case err == errFull && b.Key != (headgate.RequestKey{}) && !b.Again:
			// What is lacking may be room for the key: it is decided without.
			b.Again = true
			defer func() { b.Again = false }()
		case err == nil && f.wait != nil:
			return f.wait.wait(h.context())
		default:
			return err
		}
	}
}
