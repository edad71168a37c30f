// Package gateway tests the example of Headgate as a reverse proxy.
package gateway

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGateway is the example itself, which looks at its own numbers.
func TestGateway(t *testing.T) {
	bin := os.Getenv("HEADGATE_BIN")
	if bin == "" {
		bin = filepath.Join(t.TempDir(), "headgate")
		if out, err := exec.Command("go", "build", "-o", bin, "github.com/headgate/headgate/server/cmd/headgate").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	run := exec.CommandContext(t.Context(), "./run.sh")
	run.Env = append(os.Environ(), "HEADGATE_BIN="+bin)
	out, err := run.CombinedOutput()
	t.Logf("\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"GET /hello: 200, RateLimit", "10 passed, then 429", "10 calls a minute", "tick 3", "echo hello", "429 concurrency_exceeded", "one is closed: 101"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output does not show %q", want)
		}
	}
}
