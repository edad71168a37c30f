package lease_test

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// bank is an authority in this process, made of [algo.Budget]: what a shared
// store does, without the store.
type bank struct {
	mu      sync.Mutex
	budgets map[account]*algo.Budget
	terms   algo.Terms
	epoch   headgate.Epoch
	skew    time.Duration // of its clock
	closed  bool

	// Acquire does these where they are not nil, without the lock: before it
	// decides, and with the replies before they are sent.
	before func(ctx context.Context, requests []headgate.LeaseRequest) error
	after  func(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error

	batches, calls, requests int
}

type account struct {
	id    [2]uint64
	owner string
}

func newBank() *bank {
	return &bank{budgets: make(map[account]*algo.Budget), terms: algo.DefaultTerms, epoch: headgate.Epoch{ID: 1}}
}

var errAway = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("away")}

func (k *bank) now() int64 { return time.Now().Add(k.skew).UnixMicro() }

// load returns a copy of a budget as it stands.
func (k *bank) load(l *headgate.Prepared, owner string, now int64) *algo.Budget {
	var b algo.Budget
	if kept := k.budgets[account{l.ID, owner}]; kept != nil {
		b = kept.Clone()
	}
	b.Load(l, now, k.epoch)
	return &b
}

func (k *bank) Apply(ctx context.Context, b *headgate.Batch) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return &headgate.Error{Code: headgate.Closed, Err: errors.New("bank is closed")}
	}
	if err := ctx.Err(); err != nil {
		return errAway
	}
	k.batches++
	now := cmp.Or(b.Now, k.now())
	b.At, b.Allowed = now, true
	charges, outcomes := b.Charges(), b.Outcomes()
	loaded := make([]*algo.Budget, len(charges))
	for i := range charges {
		c := &charges[i]
		loaded[i] = k.load(c.Limit, c.Owner, now)
		if b.Op == headgate.Reset {
			loaded[i].Reset(now, k.epoch)
		}
		loaded[i].Apply(&algo.Call{Op: headgate.Peek, Now: now, Cost: c.Cost}, k.epoch, &outcomes[i])
		b.Allowed = b.Allowed && (outcomes[i].Allowed || c.Shadow)
	}
	for i := range charges {
		c := &charges[i]
		if b.Allowed && outcomes[i].Allowed && b.Op != headgate.Reset {
			loaded[i].Apply(&algo.Call{Op: b.Op, Now: now, Cost: c.Cost, Hold: b.Hold, HoldFor: b.HoldFor}, k.epoch, &outcomes[i])
		}
		if b.Op != headgate.Peek {
			k.budgets[account{c.Limit.ID, c.Owner}] = loaded[i]
		}
	}
	return nil
}

func (k *bank) Acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	k.mu.Lock()
	before, after := k.before, k.after
	k.mu.Unlock()
	if before != nil {
		if err := before(ctx, requests); err != nil {
			return err
		}
	}
	k.lend(requests, replies)
	if after != nil {
		return after(ctx, requests, replies)
	}
	return nil
}

// change lets f change the bank.
func (k *bank) change(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

func (k *bank) lend(requests []headgate.LeaseRequest, replies []headgate.LeaseReply) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	k.requests += len(requests)
	now := k.now()
	for i := range requests {
		r := &requests[i]
		b := k.load(r.Limit, r.Owner, now)
		b.Acquire(r, now, k.epoch, &k.terms, &replies[i])
		k.budgets[account{r.Limit.ID, r.Owner}] = b
	}
}

func (k *bank) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	return nil
}

// ban counts denials until the owner is banned.
func (k *bank) ban(l *headgate.Prepared, owner string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	b := k.load(l, owner, now)
	for range l.Count {
		algo.CountDenial(l, b.Words, now)
	}
	k.budgets[account{l.ID, owner}] = b
}

// out is what is leased out of all budgets.
func (k *bank) out() (n int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for b := range maps.Values(k.budgets) {
		for _, x := range b.Leases {
			n += x.Granted - x.Settled
		}
	}
	return n
}

// peek is the state of a budget.
func (k *bank) peek(l *headgate.Prepared, owner string) (o headgate.Outcome) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	k.load(l, owner, now).Apply(&algo.Call{Op: headgate.Peek, Now: now}, k.epoch, &o)
	return o
}

func prepare(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ask decides one batch of charges.
func ask(t testing.TB, s headgate.Store, charges ...headgate.Charge) *headgate.Batch {
	t.Helper()
	b := new(headgate.Batch)
	for _, c := range charges {
		if _, err := b.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b
}
