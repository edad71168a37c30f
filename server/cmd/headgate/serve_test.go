package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience ends tests that would hang; none of them waits for it to pass.
const patience = 30 * time.Second

// server is a running serve verb.
type server struct {
	lines chan string
	code  chan int
	data  string // its directory, unless it was told another one
}

func startServe(t *testing.T, args ...string) *server {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	s := &server{lines: make(chan string, 1000), code: make(chan int, 1), data: data}
	r, w := io.Pipe()
	go func() {
		s.code <- run(t.Context(), append([]string{"serve", "--data", data}, args...), io.Discard, w)
		w.Close()
	}()
	go func() {
		defer close(s.lines)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			s.lines <- lines.Text()
		}
	}()
	return s
}

// await returns the next line that holds text.
func (s *server) await(t *testing.T, text string) string {
	t.Helper()
	var before []string
	for {
		select {
		case line, ok := <-s.lines:
			if strings.Contains(line, text) {
				return line
			}
			before = append(before, line)
			if !ok {
				t.Fatalf("no line with %q in\n%s", text, strings.Join(before, "\n"))
			}
		case <-time.After(patience):
			t.Fatalf("no line with %q in\n%s", text, strings.Join(before, "\n"))
		}
	}
}

// address returns where the server listens.
func (s *server) address(t *testing.T) string {
	t.Helper()
	line := s.await(t, "msg=listening")
	_, address, _ := strings.Cut(line, "address=")
	return address
}

// stop ends the server as an init system does.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.await(t, "msg=stopped")
	select {
	case code := <-s.code:
		if code != exitDone {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(patience):
		t.Fatal("serve did not end")
	}
}

// verb runs another verb and returns its output.
func verb(t *testing.T, want int, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if code := run(t.Context(), args, &out, &out); code != want {
		t.Errorf("%v: exit code %d, want %d\n%s", args, code, want, out.String())
	}
	return out.String()
}

func policyOf(rate string) string {
	return "version: 1\napplications: {a: {rules: [{name: o, match: {operation: o}, limits: [{name: burst, rate: " + rate + "}]}]}}\n"
}

func replace(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestServeAndReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, file, policyOf("5/h"))
	s := startServe(t, "--policy", file, "--http", "127.0.0.1:0")
	s.await(t, `level=INFO msg="store embedded: state is kept in the data directory"`)
	s.await(t, "revision=1")
	address := s.address(t)
	if strings.HasSuffix(address, ":0") {
		t.Fatalf("address %s", address)
	}
	take := []string{"take", "--server", address, "a", "o", "s", "5"}
	verb(t, exitDone, take...)
	verb(t, exitDenied, take...)

	replace(t, file, policyOf("50/h"))
	s.await(t, `msg="policy in force" file=`+file+" revision=2")
	if out := verb(t, exitDenied, "peek", "--server", address, "a", "o", "s", "51"); !strings.Contains(out, "limit of 50") {
		t.Errorf("the new policy does not rule:\n%s", out)
	}

	replace(t, file, policyOf("50/m")+"colour: red\n")
	s.await(t, "rate \\\"50/m\\\"")
	s.await(t, "colour")
	s.await(t, `level=ERROR msg="policy not reloaded, the old one stays in force" because="file changed" revision=2`)
	if out := verb(t, exitDenied, "peek", "--server", address, "a", "o", "s", "51"); !strings.Contains(out, "limit of 50") {
		t.Errorf("the old policy does not rule:\n%s", out)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.await(t, "because=SIGHUP")

	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`headgate_decisions_total{application="a",door="http",plan="",reason="ok",rule="o"} 1`,
		`headgate_decisions_total{application="a",door="http",plan="",reason="rate_limited",rule="o"} 1`,
		`headgate_cost_total{application="a",rule="o",unit="requests"} 5`,
		"headgate_policy_last_reload_successful 0", "headgate_policy_revision 2", "headgate_policy_reload_failures_total 2", "headgate_keys 1",
	} {
		if !strings.Contains(string(metrics), line+"\n") {
			t.Errorf("no line %s in\n%s", line, metrics)
		}
	}
	s.stop(t)
}

func TestServeUnixSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	replace(t, dir+"/config", "version: 1\nlog: {level: debug}\n")
	s := startServe(t, "--http", "unix:"+socket, "--config", dir+"/config")
	address := s.address(t)
	if address != "unix:"+socket {
		t.Errorf("address %s", address)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("socket %v, %v: a proxy of another user could not connect", info, err)
	}
	if out := verb(t, exitDone, "take", "default", "o", "alice", "--server", address); !strings.Contains(out, "plan free") {
		t.Errorf("the built-in policy does not rule:\n%s", out)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.await(t, `msg="policy unchanged" because=SIGHUP revision=1`)
	s.stop(t)
}

