package dynamostore

import (
	"flag"
	"log/slog"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/dynamostore/dynamotest"
	"github.com/headgate/headgate/store/storetest"
)

var (
	_ headgate.Authority = (*Store)(nil)
	_ headgate.Census    = (*Store)(nil)
)

var (
	dynamoOps  = flag.Int("dynamo.ops", 600, "operations of each differential test")
	dynamoSeed = flag.Uint64("dynamo.seed", 1, "seed of the differential tests")
)

// heardOfAll is what all stores of the tests have heard of the shared server's
// clock, so that each need not wait for the end of a second.
var heardOfAll = newSkew()

// openStore opens a store and closes it at the end of the test. Without a URL it is
// on a table of its own.
func openStore(t testing.TB, c Config) *Store {
	t.Helper()
	if c.URL == "" {
		c.URL = dynamotest.Shared(t).URL(dynamotest.Table())
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	}
	s, err := open(t.Context(), c, heardOfAll)
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

func batchOf(t testing.TB, op headgate.Op, charges ...headgate.Charge) *headgate.Batch {
	t.Helper()
	b := new(headgate.Batch)
	b.Reset(op)
	for _, c := range charges {
		if _, err := b.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// take takes once, and returns the batch.
func take(t testing.TB, s headgate.Store, charges ...headgate.Charge) (*headgate.Batch, error) {
	t.Helper()
	b := batchOf(t, headgate.Take, charges...)
	return b, s.Apply(t.Context(), b)
}

// used returns how much of a budget is used.
func used(t testing.TB, s headgate.Store, owner string, l *headgate.Prepared) int64 {
	t.Helper()
	b := batchOf(t, headgate.Peek, headgate.Charge{Limit: l, Owner: owner})
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b.Outcomes()[0].Used
}

// clocks are whose instants decide.
var clocks = []struct {
	name   string
	manual bool
}{{"node's clock", false}, {"manual clock", true}}

// By the node's clock, the suite has a part of the rules that it has by a manual one,
// and costs as much: under the race detector the latter is enough.
func TestStore(t *testing.T) {
	for _, clock := range clocks {
		if racetest.Enabled && !clock.manual {
			continue
		}
		t.Run(clock.name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) headgate.Store { return openStore(t, Config{ManualClockForTest: clock.manual}) },
				storetest.Capabilities{ManualClock: clock.manual, Apart: true})
		})
	}
}

func TestAuthority(t *testing.T) {
	for _, clock := range clocks {
		t.Run(clock.name, func(t *testing.T) {
			storetest.RunAuthority(t, func(t *testing.T) headgate.Authority { return openStore(t, Config{ManualClockForTest: clock.manual}) },
				storetest.Capabilities{ManualClock: clock.manual, Apart: true})
		})
	}
}

func TestDifferential(t *testing.T) {
	storetest.Differential(t, func(t *testing.T) headgate.Store { return openStore(t, Config{ManualClockForTest: true}) },
		storetest.Capabilities{ManualClock: true, Apart: true}, *dynamoOps, *dynamoSeed)
}

func TestAuthorityDifferential(t *testing.T) {
	storetest.DifferentialAuthority(t, func(t *testing.T) headgate.Authority { return openStore(t, Config{ManualClockForTest: true}) },
		storetest.Capabilities{ManualClock: true, Apart: true}, *dynamoOps, *dynamoSeed)
}
