package main

import (
	"bufio"
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

// process is a serve verb in a process of its own: this test's binary under
// another name.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	http *http.Client

	mu  sync.Mutex
	log []string
}

// startProcess starts serve and waits until it listens.
func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	return startVerb(t, append([]string{"serve", "--http", "127.0.0.1:0"}, args...)...)
}

// startVerb starts a verb that serves, and waits until its first door listens.
func startVerb(t *testing.T, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "headgate") // TestMain runs main under this name
	if err := os.Symlink(self, name); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}, Timeout: patience}}
	p.cmd = exec.Command(name, append([]string{args[0], "--data", filepath.Join(dir, "data")}, args[1:]...)...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			line := lines.Text()
			p.mu.Lock()
			p.log = append(p.log, line)
			p.mu.Unlock()
			if _, at, ok := strings.Cut(line, "address="); ok && strings.Contains(line, "msg=listening") {
				select {
				case address <- at:
				default: // of another door
				}
			}
		}
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-ended
		p.cmd.Wait()
		p.http.CloseIdleConnections()
		if t.Failed() {
			t.Logf("%v said\n%s", args, p.said())
		}
	})
	select {
	case at := <-address:
		p.url = "http://" + at
	case <-ended:
		t.Fatalf("%v ended:\n%s", args, p.said())
	case <-time.After(patience):
		t.Fatalf("%v does not listen:\n%s", args, p.said())
	}
	return p
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

// stop asks the process to end and waits until it has, with exit code 0.
func (p *process) stop() {
	p.t.Helper()
	p.http.CloseIdleConnections()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if state, err := p.cmd.Process.Wait(); err != nil || state.ExitCode() != exitDone {
		p.t.Errorf("ended with %v, %v", state, err)
	}
}

// decided is what these tests read of a decision.
type decided struct {
	Allowed      bool   `json:"allowed"`
	Reason       string `json:"reason"`
	Degraded     string `json:"degraded"`
	Remaining    *int64 `json:"remaining"`
	RetryAfterMS *int64 `json:"retry_after_ms"`
	Limits       []struct {
		ID    string `json:"id"`
		Exact bool   `json:"exact"`
	} `json:"limits"`
}

// take asks once, with an idempotency key if key is not "". It may be called from any
// goroutine.
func (p *process) take(operation, subject, key string) (decided, error) {
	var a decided
	body := fmt.Sprintf(`{"application":"a","operation":%q,"subject":%q}`, operation, subject)
	q, err := http.NewRequest("POST", p.url+"/v1/take", strings.NewReader(body))
	if err != nil {
		return a, err
	}
	q.Header.Set("Content-Type", "application/json")
	if key != "" {
		q.Header.Set("Idempotency-Key", key)
	}
	r, err := p.http.Do(q)
	if err != nil {
		return a, err
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.Status, data)
	}
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	return a, err
}

// metric returns the value of a series as /metrics writes it, "" if it is not
// there.
func (p *process) metric(series string) string {
	p.t.Helper()
	return p.seen(series, "")
}

// seen is metric for who has a token.
func (p *process) seen(series, token string) string {
	p.t.Helper()
	q, err := http.NewRequest("GET", p.url+"/metrics", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	r, err := p.http.Do(q)
	if err != nil {
		p.t.Fatal(err)
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			return value
		}
	}
	return ""
}
