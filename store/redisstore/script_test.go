package redisstore

import (
	"flag"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
	"github.com/headgate/headgate/store/storetest"
)

var (
	scriptOps  = flag.Int("script.ops", 20_000, "operations of each differential test of the script")
	scriptSeed = flag.Uint64("script.seed", 1, "seed of the differential tests of the script")
)

// clocks are whose instants decide.
var clocks = []struct {
	name   string
	manual bool
}{{"server clock", false}, {"manual clock", true}}

func TestDifferential(t *testing.T) {
	for _, clock := range clocks {
		t.Run(clock.name, func(t *testing.T) {
			storetest.Differential(t, func(t *testing.T) headgate.Store {
				return openStore(t, Config{URL: redistest.Shared(t).URL(prefixed()), ManualClockForTest: clock.manual})
			}, storetest.Capabilities{ManualClock: clock.manual}, *scriptOps, *scriptSeed)
		})
	}
}

func TestAuthority(t *testing.T) {
	for _, clock := range clocks {
		t.Run(clock.name, func(t *testing.T) {
			storetest.RunAuthority(t, func(t *testing.T) headgate.Authority {
				return openStore(t, Config{URL: redistest.Shared(t).URL(prefixed()), ManualClockForTest: clock.manual})
			}, storetest.Capabilities{ManualClock: clock.manual})
		})
	}
}

func TestAuthorityDifferential(t *testing.T) {
	storetest.DifferentialAuthority(t, func(t *testing.T) headgate.Authority {
		return openStore(t, Config{URL: redistest.Shared(t).URL(prefixed()), ManualClockForTest: true})
	}, storetest.Capabilities{ManualClock: true}, *scriptOps, *scriptSeed)
}
