// Package gateway tests the example of Headgate as a reverse proxy.
package gateway

import (
	"testing"

	"github.com/headgate/headgate/examples/stage/stagetest"
)

// TestGateway is the example itself, which looks at its own numbers.
func TestGateway(t *testing.T) {
	stagetest.Run(t, stagetest.Headgate(t), stagetest.Script, "GET /hello: 200, RateLimit", "10 passed, then 429", "10 calls a minute", "tick 3", "echo hello", "429 concurrency_exceeded", "one is closed: 101")
}
