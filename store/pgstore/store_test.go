package pgstore

import (
	"flag"
	"log/slog"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/pgstore/pgtest"
	"github.com/headgate/headgate/store/storetest"
)

var (
	_ headgate.Authority = (*Store)(nil)
	_ headgate.Census    = (*Store)(nil)
)

var (
	pgOps  = flag.Int("pg.ops", 2_000, "operations of each differential test")
	pgSeed = flag.Uint64("pg.seed", 1, "seed of the differential tests")
)

// openStore opens a store and closes it at the end of the test. Without a URL it is
// in a schema of its own.
func openStore(t testing.TB, c Config) *Store {
	t.Helper()
	if c.URL == "" {
		c.URL = pgtest.Shared(t).Schema(t)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func prepared(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// take takes once, and returns the batch.
func take(t testing.TB, s headgate.Store, charges ...headgate.Charge) (*headgate.Batch, error) {
	t.Helper()
	b := new(headgate.Batch)
	b.Reset(headgate.Take)
	for _, c := range charges {
		if _, err := b.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	return b, s.Apply(t.Context(), b)
}

// clocks are whose instants decide.
var clocks = []struct {
	name   string
	manual bool
}{{"server's clock", false}, {"manual clock", true}}

func TestStore(t *testing.T) {
	for _, clock := range clocks {
		t.Run(clock.name, func(t *testing.T) {
			t.Parallel() // much of it waits for the disk
			storetest.Run(t, func(t *testing.T) headgate.Store { return openStore(t, Config{ManualClockForTest: clock.manual}) },
				storetest.Capabilities{ManualClock: clock.manual})
		})
	}
}

func TestAuthority(t *testing.T) {
	for _, clock := range clocks {
		t.Run(clock.name, func(t *testing.T) {
			t.Parallel() // much of it waits for the disk
			storetest.RunAuthority(t, func(t *testing.T) headgate.Authority { return openStore(t, Config{ManualClockForTest: clock.manual}) },
				storetest.Capabilities{ManualClock: clock.manual})
		})
	}
}

func TestDifferential(t *testing.T) {
	for _, clock := range clocks {
		t.Run(clock.name, func(t *testing.T) {
			storetest.Differential(t, func(t *testing.T) headgate.Store { return openStore(t, Config{ManualClockForTest: clock.manual}) },
				storetest.Capabilities{ManualClock: clock.manual}, *pgOps, *pgSeed)
		})
	}
}

func TestAuthorityDifferential(t *testing.T) {
	storetest.DifferentialAuthority(t, func(t *testing.T) headgate.Authority { return openStore(t, Config{ManualClockForTest: true}) },
		storetest.Capabilities{ManualClock: true}, *pgOps, *pgSeed)
}
