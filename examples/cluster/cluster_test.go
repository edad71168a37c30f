package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the example start this binary as its instances.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == instanceFlag {
		main()
	}
	os.Exit(m.Run())
}

// TestCluster is the example itself.
func TestCluster(t *testing.T) {
	bin := os.Getenv("HEADGATE_BIN")
	if bin == "" {
		bin = filepath.Join(t.TempDir(), "headgate")
		if out, err := exec.Command("go", "build", "-o", bin, "github.com/headgate/headgate/server/cmd/headgate").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	var out strings.Builder
	err := run(t.Context(), &out, bin)
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"instance-1", "instance-2", "instance-3", "429 banned", "503 store_unavailable", "Redis goes on"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output does not show %q", want)
		}
	}
}
