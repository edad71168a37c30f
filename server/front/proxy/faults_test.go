package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// script is an upstream that speaks by hand: f gets each connection after a request.
func script(t *testing.T, f func(net.Conn)) (url string, requests *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	requests = new(atomic.Int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := c.Read(make([]byte, 64<<10)); err == nil {
					requests.Add(1)
					f(c)
				}
			}()
		}
	}()
	return "http://" + l.Addr().String(), requests
}

// says answers with a text and closes.
func says(text string) func(net.Conn) {
	return func(c net.Conn) { io.WriteString(c, text) }
}

// closedPort is a server that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// silent is a server that takes connections and never says anything.
func silent(t *testing.T) string {
	t.Helper()
	gone := make(chan struct{})
	url, _ := script(t, func(net.Conn) { <-gone })
	t.Cleanup(func() { close(gone) })
	return url
}

// TestBadUpstreams: what is no answer is said to be none, and nothing stays held.
func TestBadUpstreams(t *testing.T) {
	const soon = 50 * time.Millisecond
	broken, _ := script(t, says("HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n"))
	noHTTP, _ := script(t, says("SSH-2.0-OpenSSH\r\n"))
	ends, _ := script(t, says(""))
	both, _ := script(t, says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"))
	huge, _ := script(t, says("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 2*maxResponseHeader)+"\r\n\r\n"))
	for name, tt := range map[string]struct {
		pool   Pool
		status int
		name   string
	}{
		"refuses":              {Pool{Servers: []string{closedPort(t)}}, 503, "upstream_unavailable"},
		"all refuse":           {Pool{Servers: []string{closedPort(t), closedPort(t), closedPort(t)}}, 503, "upstream_unavailable"},
		"unknown name":         {Pool{Servers: []string{"http://nobody.invalid"}}, 503, "upstream_unavailable"},
		"hangs":                {Pool{Servers: []string{silent(t)}, ResponseTimeout: soon}, 504, "upstream_timeout"},
		"is slow to shake":     {Pool{Servers: []string{strings.Replace(silent(t), "http:", "https:", 1)}, ConnectTimeout: soon}, 504, "upstream_timeout"},
		"speaks no HTTP":       {Pool{Servers: []string{noHTTP}}, 502, "upstream_failed"},
		"speaks no HTTP/2":     {Pool{Servers: []string{strings.Replace(noHTTP, "http:", "h2c:", 1)}}, 502, "upstream_failed"},
		"speaks no TLS":        {Pool{Servers: []string{strings.Replace(noHTTP, "http:", "https:", 1)}}, 503, "upstream_unavailable"},
		"a broken field":       {Pool{Servers: []string{broken}}, 502, "upstream_failed"},
		"ends":                 {Pool{Servers: []string{ends}}, 502, "upstream_failed"},
		"two lengths":          {Pool{Servers: []string{both}}, 502, "upstream_failed"},
		"a header that floods": {Pool{Servers: []string{huge}}, 502, "upstream_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, config(tt.pool))
			wantProblem(t, s, request(t, "GET", s.url, nil), tt.status, tt.name)
			wantProblem(t, s, request(t, "POST", s.url, strings.NewReader("body")), tt.status, tt.name)
		})
	}
}

// TestCutAnswers: an answer that breaks off is no short answer, whatever says how long it
// is, and by HTTP/2 too.
func TestCutAnswers(t *testing.T) {
	for name, text := range map[string]string{
		"Content-Length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
		"chunked":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"chunk":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
	} {
		for _, two := range []bool{false, true} {
			url, _ := script(t, says(text))
			s := open(t, config(Pool{Servers: []string{url}}))
			if two {
				var only http.Protocols
				only.SetUnencryptedHTTP2(true)
				s.client = &http.Client{Transport: &http.Transport{Protocols: &only}, Timeout: patience}
			}
			res, err := s.client.Get(s.url)
			if err == nil { // else it broke off before anything was sent on
				b, err := io.ReadAll(res.Body)
				if err == nil {
					t.Errorf("%s: %s %q: want an error", name, res.Status, b)
				}
				res.Body.Close()
			}
			s.await(t)
		}
	}
}

// TestLongAnswer: what an upstream sends beyond the end of its answer reaches nobody, not
// the next one on the connection either.
func TestLongAnswer(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	long := strings.Repeat("a", 100<<10)
	for name, tt := range map[string]struct{ method, text, body string }{
		"length":          {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab"},
		"a long one":      {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 102400\r\n\r\n" + long, long},
		"chunked":         {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", "ab"},
		"trailer":         {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n2\r\nab\r\n0\r\nX-A: b\r\n\r\n", "ab"},
		"interim":         {"GET", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab"},
		"an empty one":    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""},
		"HEAD":            {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 62\r\n\r\n", ""},
		"HEAD of chunked": {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
		"204":             {"GET", "HTTP/1.1 204 No Content\r\n\r\n", ""},
		"304":             {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 62\r\n\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			url, requests := script(t, says(tt.text+evil))
			s := open(t, config(Pool{Servers: []string{url}}))
			for range 3 {
				if res, body := s.do(t, request(t, tt.method, s.url, nil)); body != tt.body {
					t.Errorf("%s, %d bytes", res.Status, len(body))
				}
			}
			if n := requests.Load(); n != 3 {
				t.Errorf("%d requests", n)
			}
			// That was no luck: the connection is not even kept for a moment.
			server := s.pools[0].servers[0]
			trace := asking(tt.method)
			trace.PutIdleConn = func(err error) { t.Errorf("the connection is kept: %v", err) }
			res, err := server.transport.RoundTrip(request(t, tt.method, url, nil).WithContext(httptrace.WithClientTrace(t.Context(), trace)))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(res.Body); string(b) != tt.body || err != nil {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			res.Body.Close()
		})
	}
}

// TestInterim: interim answers without an end are none, and a client that does not take
// them holds nothing for longer than the answer may take.
func TestInterim(t *testing.T) {
	flood := func(size int) func(net.Conn) {
		text := "HTTP/1.1 103 Early Hints\r\nLink: <" + strings.Repeat("a", size) + ">\r\n\r\n"
		return func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, text); err != nil {
					return
				}
			}
		}
	}
	url, _ := script(t, flood(1))
	s := open(t, config(Pool{Servers: []string{url}}))
	wantProblem(t, s, request(t, "GET", s.url, nil), 502, "upstream_failed")

	url, _ = script(t, flood(100<<10))
	s = open(t, config(Pool{Servers: []string{url}, ResponseTimeout: 100 * time.Millisecond}))
	s.raw(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	s.await(t)
}

// TestIdle: an answer that stops is cut after the idle time-out; -1 is none, and one that
// goes on is not.
func TestIdle(t *testing.T) {
	parts := make(chan string)
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case p := <-parts:
				io.WriteString(w, p)
				http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	s := open(t, config(Pool{Servers: []string{u.URL}, IdleTimeout: 200 * time.Millisecond}))
	go func() {
		for range 5 {
			parts <- "x"
		}
	}()
	res, err := s.client.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); string(b) != "xxxxx" || err == nil {
		t.Errorf("%q %v", b, err)
	}
	s.await(t)
}

// TestClientLeaves: the upstream learns of it, and nothing stays held: before the answer,
// within it, and within the body.
func TestClientLeaves(t *testing.T) {
	began, gone := make(chan bool), make(chan bool, 1)
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/within":
			io.WriteString(w, "begin")
			http.NewResponseController(w).Flush()
		case "/body":
			io.ReadFull(r.Body, make([]byte, 4))
		}
		began <- true
		if r.URL.Path == "/body" {
			io.Copy(io.Discard, r.Body)
		}
		<-r.Context().Done()
		gone <- true
	})
	s := open(t, config(Pool{Servers: []string{u.URL}}))
	for _, text := range []string{
		"GET /before HTTP/1.1\r\nHost: a\r\n\r\n", "GET /within HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbody", "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
	} {
		_, c := s.raw(t, text)
		<-began
		c.Close()
		select {
		case <-gone:
		case <-time.After(patience):
			t.Fatalf("%q: the upstream does not know", text)
		}
		s.await(t)
		if n := s.held.Load(); n != 0 {
			t.Errorf("%q: %d held", text, n)
		}
	}
	if u := s.Upstreams()[0]; u.InFlight != 0 {
		t.Errorf("%d in flight", u.InFlight)
	}
}

// TestSlowClients: who sends nothing of a body, or takes nothing of an answer, is cut.
func TestSlowClients(t *testing.T) {
	gone := make(chan bool, 1)
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			io.Copy(io.Discard, r.Body)
			return
		}
		b := make([]byte, 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(b); err != nil {
				break
			}
		}
		gone <- true
	})
	c := config(Pool{Servers: []string{u.URL}})
	c.ClientTimeout = 100 * time.Millisecond
	s := open(t, c)
	in, _ := s.raw(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbody")
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusRequestTimeout || !res.Close {
		t.Fatalf("%+v %v", res, err)
	}
	s.await(t)

	var only http.Protocols
	only.SetUnencryptedHTTP2(true)
	two := &http.Client{Transport: &http.Transport{Protocols: &only}}
	for _, client := range []*http.Client{{Transport: &http.Transport{}}, two} {
		res, err = client.Get(s.url)
		if err != nil {
			t.Fatal(err)
		}
		<-gone // it takes nothing
		s.await(t)
		if b, err := io.Copy(io.Discard, res.Body); err == nil {
			t.Errorf("the answer ended well after %d bytes", b)
		}
		res.Body.Close()
	}
}

