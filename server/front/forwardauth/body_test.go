package forwardauth

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// nginx sends the Content-Length of the client's request, and no body, unless
// its configuration clears the header. The answer must not wait for the body.
func TestBodyThatNeverComes(t *testing.T) {
	s := httptest.NewServer(newDoor(t))
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	const request = "GET /v1/forward-auth/web HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n" +
		"X-Original-Method: POST\r\nX-Original-URI: /api/x\r\nX-Real-IP: 203.0.113.9\r\n\r\n"
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		t.Errorf("status %d, want 204", res.StatusCode)
	}
}

// An empty line of X-Forwarded-For does not hide the one behind it.
func TestEmptyForwardedLine(t *testing.T) {
	r := httptest.NewRequest("GET", "/v1/forward-auth/web", nil)
	r.RemoteAddr = "127.0.0.1:1"
	r.Header = http.Header{
		"X-Forwarded-Method": {"GET"}, "X-Forwarded-Uri": {"/api/x"}, "X-Forwarded-For": {"", "198.51.100.9"},
	}
	w := httptest.NewRecorder()
	newDoor(t).ServeHTTP(w, r)
	if w.Code != http.StatusNoContent {
		t.Errorf("status %d, want 204: %s", w.Code, w.Body)
	}
}
