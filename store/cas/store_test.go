package cas

import (
	"flag"
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
	})
	return s
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
