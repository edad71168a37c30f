package httpapi

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipe starts a door on a connection in memory, and returns the client's end.
// closed gets a value when the server has closed its own.
func pipe(t *testing.T, f *fakeGate) (client net.Conn, closed chan struct{}) {
	t.Helper()
	l := make(pipes, 1)
	s := NewServer(New(Config{Gate: f}), slog.New(slog.DiscardHandler))
	closed = make(chan struct{}, 1)
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	go s.Serve(l)
	client, server := net.Pipe()
	l <- server
	t.Cleanup(func() {
		client.Close()
		close(l)
		s.Close()
	})
	return client, closed
}

const waiting = "POST /v1/take HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n" + `{"subject":"waits"}`

// TestLongWait: a request waits for longer than every time-out of the server,
// and the connection serves the next one.
func TestLongWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := pipe(t, &fakeGate{})
		answers := bufio.NewReader(client)
		for range 2 {
			began := time.Now()
			if _, err := io.WriteString(client, waiting); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), `"waited_ms":60000,`) || time.Since(began) != time.Minute {
				t.Errorf("after %v: %d %s %v", time.Since(began), resp.StatusCode, body, err)
			}
		}
	})
}

// TestWaitingClientLeaves: its wait ends when it does.
func TestWaitingClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeGate{}
		client, closed := pipe(t, f)
		began := time.Now()
		if _, err := io.WriteString(client, waiting); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		client.Close()
		<-closed
		if f.gone.Load() != 1 || time.Since(began) != 0 {
			t.Errorf("%d waits ended, %v later", f.gone.Load(), time.Since(began))
		}
	})
}

// TestEndedWait: a server that ends waits says so to those who are still there.
func TestEndedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, end)
		w := httptest.NewRecorder()
		New(Config{Gate: &fakeGate{}}).ServeHTTP(w, post1(t, "/v1/take", `{"subject":"waits"}`).WithContext(ctx))
		wantProblem(t, w.Result(), w.Body.String(), 503, "", "the server is stopping")
	})
}

// TestUnreadAnswerAfterWait: whoever does not read the answer for which he
// waited holds the connection no longer than others.
func TestUnreadAnswerAfterWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, closed := pipe(t, &fakeGate{})
		began := time.Now()
		if _, err := io.WriteString(client, waiting); err != nil {
			t.Fatal(err)
		}
		<-closed
		if got, want := time.Since(began), time.Minute+writeTimeout; got != want {
			t.Errorf("closed after %v, want %v", got, want)
		}
	})
}

// TestSlowHeader: a client that does not end its header is sent away, with the
// server's own time-outs.
func TestSlowHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, closed := pipe(t, &fakeGate{})
		began := time.Now()
		if _, err := io.WriteString(client, "POST /v1/take HTTP/1.1\r\nHost: loc"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(client); err != nil {
			t.Fatal(err)
		}
		<-closed
		if got := time.Since(began); got != 5*time.Second {
			t.Errorf("closed after %v", got)
		}
	})
}
