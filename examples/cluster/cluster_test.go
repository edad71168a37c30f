package main

import (
	"os"
	"testing"

	"github.com/headgate/headgate/examples/stage/stagetest"
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
	stagetest.Run(t, stagetest.Headgate(t), run, "instance-1", "instance-2", "instance-3", "429 banned", "503 store_unavailable", "Redis goes on")
}
