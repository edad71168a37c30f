package redisstore

import (
	"flag"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/storetest"
)

var (
	scriptOps  = flag.Int("script.ops", 20_000, "batches that TestScriptDifferential decides with each clock")
	scriptSeed = flag.Uint64("script.seed", 1, "seed of TestScriptDifferential")
)

func TestScriptRules(t *testing.T) {
	for name, manual := range map[string]bool{"told the time": true, "server's time": false} {
		t.Run(name, func(t *testing.T) {
			open := func(t *testing.T) headgate.Store { return newScriptStore(t, manual) }
			storetest.Run(t, open, storetest.Capabilities{ManualClock: manual})
		})
	}
}

func TestScriptDifferential(t *testing.T) {
	for name, manual := range map[string]bool{"told the time": true, "server's time": false} {
		t.Run(name, func(t *testing.T) {
			open := func(t *testing.T) headgate.Store { return newScriptStore(t, manual) }
			storetest.Differential(t, open, storetest.Capabilities{ManualClock: manual}, *scriptOps, *scriptSeed)
		})
	}
}

func TestScriptAuthority(t *testing.T) {
	for name, manual := range map[string]bool{"told the time": true, "server's time": false} {
		t.Run(name, func(t *testing.T) {
			open := func(t *testing.T) headgate.Authority { return newScriptStore(t, manual) }
			storetest.RunAuthority(t, open, storetest.Capabilities{ManualClock: manual})
		})
	}
}
