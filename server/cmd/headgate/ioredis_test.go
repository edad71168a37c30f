package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestIORedis: Node.js asks the Redis door by ioredis, over TCP and over a socket, with a
// token.
func TestIORedis(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("run scripts/test-deps.sh: %v", err)
	}
	if _, err := os.Stat("testdata/ioredis/node_modules/ioredis"); err != nil {
		t.Fatalf("run scripts/test-deps.sh: %v", err)
	}
	file, socket := filepath.Join(t.TempDir(), "policy.yaml"), filepath.Join(t.TempDir(), "s")
	replace(t, file, everyDoorPolicy)
	for _, listen := range []string{"127.0.0.1:0", "unix:" + socket} {
		s := startServe(t, "--http", "127.0.0.1:0", "--resp", listen, "--policy", file, "--store", "memory", "--decision-auth", "token")
		at := s.addresses(t, "http", "resp")["resp"]
		if listen[0] == 'u' {
			at = socket
		}
		out, err := exec.CommandContext(t.Context(), node, "testdata/ioredis/door.mjs", at, tokenIn(t, s.data)).CombinedOutput()
		if err != nil || string(out) != "ok\n" {
			t.Errorf("%s: %v\n%s", listen, err, out)
		}
		s.stop(t)
	}
}
