package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/middleware/httplimit"
	"github.com/headgate/headgate/server/front/httpapi"
	"github.com/headgate/headgate/store/memstore"
)

// serveEnv makes the test binary a server: headgate, a floor whose answers have as
// many bytes as the value says, or the floor of another door.
const serveEnv = "HEADGATE_BENCH_SERVE"

func TestMain(m *testing.M) {
	if as := os.Getenv(serveEnv); as != "" {
		if err := serve(as); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	closeOffice()
	os.Exit(code)
}

// serve answers until its input ends. It writes its address first.
func serve(as string) error {
	if strings.HasPrefix(as, floorRESP) || strings.HasPrefix(as, floorGRPC) {
		return serveFloor(as)
	}
	server, err := httpServer(as)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	fmt.Println(l.Addr())
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// httpServer returns what serves HTTP.
func httpServer(as string) (*http.Server, error) {
	if site, ok := strings.CutPrefix(as, floorProxy); ok {
		return openFloorProxy(site)
	}
	h, err := handler(as)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", h)
	mux.HandleFunc("/cpu", func(w http.ResponseWriter, _ *http.Request) {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		fmt.Fprint(w, u.Utime.Nano()+u.Stime.Nano())
	})
	return httpapi.NewServer(mux, slog.New(slog.DiscardHandler)), nil
}

const takePolicy = `
version: 1
applications:
  shop:
    rules:
      - name: search
        match: {path: "/api/search", methods: [GET]}
        limits: [{name: burst, rate: 10000000/s, burst: 1000000000}]
`

const (
	takeBody = `{"application":"shop","subject":"user:00000000001","request":{"method":"GET","path":"/api/search"}}`
	inFlight = 64
)

var takeRequest = []byte("POST /v1/take HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: " +
	strconv.Itoa(len(takeBody)) + "\r\n\r\n" + takeBody)

// handler returns what is measured, or its floor: net/http with a handler that
// reads the body and writes a fixed answer.
func handler(as string) (http.Handler, error) {
	if as == "headgate" {
		g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(takePolicy), Store: memstore.New(memstore.Config{})})
		if err != nil {
			return nil, err
		}
		return httpapi.New(httpapi.Config{Gate: g}), nil
	}
	size, err := strconv.Atoi(as)
	if err != nil {
		return nil, err
	}
	const head = `{"allowed":true,"filling":"`
	answer := []byte(head + strings.Repeat("x", max(0, size-len(head)-2)) + `"}`)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || len(body) == 0 {
			http.Error(w, "not what was agreed", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	}), nil
}

// daemon is a server in a process of its own.
type daemon struct {
	addr string
	pid  int
	in   io.Writer
	out  *bufio.Reader
}

func startDaemon(b testing.TB, as string) *daemon {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+as)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	d := &daemon{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	line, err := d.out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	d.addr = strings.TrimSpace(line)
	return d
}

// asked returns what a floor has counted.
func (d *daemon) asked() (int64, error) {
	if _, err := io.WriteString(d.in, "\n"); err != nil {
		return 0, err
	}
	line, err := d.out.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(line), 10, 64)
}

// cpu returns the nanoseconds of processor time that the server has used.
func (d *daemon) cpu(b *testing.B) int64 {
	b.Helper()
	res, err := http.Get("http://" + d.addr + "/cpu")
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.Fatal(err)
	}
	ns, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return ns
}

// client is one connection that asks the same again and again.
type client struct {
	conn net.Conn
	r    *bufio.Reader
	body []byte
}

// ask sends the request and returns the body of the answer, valid until the
// next call.
func (c *client) ask() ([]byte, error) {
	if _, err := c.conn.Write(takeRequest); err != nil {
		return nil, err
	}
	size, status := -1, ""
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if len(line) <= 2 {
			break
		}
		if status == "" {
			if status = "200"; !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
				return nil, fmt.Errorf("answered %q", line)
			}
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			size = 0
			for _, d := range bytes.TrimSpace(v) {
				size = size*10 + int(d-'0')
			}
		}
	}
	if size < 0 {
		return nil, errors.New("no Content-Length")
	}
	if cap(c.body) < size {
		c.body = make([]byte, size)
	}
	c.body = c.body[:size]
	_, err := io.ReadFull(c.r, c.body)
	return c.body, err
}

func (d *daemon) dial() (*client, error) {
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, r: bufio.NewReader(conn)}, nil
}

var passes = []byte(`"allowed":true`)

// BenchmarkTakeHTTP asks for decisions over HTTP, 64 in flight on connections
// that stay open. The server is a process of its own on the same processors.
func BenchmarkTakeHTTP(b *testing.B) {
	b.Run("headgate", func(b *testing.B) { askDaemon(b, "headgate") })
	b.Run("floor", func(b *testing.B) {
		d := startDaemon(b, "headgate")
		c, err := d.dial()
		if err != nil {
			b.Fatal(err)
		}
		defer c.conn.Close()
		answer, err := c.ask()
		if err != nil {
			b.Fatal(err)
		}
		askDaemon(b, strconv.Itoa(len(answer)))
	})
}

func askDaemon(b *testing.B, as string) {
	d := startDaemon(b, as)
	var clients [inFlight]*client
	for i := range clients {
		c, err := d.dial()
		if err != nil {
			b.Fatal(err)
		}
		defer c.conn.Close()
		if _, err := c.ask(); err != nil {
			b.Fatal(err)
		}
		clients[i] = c
	}
	var left, bad atomic.Int64
	left.Store(int64(b.N))
	began := d.cpu(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if answer, err := c.ask(); err != nil || !bytes.Contains(answer, passes) {
					bad.Add(1)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(d.cpu(b)-began)/float64(b.N), "server-ns/op")
	if n := bad.Load(); n != 0 {
		b.Fatalf("%d of %d wrong", n, b.N)
	}
}

// sink is a response that can be used again.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkHTTPLimit is what the middleware adds to a handler: the client's
// address, two limits, and the header fields.
func BenchmarkHTTPLimit(b *testing.B) {
	b.Run("headgate", func(b *testing.B) {
		l, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerSecond(100_000_000), headgate.QuotaPer(1_000_000_000_000, headgate.Day))
		if err != nil {
			b.Fatal(err)
		}
		var requests [1000]*http.Request
		for i := range requests {
			r, err := http.NewRequest(http.MethodGet, "http://shop.example/api/search", nil)
			if err != nil {
				b.Fatal(err)
			}
			r.RemoteAddr = fmt.Sprintf("203.0.%d.%d:4711", i/250, i%250)
			requests[i] = r
		}
		passed, calls := int64(0), int64(0)
		h := httplimit.New(l, httplimit.Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ }))
		w := &sink{header: http.Header{}}
		b.ReportAllocs()
		began := cpu(b)
		for b.Loop() {
			clear(w.header)
			h.ServeHTTP(w, requests[calls%int64(len(requests))])
			calls++
		}
		reportCPU(b, began, calls)
		check(b, calls, passed, calls)
		if w.header.Get("RateLimit") == "" || w.header.Get("RateLimit-Policy") == "" {
			b.Fatalf("header %v", w.header)
		}
	})
}