// TestDrain stops a server in the middle of a request.
func TestDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		io.WriteString(w, "done")
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serveUntil(ctx, []door{{name: "http", listener: l, service: newHTTPServer(&http.Server{Handler: h})}}, drain, slog.New(slog.NewTextHandler(t.Output(), nil)))
	}()
	answers := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			answers <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			body = []byte(err.Error())
		}
		answers <- string(body)
	}()
	<-entered
	stop()
	// It no longer listens, and still waits for the request.
	for {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	select {
	case err := <-ended:
		t.Fatalf("ended before the request: %v", err)
	default:
	}
	close(release)
	if got := <-answers; got != "done" {
		t.Errorf("the request got %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, "stale")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	busyUnix, err := net.Listen("unix", filepath.Join(dir, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	defer busyUnix.Close()
	tests := []struct{ name, address, want string }{
		{"name", "localhost:0", ""},
		{"IPv6", "[::1]:0", ""},
		{"all", ":0", ""},
		{"no port", "localhost", "--http localhost: address localhost: missing port in address"},
		{"busy", busy.Addr().String(), "--http " + busy.Addr().String() + ": bind: address already in use: another program listens there; end it, or name another address"},
		{"stale socket", "unix:" + stale, ""},
		{"busy socket", "unix:" + dir + "/busy", "--http unix:" + dir + "/busy: another server listens there"},
		{"file", "unix:" + file, "--http unix:" + file + ": there is a file that is no socket"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := listen("http", tt.address)
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				l.Close()
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestWatch(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		// prepare makes the file, change another content of it.
		prepare, change func(t *testing.T, dir, file string)
	}{
		{"written", func(t *testing.T, dir, file string) { write(t, file, "1") }, func(t *testing.T, dir, file string) { write(t, file, "2") }},
		{"replaced", func(t *testing.T, dir, file string) { write(t, file, "1") }, func(t *testing.T, dir, file string) { replace(t, file, "2") }},
		{"ConfigMap", func(t *testing.T, dir, file string) {
			must(os.Mkdir(dir+"/..1", 0o700))
			write(t, dir+"/..1/policy.yaml", "1")
			must(os.Symlink("..1", dir+"/..data"))
			must(os.Symlink("..data/policy.yaml", file))
		}, func(t *testing.T, dir, file string) {
			must(os.Mkdir(dir+"/..2", 0o700))
			write(t, dir+"/..2/policy.yaml", "2")
			must(os.Symlink("..2", dir+"/..tmp"))
			must(os.Rename(dir+"/..tmp", dir+"/..data"))
			must(os.RemoveAll(dir + "/..1"))
		}},
		{"linked elsewhere", func(t *testing.T, dir, file string) {
			must(os.Mkdir(dir+"/other", 0o700))
			write(t, dir+"/other/real", "1")
			must(os.Symlink("other/real", file))
		}, func(t *testing.T, dir, file string) { replace(t, dir+"/other/real", "2") }},
		{"directory swapped by a link", func(t *testing.T, dir, file string) {
			must(os.Rename(dir, dir+"-1"))
			must(os.Symlink(dir+"-1", dir))
			write(t, file, "1")
		}, func(t *testing.T, dir, file string) {
			must(os.Mkdir(dir+"-2", 0o700))
			write(t, dir+"-2/policy.yaml", "2")
			must(os.Symlink(dir+"-2", dir+"-tmp"))
			must(os.Rename(dir+"-tmp", dir))
		}},
		{"directory made anew", func(t *testing.T, dir, file string) { write(t, file, "1") }, func(t *testing.T, dir, file string) {
			must(os.Rename(dir, dir+"-old"))
			must(os.Mkdir(dir, 0o700))
			write(t, file, "2")
		}},
		{"made anew", func(t *testing.T, dir, file string) { write(t, file, "1"); write(t, dir+"/x", "") }, func(t *testing.T, dir, file string) {
			must(os.Remove(file))
			write(t, file, "2")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir() + "/policies"
			must(os.Mkdir(dir, 0o700))
			file := dir + "/policy.yaml"
			tt.prepare(t, dir, file)
			ctx, cancel := context.WithCancel(t.Context())
			seen, done := make(chan string, 10), make(chan error, 1)
			go func() {
				done <- watchFile(ctx, "policy", file, slog.New(slog.NewTextHandler(t.Output(), nil)), func() {
					data, err := os.ReadFile(file)
					if err != nil {
						data = []byte(err.Error())
					}
					seen <- string(data)
				}, func() bool { return true })
			}()
			for i, want := range []string{"1", "2"} {
				select {
				case got := <-seen:
					if got != want {
						t.Errorf("call %d saw %q, want %q", i, got, want)
					}
				case <-time.After(patience):
					t.Fatalf("call %d did not come", i)
				}
				if i == 0 {
					tt.change(t, dir, file)
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