// TestBlockedUpload: an upstream that does not read is given up, though the client goes on
// sending.
func TestBlockedUpload(t *testing.T) {
	s := open(t, config(Pool{Servers: []string{silent(t)}, ResponseTimeout: 100 * time.Millisecond}))
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
	go func() {
		for b := make([]byte, 64<<10); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	s.await(t)
}

// TestEarlyAnswer: an answer that begins within the body reaches the client at once, and
// the rest of the body the upstream. The connection is not used again.
func TestEarlyAnswer(t *testing.T) {
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		control.EnableFullDuplex()
		io.WriteString(w, "early ")
		control.Flush()
		io.Copy(w, r.Body)
	})
	s := open(t, config(Pool{Servers: []string{u.URL}}))
	in, c := s.raw(t, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	res, err := http.ReadResponse(in, nil)
	if err != nil || !res.Close {
		t.Fatalf("%+v %v", res, err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(res.Body, b); err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "4\r\nbody\r\n0\r\n\r\nGET /other HTTP/1.1\r\nHost: a\r\n\r\n")
	rest, err := io.ReadAll(res.Body)
	if string(b)+string(rest) != "early body" || err != nil {
		t.Errorf("%s%s %v", b, rest, err)
	}
	if res, err := http.ReadResponse(in, nil); err == nil {
		t.Errorf("a second answer: %s", res.Status)
	}
	s.await(t)

	// One that does not wait for the body leaves nothing behind that passes for a request.
	url, _ := script(t, says("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nearly "))
	s = open(t, config(Pool{Servers: []string{url}}))
	in, c = s.raw(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
	res, err = http.ReadResponse(in, nil)
	if err != nil || !res.Close {
		t.Fatalf("%+v %v", res, err)
	}
	if b, err := io.ReadAll(res.Body); string(b) != "early " || err != nil {
		t.Errorf("%q %v", b, err)
	}
	s.await(t)
	io.WriteString(c, "GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
	if res, err := http.ReadResponse(in, nil); err == nil {
		t.Errorf("a second answer: %s", res.Status)
	}
}

// TestMaxBody: too large a body is refused, before anything is sent where its length is
// said.
func TestMaxBody(t *testing.T) {
	var whole atomic.Int64
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			whole.Add(1)
		}
	})
	c := config(Pool{Servers: []string{u.URL}})
	c.MaxBody = 10
	s := open(t, c)
	for _, body := range []io.Reader{strings.NewReader("01234567890"), io.NopCloser(strings.NewReader("01234567890"))} {
		wantProblem(t, s, request(t, "POST", s.url, body), 413, "request_too_large")
	}
	if n := whole.Load(); n != 0 {
		t.Errorf("%d bodies arrived", n)
	}
	for _, body := range []io.Reader{nil, strings.NewReader("0123456789"), io.NopCloser(strings.NewReader("0123456789"))} {
		if res, text := s.do(t, request(t, "POST", s.url, body)); res.StatusCode != 200 {
			t.Errorf("%s %s", res.Status, text)
		}
	}
}

