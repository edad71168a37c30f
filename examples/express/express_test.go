// Package express tests the example of an Express application.
package express

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExpress is the example itself, which looks at its own numbers.
func TestExpress(t *testing.T) {
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
	for _, want := range []string{"passed on 2 servers", "5 passed, 3 were refused", "Slow down", "alice is reset: 200, 59 left"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output does not show %q", want)
		}
	}
}
