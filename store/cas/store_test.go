package cas

import (
	"bytes"
	"flag"
	"math"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/storetest"
)

var (
	casOps  = flag.Int("cas.ops", 4_000, "operations of each differential test")
	casSeed = flag.Uint64("cas.seed", 1, "seed of the differential tests")
)

// openStore opens a store on a table of its own, or the given one.
func openStore(t *testing.T, table *memTable, manual bool) *Store {
	t.Helper()
	if table == nil {
		table = newMemTable()
	}
	s := New(Config{Table: table, Apart: table.apart, ManualClockForTest: manual})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		checkCaches(t, s, table)
	})
	return s
}

// checkCaches compares what a store that is closed remembers of the items that stand
// in the table with that: decisions after those that made them have changed nothing.
func checkCaches(t *testing.T, s *Store, table *memTable) {
	t.Helper()
	table.mu.Lock()
	defer table.mu.Unlock()
	for i := range s.lanes {
		c, size := &s.lanes[i].cache, 0
		for k, x := range c.items {
			size += x.size
			if there := table.find(k); x.err == nil && there.Version == x.item.Version && !bytes.Equal(x.owner.Append(nil, math.MinInt64), there.Value) {
				t.Errorf("item %x is remembered as %+v, and there is %x", k, x.owner, there.Value)
			}
		}
		if size != c.size {
			t.Errorf("values of %d bytes, counted %d", size, c.size)
		}
	}
}

func TestCache(t *testing.T) {
	var c cache
	c.init()
	of := func(n, size int) Item { return Item{Key: Key{byte(n)}, Version: 1, Value: make([]byte, size)} }
	for i := range 10 {
		c.know(of(i, 100), cached{})
	}
	c.know(of(3, 50), cached{})
	c.drop(Key{4})
	c.drop(Key{200})
	if len(c.items) != 9 || c.size != 850 || c.items[Key{3}].item.Value != nil {
		t.Errorf("%d items of %d bytes", len(c.items), c.size)
	}
	for _, want := range []struct{ most, mostSize, items, size int }{{9, 850, 9, 850}, {9, 849, 4, 424}, {3, 1000, 1, 424}} {
		c.trim(want.most, want.mostSize)
		if len(c.items) > want.items || c.size > want.size || len(c.items) == 0 {
			t.Errorf("%d items of %d bytes where there may be %d of %d", len(c.items), c.size, want.most, want.mostSize)
		}
	}
	c.clear()
	if len(c.items) != 0 || c.size != 0 {
		t.Errorf("%d items of %d bytes", len(c.items), c.size)
	}
}

// What was deleted is decided on anew without asking what there is.
func TestDeletedItem(t *testing.T) {
	onTables(t, func(t *testing.T, table *memTable) {
		s := openStore(t, table, false)
		l := prepare(t, year(10))
		for range 3 {
			if _, err := take(t, s, 0, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil {
				t.Fatal(err)
			}
			if err := s.Apply(t.Context(), batchOf(t, headgate.Reset, headgate.Charge{Limit: l, Owner: "a"})); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.Stats().Rounds; n != 6 {
			t.Errorf("%d rounds, want 6", n)
		}
	})
}

// worlds are whose instants decide, and whether the table changes items together.
var worlds = []struct {
	name          string
	manual, apart bool
}{{"table's clock", false, false}, {"manual clock", true, false}, {"items apart", false, true}, {"items apart, manual clock", true, true}}

func inWorlds(t *testing.T, do func(t *testing.T, open func(t *testing.T) *Store, c storetest.Capabilities)) {
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			do(t, func(t *testing.T) *Store {
				table := newMemTable()
				table.apart = w.apart
				return openStore(t, table, w.manual)
			}, storetest.Capabilities{ManualClock: w.manual, Apart: w.apart})
		})
	}
}

func TestStore(t *testing.T) {
	inWorlds(t, func(t *testing.T, open func(t *testing.T) *Store, c storetest.Capabilities) {
		storetest.Run(t, func(t *testing.T) headgate.Store { return open(t) }, c)
	})
}

func TestAuthority(t *testing.T) {
	inWorlds(t, func(t *testing.T, open func(t *testing.T) *Store, c storetest.Capabilities) {
		storetest.RunAuthority(t, func(t *testing.T) headgate.Authority { return open(t) }, c)
	})
}

func TestDifferential(t *testing.T) {
	inWorlds(t, func(t *testing.T, open func(t *testing.T) *Store, c storetest.Capabilities) {
		if c.Apart && !c.ManualClock {
			return // items are decided at instants of their own, and the model knows one
		}
		storetest.Differential(t, func(t *testing.T) headgate.Store { return open(t) }, c, *casOps, *casSeed)
	})
}

func TestAuthorityDifferential(t *testing.T) {
	inWorlds(t, func(t *testing.T, open func(t *testing.T) *Store, c storetest.Capabilities) {
		if c.ManualClock {
			storetest.DifferentialAuthority(t, func(t *testing.T) headgate.Authority { return open(t) }, c, *casOps, *casSeed)
		}
	})
}
