package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/store/redisstore/redistest"
)

// webUsers is the number of users who ask.
const webUsers = 10_000

// webApps are an Express application behind each contestant, or bare: what to give to
// rivals/web/server.mjs.
var webApps = map[string]func(testing.TB) []string{
	"bare":          func(testing.TB) []string { return []string{"bare"} },
	"headgate":      func(tb testing.TB) []string { return []string{"headgate", "redis://" + openWebDoor(tb).doors["resp"]} },
	"headgate-http": func(tb testing.TB) []string { return []string{"headgate", "http://" + openWebDoor(tb).doors["http"]} },
	"headgate-redis": func(tb testing.TB) []string {
		return []string{"headgate", "redis://" + openWebDoor(tb, "--store", redistest.Standalone(tb).URL()).doors["resp"]}
	},
	"rate-limiter-flexible":       func(testing.TB) []string { return []string{"rate-limiter-flexible"} },
	"rate-limiter-flexible-redis": func(tb testing.TB) []string { return []string{"rate-limiter-flexible", redistest.Standalone(tb).URL()} },
	"express-rate-limit":          func(testing.TB) []string { return []string{"express-rate-limit"} },
	"express-rate-limit-redis":    func(tb testing.TB) []string { return []string{"express-rate-limit", redistest.Standalone(tb).URL()} },
}

func openWebDoor(tb testing.TB, args ...string) *house {
	if len(args) == 0 {
		args = []string{"--store", "memory"}
	}
	return startHeadgate(tb, nil, args...)
}

// webPackages installs what the application requires, once.
var webPackages = sync.OnceValue(func() error {
	const dir = "rivals/web"
	installed, err := os.Stat(filepath.Join(dir, "node_modules/.package-lock.json"))
	if lock, err2 := os.Stat(filepath.Join(dir, "package-lock.json")); err2 != nil || err == nil && installed.ModTime().After(lock.ModTime()) {
		return err2
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in %s: %w\n%s", dir, err, out)
	}
	return nil
})

// webApp is a process of the application.
type webApp struct {
	addr string
	pid  int
}

func openWebApp(tb testing.TB, name string) *webApp {
	tb.Helper()
	if err := webPackages(); err != nil {
		tb.Fatal(err)
	}
	script, err := filepath.Abs("rivals/web/server.mjs")
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("node", append([]string{script}, webApps[name](tb)...)...)
	cmd.Env = append(os.Environ(), "NODE_ENV=production")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatalf("%s does not start: %v", name, err)
	}
	a := &webApp{addr: "127.0.0.1:" + strings.TrimSpace(port), pid: cmd.Process.Pid}
	if err := a.tight(name == "bare"); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return a
}

// tight returns an error unless exactly 5 of the requests of a user pass, or all where
// nobody limits them.
func (a *webApp) tight(bare bool) error {
	const asked, limit = 8, 5
	passed := 0
	for range asked {
		req, err := http.NewRequest(http.MethodGet, "http://"+a.addr+"/tight", nil)
		if err != nil {
			return err
		}
		req.Header.Set("X-User", "somebody")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		switch res.StatusCode {
		case http.StatusOK:
			passed++
		case http.StatusTooManyRequests:
		default:
			return fmt.Errorf("answered %s", res.Status)
		}
	}
	if want := map[bool]int{true: asked, false: limit}[bare]; passed != want {
		return fmt.Errorf("%d of %d passed, want %d", passed, asked, want)
	}
	return nil
}

// browser is a connection that asks as one user after the other.
type browser struct {
	conn net.Conn
	r    *bufio.Reader
	out  []byte
	body []byte
}

func browse(tb testing.TB, addr string) *browser {
	tb.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return &browser{conn: conn, r: bufio.NewReader(conn)}
}

var (
	statusOK      = []byte("HTTP/1.1 200 ")
	contentLength = []byte("content-length: ")
)

// get asks for a page and returns an error unless it is the application's.
func (c *browser) get(user int64) error {
	c.out = append(c.out[:0], "GET / HTTP/1.1\r\nHost: shop.example\r\nX-User: user-"...)
	c.out = strconv.AppendInt(c.out, user%webUsers, 10)
	c.out = append(c.out, "\r\n\r\n"...)
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, statusOK) {
		return fmt.Errorf("answered %q", line)
	}
	size := -1
	for len(line) > 2 {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength) {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):]))); err != nil {
				return err
			}
		}
	}
	if size != 2 {
		return fmt.Errorf("a page of %d bytes, want 2", size)
	}
	c.body = append(c.body[:0], "  "...)
	if _, err := io.ReadFull(c.r, c.body); err != nil {
		return err
	}
	if string(c.body) != "ok" {
		return errors.New("not the application's page")
	}
	return nil
}

// visit asks n times over so many connections.
func visit(tb testing.TB, addr string, connections, n int, times *sampler) {
	tb.Helper()
	var next, bad atomic.Int64
	var first atomic.Pointer[error]
	var g sync.WaitGroup
	for range connections {
		c := browse(tb, addr)
		g.Go(func() {
			var user int64
			t := func(string) bool {
				err := c.get(user)
				if err != nil {
					first.CompareAndSwap(nil, &err)
				}
				return err == nil
			}
			if times != nil {
				t = times.time(t)
			}
			for {
				// Users come in an order without a pattern, each as often as the others.
				if user = next.Add(1); user > int64(n) {
					return
				}
				if user *= 7919; !t("") {
					bad.Add(1)
				}
			}
		})
	}
	g.Wait()
	if n := bad.Load(); n != 0 {
		tb.Fatalf("%d requests went wrong: %v", n, *first.Load())
	}
}

// BenchmarkWeb is an Express application, 64 requests in flight.
func BenchmarkWeb(b *testing.B) {
	for name := range webApps {
		b.Run(name, func(b *testing.B) {
			a := openWebApp(b, name)
			visit(b, a.addr, inFlight, 2*webUsers, nil) // compiled, and every user known
			var times sampler
			began := processorTime(b, a.pid)
			b.ResetTimer()
			visit(b, a.addr, inFlight, b.N, &times)
			b.StopTimer()
			b.ReportMetric(float64(processorTime(b, a.pid)-began)/float64(b.N), "server-ns/op")
			times.report(b)
		})
	}
}

// BenchmarkWebAdded is what a contestant adds to a request, one at a time: it is asked and
// the bare application is, in turns.
func BenchmarkWebAdded(b *testing.B) {
	for name := range webApps {
		if name == "bare" {
			continue
		}
		b.Run(name, func(b *testing.B) {
			apps := [2]*webApp{openWebApp(b, "bare"), openWebApp(b, name)}
			var took, used [2]time.Duration
			for _, a := range apps {
				visit(b, a.addr, 1, webUsers, nil)
			}
			for i, a := range apps {
				used[i] = -processorTime(b, a.pid)
			}
			const block = 200
			n := 0
			for ; n < max(b.N, 10*block); n += block {
				for i, a := range apps {
					began := time.Now()
					visit(b, a.addr, 1, block, nil)
					took[i] += time.Since(began)
				}
			}
			for i, a := range apps {
				used[i] += processorTime(b, a.pid)
			}
			b.ReportMetric(float64(took[1]-took[0])/float64(n), "added-ns/op")
			b.ReportMetric(float64(used[1]-used[0])/float64(n), "added-cpu-ns/op")
		})
	}
}
