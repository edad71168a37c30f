package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// victim is a serve verb in a process of its own that is to be killed.
type victim struct {
	cmd *exec.Cmd
	// began is when it was started.
	began time.Time
	ended chan struct{}

	mu        sync.Mutex
	text      strings.Builder
	url       string
	listening chan struct{}
}

// program returns a name of this test's binary under which it is the command.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "headgate") // TestMain runs main under this name
	if err := os.Symlink(self, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// launch starts a program and does not wait for it.
func launch(t *testing.T, name string, args ...string) *victim {
	t.Helper()
	return spawn(t, exec.Command(name, args...))
}

// spawn starts a command and does not wait for it.
func spawn(t *testing.T, cmd *exec.Cmd) *victim {
	t.Helper()
	v := &victim{cmd: cmd, ended: make(chan struct{}), listening: make(chan struct{})}
	v.cmd.Stderr = v
	v.began = time.Now()
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(v.ended)
		_ = v.cmd.Wait() // its state says how it has ended
	}()
	return v
}

// serveIn starts serve in a data directory.
func serveIn(t *testing.T, name, data string, args ...string) *victim {
	t.Helper()
	return launch(t, name, append([]string{"serve", "--http", "127.0.0.1:0", "--data", data}, args...)...)
}

// Write takes what the process says.
func (v *victim) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.text.Write(p)
	if v.url == "" {
		for line := range strings.Lines(v.text.String()) {
			if _, at, ok := strings.Cut(line, "address="); ok && strings.Contains(line, "msg=listening") && strings.HasSuffix(line, "\n") {
				v.url = "http://" + strings.TrimSpace(at)
				close(v.listening)
				break
			}
		}
	}
	return len(p), nil
}

func (v *victim) said() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.text.String()
}

// await returns when the process listens.
func (v *victim) await(t *testing.T) {
	t.Helper()
	select {
	case <-v.listening:
	case <-v.ended:
		t.Fatalf("serve ended:\n%s", v.said())
	case <-time.After(patience):
		v.kill()
		t.Fatalf("serve does not listen:\n%s", v.said())
	}
}

// kill ends the process as a crash does, and returns when it has ended.
func (v *victim) kill() {
	_ = v.cmd.Process.Kill() // it may have ended by itself
	<-v.ended
}

// end waits until the process has ended, and returns its exit code, -1 for a signal.
func (v *victim) end(t *testing.T) int {
	t.Helper()
	select {
	case <-v.ended:
	case <-time.After(patience):
		v.kill()
		t.Fatalf("the process does not end:\n%s", v.said())
	}
	return v.cmd.ProcessState.ExitCode()
}

// stop ends the process in order.
func (v *victim) stop(t *testing.T) {
	t.Helper()
	if err := v.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := v.end(t); code != exitDone {
		t.Fatalf("ended with %d:\n%s", code, v.said())
	}
}

// answered is what the crash tests read of answers.
type answered struct {
	Allowed  bool    `json:"allowed"`
	Reason   string  `json:"reason"`
	Replayed bool    `json:"replayed"`
	Held     *bool   `json:"held"`
	Ticket   *string `json:"ticket"`
	Detail   string  `json:"detail"` // of a problem
	Limits   []struct {
		ID        string `json:"id"`
		Remaining int64  `json:"remaining"`
		Used      int64  `json:"used"`
	} `json:"limits"`
	Results []struct {
		Decision *answered `json:"decision"`
	} `json:"results"`
}

// ask posts a body. Any answer but 200 is an error, which says what the problem is.
func (v *victim) ask(ctx context.Context, client *http.Client, path, body string) (a answered, err error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, v.url+path, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	q.Header.Set("Content-Type", "application/json")
	r, err := client.Do(q)
	if err != nil {
		return a, err
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = &refusal{r.StatusCode, fmt.Sprintf("%s: %s", r.Status, data)}
	}
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	return a, err
}

// refusal is an answer that decides nothing.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }
