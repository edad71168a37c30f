package cas

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate"
)

// memTable is a table in memory, which tests disturb.
type memTable struct {
	mu    sync.Mutex
	items map[Key]Item
	epoch headgate.Epoch
	calls int // of Read and Swap
	// before is called ahead of every call with its number, from 1; an error
	// is what the call returns instead of being done. after is the same for calls
	// that were done. disturb sets them.
	before, after func(n int) error
	// meddle is called ahead of every Swap; what it returns, if not nil, is called
	// when that was done, and its error returned instead of the answer.
	meddle func(changes []Change) func() error
	most   int
	behind time.Duration          // by how much its clock is
	apart  bool                   // it changes one item at a time only
	nodes  map[[16]byte]time.Time // until when they live
}

func newMemTable() *memTable {
	return &memTable{items: make(map[Key]Item), nodes: make(map[[16]byte]time.Time), epoch: headgate.Epoch{ID: 1}, most: 1 << 20}
}

func (t *memTable) moment() Moment {
	return Moment{Now: time.Now().Add(-t.behind).UnixMicro(), Epoch: t.epoch}
}

func (t *memTable) enter() (n int, err error) {
	t.mu.Lock()
	t.calls++
	n = t.calls
	before := t.before
	t.mu.Unlock()
	if before != nil {
		err = before(n)
	}
	return n, err
}

func (t *memTable) leave(n int) error {
	t.mu.Lock()
	after := t.after
	t.mu.Unlock()
	if after == nil {
		return nil
	}
	return after(n)
}

func (t *memTable) disturb(before, after func(n int) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.before, t.after = before, after
}

// meddleWith sets meddle.
func (t *memTable) meddleWith(meddle func(changes []Change) func() error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.meddle = meddle
}

func (t *memTable) Read(_ context.Context, items []Item) (Moment, error) {
	n, err := t.enter()
	if err != nil {
		return Moment{}, err
	}
	t.mu.Lock()
	for i := range items {
		items[i] = t.find(items[i].Key)
	}
	m := t.moment()
	t.mu.Unlock()
	if err := t.leave(n); err != nil {
		return Moment{}, err
	}
	return m, nil
}

func (t *memTable) find(k Key) Item {
	if x, ok := t.items[k]; ok {
		return x
	}
	return Item{Key: k}
}

func (t *memTable) Swap(_ context.Context, epoch uint64, changes []Change) (Moment, error) {
	n, err := t.enter()
	if err != nil {
		return Moment{}, err
	}
	leave := func() error { return t.leave(n) }
	t.mu.Lock()
	meddle := t.meddle
	t.mu.Unlock()
	if meddle != nil {
		if after := meddle(changes); after != nil {
			leave = after
		}
	}
	t.mu.Lock()
	if epoch != t.epoch.ID {
		t.mu.Unlock()
		return Moment{}, &Failure{Kind: "epoch", Unsent: true, Stale: true, Err: errors.New("another epoch")}
	}
	for i := range changes {
		if t.apart && len(changes[i].Items) > 1 {
			panic("a change of several items")
		}
		t.change(&changes[i])
	}
	m := t.moment()
	t.mu.Unlock()
	if err := leave(); err != nil {
		return Moment{}, err
	}
	return m, nil
}

func (t *memTable) change(x *Change) {
	x.Done = true
	for _, w := range x.Items {
		x.Done = x.Done && t.find(w.Old.Key).Version == w.Old.Version
	}
	for i := range x.Items {
		w := &x.Items[i]
		switch {
		case !x.Done:
			w.Old = t.find(w.Old.Key)
		case w.Write && len(w.New.Value) == 0:
			delete(t.items, w.New.Key)
		case w.Write:
			if w.New.Value = slices.Clone(w.New.Value); !t.apart {
				w.New.At = 0 // it has a clock of its own
			}
			t.items[w.New.Key] = w.New
		}
	}
}

func (t *memTable) Nodes(_ context.Context, node [16]byte, ttl time.Duration) (int, error) {
	n, err := t.enter()
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	t.nodes[node] = time.Now().Add(ttl)
	maps.DeleteFunc(t.nodes, func(_ [16]byte, until time.Time) bool { return !until.After(time.Now()) })
	living := len(t.nodes)
	t.mu.Unlock()
	return living, t.leave(n)
}

func (t *memTable) MaxValue() int { return t.most }

func (t *memTable) Close() error { return nil }