// TestRetry: only what was not sent is sent again, to another server, once.
func TestRetry(t *testing.T) {
	echo := upstream(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	s := open(t, config(Pool{Servers: []string{closedPort(t), echo.URL}, Balance: RoundRobin}))
	for range 4 {
		if res, body := s.do(t, request(t, "POST", s.url, strings.NewReader("body"))); res.StatusCode != 200 || body != "body" {
			t.Errorf("%s %s", res.Status, body)
		}
	}
	if up := s.Upstreams()[0].Servers; up[0].Up || !up[1].Up {
		t.Errorf("%+v", up)
	}
	one, first := script(t, says(""))
	two, second := script(t, says(""))
	s = open(t, config(Pool{Servers: []string{one, two}}))
	wantProblem(t, s, request(t, "POST", s.url, strings.NewReader("body")), 502, "upstream_failed")
	if n := first.Load() + second.Load(); n != 1 {
		t.Errorf("it was sent %d times", n)
	}
	for _, server := range s.Upstreams()[0].Servers {
		if !server.Up {
			t.Errorf("%+v: a request takes a server away", server)
		}
	}
}

func testPool(t *testing.T, balance Balance, n int) *pool {
	t.Helper()
	c := Pool{Balance: balance}
	for i := range n {
		c.Servers = append(c.Servers, "http://h:"+string(rune('1'+i)))
	}
	p, err := newPool("app", c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestEjection: a server that cannot be connected to is left alone for a time that
// doubles, then one request tries it.
func TestEjection(t *testing.T) {
	p := testPool(t, RoundRobin, 2)
	bad, good := p.servers[0], p.servers[1]
	now := time.Unix(1000, 0)
	only := func(want *server) {
		t.Helper()
		for range 4 {
			if got := p.pick(now, nil); got != want {
				t.Fatalf("%v at %v", got.host, now)
			}
		}
	}
	for _, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		for range 3 { // requests that fail together count once
			p.unconnected(bad, now)
		}
		only(good)
		now = now.Add(wait*time.Second - 1)
		only(good)
		now = now.Add(1)
		if got := p.pick(now, nil); got != bad {
			t.Fatalf("nobody tries it after %v s", wait)
		}
		only(good) // while one does
	}
	p.connected(bad)
	if a, b := p.pick(now, nil), p.pick(now, nil); a == b {
		t.Error("it gets nothing though it answers")
	}
	p.unconnected(bad, now)
	now = now.Add(minBackoff)
	if p.pick(now, nil) != bad {
		t.Error("it was not forgiven")
	}
	// One that tried and left without a word does not keep others from it.
	now = now.Add(maxBackoff)
	if p.pick(now, nil) != bad {
		t.Error("nobody tries it again")
	}
	p.unconnected(bad, now)
	p.unconnected(good, now)
	if a, b := p.pick(now, nil), p.pick(now, nil); a == nil || b == nil || a == b {
		t.Error("not all are tried though none is left")
	}
	if p.pick(now, good) != bad {
		t.Error("the other one")
	}
	if q := testPool(t, RoundRobin, 1); q.pick(now, q.servers[0]) != nil {
		t.Error("there is no other one")
	}
}

// TestLeastRequests: of two the one with less to do gets the request.
func TestLeastRequests(t *testing.T) {
	p := testPool(t, LeastRequests, 2)
	now := time.Unix(1000, 0)
	for range 10 {
		p.pick(now, nil)
	}
	if a, b := p.servers[0].inFlight, p.servers[1].inFlight; a != 5 || b != 5 {
		t.Errorf("%d and %d", a, b)
	}
	for range 4 {
		p.done(p.servers[0])
	}
	for range 4 {
		if p.pick(now, nil) != p.servers[0] {
			t.Error("the busier one")
		}
	}
}

// TestChecks: checks take a server out after some that failed, and back after some that
// did not; what only checks know does not stop a server that is the last.
func TestChecks(t *testing.T) {
	p := testPool(t, RoundRobin, 2)
	s, now, bad := p.servers[0], time.Unix(1000, 0), errors.New("bad")
	for i, tt := range []struct {
		err  error
		down bool
	}{{bad, false}, {bad, false}, {nil, false}, {bad, false}, {bad, false}, {bad, true}, {nil, true}, {bad, true}, {nil, true}, {nil, false}} {
		if p.checked(s, tt.err); s.down != tt.down {
			t.Errorf("%d: down %v", i, s.down)
		}
	}
	s.down, p.servers[1].down = true, true
	if p.pick(now, nil) == nil {
		t.Error("nobody is asked")
	}
}

// messages is a log that tells of its messages.
type messages chan string

func (m messages) Write(b []byte) (int, error) {
	m <- string(b)
	return len(b), nil
}

func (m messages) await(t *testing.T, text string) {
	t.Helper()
	for {
		select {
		case line := <-m:
			if strings.Contains(line, text) {
				return
			}
		case <-time.After(patience):
			t.Fatalf("no message with %q", text)
		}
	}
}

// TestClientFaults: what a client does wrong is not logged as the upstream's failure.
func TestClientFaults(t *testing.T) {
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	c := config(Pool{Servers: []string{u.URL}})
	c.MaxBody = 10
	log := make(messages, 1000)
	c.Logger = slog.New(slog.NewTextHandler(log, nil))
	s := open(t, c)
	for body, want := range map[string]int{"zz\r\n": 400, "14\r\n01234567890123456789\r\n0\r\n\r\n": 413} {
		in, conn := s.raw(t, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != want {
			t.Errorf("%q: %v %v, want %d", body, res, err, want)
		}
		s.await(t)
		conn.Close()
	}
	if len(log) > 0 {
		t.Error(<-log)
	}
}

// TestHealth checks real servers, of which one falls ill and recovers.
func TestHealth(t *testing.T) {
	var ill atomic.Bool
	u := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" || r.Host != "shop.example" {
			t.Errorf("%s %s", r.Host, r.URL.Path)
		}
		if ill.Load() {
			w.WriteHeader(500)
		}
	})
	log := make(messages, 1000)
	c := config(Pool{Servers: []string{u.URL}, Host: "shop.example", Health: Health{Path: "/healthz", Interval: time.Millisecond}})
	c.Logger = slog.New(slog.NewTextHandler(log, nil))
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() {
		p.Run(ctx)
		close(ended)
	}()
	ill.Store(true)
	log.await(t, "not healthy")
	if p.Upstreams()[0].Servers[0].Up {
		t.Error("it is up")
	}
	if wait, ok := p.pools[0].nextCheck(time.Now()); !ok || wait > time.Millisecond {
		t.Errorf("the next check is in %v, %v", wait, ok)
	}
	ill.Store(false)
	log.await(t, "healthy again")
	stop()
	<-ended
}

// TestLog: failures are logged with the address, at most once a second each server.
func TestLog(t *testing.T) {
	log := make(messages, 1000)
	p := testPool(t, RoundRobin, 2)
	p.log = slog.New(slog.NewTextHandler(log, nil))
	now := time.Unix(1000, 0)
	for i := range 10 {
		p.failed(t.Context(), p.servers[0], errors.New("broken"), now.Add(time.Duration(i)*time.Millisecond))
	}
	p.failed(t.Context(), p.servers[0], errors.New("broken"), now.Add(sayEvery))
	p.failed(t.Context(), p.servers[1], errors.New("broken"), now)
	for _, want := range []string{"server=h:1 error=broken and_before=0", "server=h:1 error=broken and_before=9", "server=h:2"} {
		if line := <-log; !strings.Contains(line, want) {
			t.Errorf("%s, want %s", line, want)
		}
	}
	if len(log) > 0 {
		t.Errorf("%s", <-log)
	}
}
