package gate_test

import (
	"testing"

	"github.com/headgate/headgate/gate/gatetest"
)

func TestContract(t *testing.T) {
	gatetest.Run(t, func(t *testing.T, policy string) gatetest.Decider {
		return gatetest.Local(open(t, policy))
	})
}
