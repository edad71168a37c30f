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
	s := New(Config{Table: table, ManualClockForTest: manual})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// clocks are whose instants decide.
var clocks = []struct {
	name   string
	manual bool
}{{"table's clock", false}, {"manual clock", true}}

func TestStore(t *testing.T) {
	for _, clock := range clocks {
		t.Run(clock.name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) headgate.Store { return openStore(t, nil, clock.manual) }, storetest.Capabilities{ManualClock: clock.manual})
		})
	}
}

func TestAuthority(t *testing.T) {
	for _, clock := range clocks {
		t.Run(clock.name, func(t *testing.T) {
			storetest.RunAuthority(t, func(t *testing.T) headgate.Authority { return openStore(t, nil, clock.manual) }, storetest.Capabilities{ManualClock: clock.manual})
		})
	}
}

func TestDifferential(t *testing.T) {
	for _, clock := range clocks {
		t.Run(clock.name, func(t *testing.T) {
			storetest.Differential(t, func(t *testing.T) headgate.Store { return openStore(t, nil, clock.manual) },
				storetest.Capabilities{ManualClock: clock.manual}, *casOps, *casSeed)
		})
	}
}

func TestAuthorityDifferential(t *testing.T) {
	storetest.DifferentialAuthority(t, func(t *testing.T) headgate.Authority { return openStore(t, nil, true) },
		storetest.Capabilities{ManualClock: true}, *casOps, *casSeed)
}
