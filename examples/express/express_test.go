// Package express tests the example of an Express application.
package express

import (
	"testing"

	"github.com/headgate/headgate/examples/stage/stagetest"
)

// TestExpress is the example itself, which looks at its own numbers.
func TestExpress(t *testing.T) {
	stagetest.Run(t, stagetest.Headgate(t), stagetest.Script, "passed on 2 servers", "5 passed, 3 were refused", "Slow down", "alice is reset: 200, 59 left")
}
