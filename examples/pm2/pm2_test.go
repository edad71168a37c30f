package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPM2 is the example itself.
func TestPM2(t *testing.T) {
	bin := os.Getenv("HEADGATE_BIN")
	if bin == "" {
		bin = filepath.Join(t.TempDir(), "headgate")
		if out, err := exec.Command("go", "build", "-o", bin, "github.com/headgate/headgate/server/cmd/headgate").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	var out strings.Builder
	err := run(t.Context(), &out, bin, ".")
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"instance 0", "instance 1", "instance 2", "passed without a limit", "instance a/0", "instance a/1", "instance b/0", "instance b/1", "429 banned", "200 ok"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output does not show %q", want)
		}
	}
}
