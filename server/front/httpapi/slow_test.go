package httpapi

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
)

// pipes is a listener whose connections are in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestSlowBody sends a body that stops half-way. Its client gets an answer.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := make(pipes, 1)
		s := NewServer(New(Config{Gate: &fakeGate{}}), slog.New(slog.DiscardHandler))
		go s.Serve(l)
		client, server := net.Pipe()
		l <- server
		if _, err := io.WriteString(client, "POST /v1/take HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		if resp.StatusCode < 400 || resp.StatusCode > 499 {
			t.Errorf("status %d, want one of 400 to 499", resp.StatusCode)
		}
		client.Close()
		close(l)
		s.Close()
	})
}
