package httpapi

import (
	"testing"

	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/server/front/fronttest"
)

// TestContract: every decision of the contract is the same through this door.
func TestContract(t *testing.T) {
	fronttest.Run(t, func(t *testing.T, g *fronttest.Gate) gatetest.Holder {
		return fronttest.OverHTTP(g, New(Config{Gate: g}))
	})
}
