package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/internal/servertest"
)

// A house is a server with doors, in a process of its own.
type house struct {
	pid   int
	doors map[string]string // addresses
}

// sources say where a program is built and from what package there.
var sources = map[string]struct{ dir, pkg string }{
	"headgate":   {"..", "./server/cmd/headgate"},
	"ratelimit":  {"rivals/ratelimit", "tool"},
	"gubernator": {"rivals/gubernator", "."},
}

// program returns the path of a server, which the first to ask builds beside this
// binary. HEADGATE_BIN is a daemon that is built already.
func program(tb testing.TB, name string) string {
	tb.Helper()
	if bin := os.Getenv("HEADGATE_BIN"); bin != "" && name == "headgate" {
		return bin
	}
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	s := sources[name]
	cmd := exec.Command("go", "build", "-o", path, s.pkg)
	cmd.Dir = s.dir
	if name == "headgate" {
		cmd.Env = append(os.Environ(), "GOWORK=") // the daemon as we ship it
	} else {
		cmd.Env = append(os.Environ(), "GOWORK=off")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

var keeper = sync.OnceValues(func() (*servertest.Keeper, error) { return servertest.NewKeeper("bench", nil) })

// launch starts a program that runs until the benchmark is over. files are written
// into its directory, which it runs in.
func launch(tb testing.TB, files map[string]string, env []string, path string, args ...string) *servertest.Process {
	tb.Helper()
	k, err := keeper()
	if err != nil {
		tb.Fatal(err)
	}
	p, err := k.NewProcess()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s said\n%s", filepath.Base(path), p.Tail())
		}
		p.Remove()
	})
	for name, content := range files {
		file := filepath.Join(p.Dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	if err := p.Start("/usr/bin/env", append(append(env, path), args...)...); err != nil {
		tb.Fatal(err)
	}
	return p
}

// anyPort is where a door listens whose address is read from the log.
const anyPort = "127.0.0.1:0"

// startHeadgate starts the daemon as its users do, and waits for its doors.
func startHeadgate(tb testing.TB, files map[string]string, args ...string) *house {
	tb.Helper()
	args = append([]string{"serve", "--data", "data", "--http", anyPort, "--grpc", anyPort, "--resp", anyPort}, args...)
	doors := len(slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg != anyPort }))
	p := launch(tb, files, nil, program(tb, "headgate"), args...)
	h := &house{pid: p.Pid(), doors: map[string]string{}}
	await(tb, p, func() error {
		said, err := os.ReadFile(p.Log())
		if err != nil {
			return err
		}
		for line := range bytes.Lines(said) {
			_, told, ok := strings.Cut(strings.TrimSpace(string(line)), "msg=listening door=")
			if name, at, ok2 := strings.Cut(told, " address="); ok && ok2 {
				h.doors[name] = at
			}
		}
		if len(h.doors) < doors {
			return fmt.Errorf("it listens at %v so far", h.doors)
		}
		return nil
	})
	return h
}

// degraded returns how many decisions the daemon has made without its store.
func (h *house) degraded() (int64, error) {
	res, err := http.Get("http://" + h.doors["http"] + "/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var total int64
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if _, text, ok := strings.Cut(lines.Text(), "} "); ok && strings.HasPrefix(lines.Text(), "headgate_degraded_decisions_total{") {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return 0, err
			}
			total += int64(n)
		}
	}
	return total, lines.Err()
}

// await waits until ready returns nil.
func await(tb testing.TB, p *servertest.Process, ready func() error) {
	tb.Helper()
	err := servertest.Await("start the server", func() error {
		if err := p.Running(); err != nil {
			return err
		}
		return ready()
	})
	if err != nil {
		tb.Fatalf("%v\n%s", err, p.Tail())
	}
}

// listens returns nil if somebody listens at an address.
func listens(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// freeAddrs returns loopback addresses on which nobody listens.
func freeAddrs(tb testing.TB, n int) (addrs []string) {
	tb.Helper()
	for range n {
		port, err := servertest.FreePort()
		if err != nil {
			tb.Fatal(err)
		}
		addrs = append(addrs, servertest.Address(port))
	}
	return addrs
}

// processorTime returns the processor time that a process and its children have used, to
// 10 ms each.
func processorTime(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		tb.Fatal(err)
	}
	// "pid (name) state ...", in which user and system time are the 14th and 15th.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		ticks += n
	}
	used := time.Duration(ticks) * (time.Second / 100)
	for child := range strings.FieldsSeq(string(children)) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			tb.Fatal(err)
		}
		used += processorTime(tb, pid)
	}
	return used
}

// doorKeys is the number of keys at the Redis doors.
const doorKeys = 100_000

// doorBurst is what each key has. What comes back, a token a day, is less than one
// in a run: what is used is what was asked for.
const doorBurst = 10_000

// doorPolicy has an application with three limits, of which a request meets all, and
// one with a single limit.
const doorPolicy = `
version: 1
plans:
  free:
    limits:
      - {name: monthly, algorithm: quota, rate: 1000000000/month}
applications:
  shop:
    default_plan: free
    limits: [{name: all, rate: 10000000/s, burst: 1000000000}]
    rules:
      - name: search
        match: {operation: search}
        limits: [{name: burst, rate: 1/d, burst: 10000}]
  one:
    rules:
      - name: search
        match: {operation: search}
        limits: [{name: burst, rate: 1/d, burst: 10000}]
`
