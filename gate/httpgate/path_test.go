package httpgate

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestDotted: nobody chooses the rule by a path that rules read otherwise than routers.
func TestDotted(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	server := httptest.NewServer(New(inMemory(t), Config{})(mux))
	defer server.Close()
	for path, refused := range map[string]bool{
		"/api/%2e%2e/health": true, "/api/..%2f../health": true, "/api/../health": true, "/api/.%2E/health": true, "/api%2F..%2fhealth": true,
		"/api/./x": true, "/api/%2e/x": true, "/..": true, "/api/..": true, "/api/%2e": true, "/api/..?q": true,
		"/api/..;/health": true, "/api/%2e;a=b": true, "/api/x;..": false, "/;/x": false,
		"/.well-known/x": false, "/api/...": false, "/api/..x": false, "/api/x..": false, "/api/%2ex": false, "/api/x%2e": false, "/api?to=/../x": false, "/api/%2": true,
		"/api/a.b/c": false, "/api/a%2f.b": false, "/%2e%2e%2e/": false,
	} {
		if got := rawGet(t, server.Listener.Addr().String(), path); (got == http.StatusBadRequest) != refused {
			t.Errorf("%s: %d", path, got)
		}
	}
}

// rawGet asks for a path as it is written, and returns the status.
func rawGet(t *testing.T, address, path string) int {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", path)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}
