// Package stagetest runs examples in tests.
package stagetest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

// Headgate returns the daemon to test: HEADGATE_BIN, or one built now.
func Headgate(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("HEADGATE_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "headgate")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/headgate/headgate/server/cmd/headgate").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// Run runs an example, which must go well and print all that is wanted.
func Run(t *testing.T, headgate string, run func(ctx context.Context, w io.Writer, headgate string) error, want ...string) {
	t.Helper()
	var out strings.Builder
	err := run(t.Context(), &out, headgate)
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range want {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output does not show %q", want)
		}
	}
}

// Script runs an example by its run.sh.
func Script(ctx context.Context, w io.Writer, headgate string) error {
	cmd := exec.CommandContext(ctx, "./run.sh")
	cmd.Env = append(os.Environ(), "HEADGATE_BIN="+headgate)
	cmd.Stdout, cmd.Stderr = w, w
	return cmd.Run()
}

// Ask sends one request from a loopback address. Header holds lines "Name: value".
func Ask(t *testing.T, from, method, url, body string, header ...string) stage.Answer {
	t.Helper()
	transport := stage.From(from)
	defer transport.CloseIdleConnections()
	h := make(http.Header)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	a, err := stage.Ask(t.Context(), transport, method, url, body, h)
	if err != nil {
		t.Fatalf("from %s with %.60q: %v", from, header, err)
	}
	return a
}

// AskRaw sends a request that net/http would not, and returns the status.
func AskRaw(t *testing.T, from, address, head string) int {
	t.Helper()
	c, err := stage.From(from).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, head+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%.60q: %v", head, err)
	}
	defer res.Body.Close()
	return res.StatusCode
}

// Away pauses a Headgate, stops it, and puts servers in its place that answer
// with a status. It calls away beside each, with that status or 0, and limits
// when the paused one goes on.
func Away(t *testing.T, headgate *stage.Process, address string, broken []int, limits func(), away func(how string, status int)) {
	t.Helper()
	if err := headgate.Pause(); err != nil {
		t.Fatal(err)
	}
	away("hanging", 0)
	if err := headgate.Resume(); err != nil {
		t.Fatal(err)
	}
	limits()
	if err := headgate.Stop(); err != nil {
		t.Fatal(err)
	}
	away("stopped", 0)
	for _, status := range broken {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })}
		go server.Serve(l)
		away(fmt.Sprintf("answering %d", status), status)
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
