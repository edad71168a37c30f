package main

import (
	"context"
	"io"
	"testing"

	"github.com/headgate/headgate/examples/stage/stagetest"
)

// TestPM2 is the example itself.
func TestPM2(t *testing.T) {
	example := func(ctx context.Context, w io.Writer, headgate string) error { return run(ctx, w, headgate, ".") }
	stagetest.Run(t, stagetest.Headgate(t), example,
		"instance 0", "instance 1", "instance 2", "passed without a limit", "instance a/0", "instance a/1", "instance b/0", "instance b/1", "429 banned", "200 ok")
}
