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

// webApp is a server of pages: the application, or a proxy.
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
	if err := a.check(name == "bare"); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return a
}

// Of webAsked requests of a user all pass at "/", and webTight at "/tight".
const webAsked, webTight = 8, 5

// check returns an error unless exactly what should passes; at "/tight" all where nobody
// limits.
func (a *webApp) check(bare bool) error {
	want := map[string]int{"/": webAsked, "/tight": webTight}
	if bare {
		want["/tight"] = webAsked
	}
	for path, want := range want {
		passed := 0
		for range webAsked {
			req, err := http.NewRequest(http.MethodGet, "http://"+a.addr+path, nil)
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
				return fmt.Errorf("%s answered %s", path, res.Status)
			}
		}
		if passed != want {
			return fmt.Errorf("%d of %d passed at %s, want %d", passed, webAsked, path, want)
		}
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

// visitors ask over several connections, which stay.
type visitors struct {
	browsers []*browser
	asked    atomic.Int64
}

func gather(tb testing.TB, addr string, connections int) *visitors {
	tb.Helper()
	c := new(visitors)
	for range connections {
		c.browsers = append(c.browsers, browse(tb, addr))
	}
	return c
}

// visit asks n times.
func (of *visitors) visit(tb testing.TB, n int, times *sampler) {
	tb.Helper()
	last := of.asked.Load() + int64(n)
	var bad atomic.Int64
	var first atomic.Pointer[error]
	var g sync.WaitGroup
	for _, c := range of.browsers {
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
				if user = of.asked.Add(1); user > last {
					return
				}
				if user *= 7919; !t("") {
					bad.Add(1)
				}
			}
		})
	}
	g.Wait()
	of.asked.Store(last)
	if n := bad.Load(); n != 0 {
		tb.Fatalf("%d requests went wrong: %v", n, *first.Load())
	}
}

// BenchmarkWeb is an Express application, 64 requests in flight.
func BenchmarkWeb(b *testing.B) {
	for name := range webApps {
		b.Run(name, func(b *testing.B) {
			openWebApp(b, name).measure(b)
		})
	}
}

// webWarm is how often is asked before it is measured: all is compiled then, and every user
// known.
const webWarm = 2 * webUsers

// measure asks with 64 requests in flight.
func (a *webApp) measure(b *testing.B) {
	c := gather(b, a.addr, inFlight)
	c.visit(b, webWarm, nil)
	var times sampler
	began := processorTime(b, a.pid)
	b.ResetTimer()
	c.visit(b, b.N, &times)
	b.StopTimer()
	b.ReportMetric(float64(processorTime(b, a.pid)-began)/float64(b.N), "server-ns/op")
	times.report(b)
}

// BenchmarkWebAdded is what a contestant adds to a request, one at a time: it is asked and
// the bare application is, in turns.
func BenchmarkWebAdded(b *testing.B) {
	for name := range webApps {
		if name == "bare" {
			continue
		}
		b.Run(name, func(b *testing.B) {
			took, used, n := inTurns(b, [2]*webApp{openWebApp(b, "bare"), openWebApp(b, name)}, 1, webUsers, 200)
			b.ReportMetric(float64(took[1]-took[0])/float64(n), "added-ns/op")
			b.ReportMetric(float64(used[1]-used[0])/float64(n), "added-cpu-ns/op")
		})
	}
}

// inTurns asks two servers over so many connections, first to warm them and then in blocks,
// at least 10 of them. It returns the time and the processor time that each took for n
// requests.
func inTurns(b *testing.B, apps [2]*webApp, connections, warm, block int) (took, used [2]time.Duration, n int) {
	b.Helper()
	for _, a := range apps {
		gather(b, a.addr, connections).visit(b, warm, nil)
	}
	var both [2]*visitors // new ones: Node.js closes connections that wait for 5 s
	for i, a := range apps {
		both[i] = gather(b, a.addr, connections)
		used[i] = -processorTime(b, a.pid)
	}
	for ; n < max(b.N, 10*block); n += block {
		for i, c := range both {
			began := time.Now()
			c.visit(b, block, nil)
			took[i] += time.Since(began)
		}
	}
	for i, a := range apps {
		used[i] += processorTime(b, a.pid)
	}
	return took, used, n
}
