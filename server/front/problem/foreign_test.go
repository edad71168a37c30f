package problem_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/headgate/headgate/server/front/problem"
)

// TestForeignElsewhere: on other addresses than loopback any Host will do, and
// a page of that host may ask.
func TestForeignElsewhere(t *testing.T) {
	tests := []struct {
		local, origin string
		foreign       bool
	}{
		{"192.0.2.1", "", false},
		{"192.0.2.1", "https://Gate.example", false},
		{"192.0.2.1", "https://evil.example", true},
		{"127.0.0.1", "", true},
		{"::1", "", true},
	}
	for _, tt := range tests {
		r := httptest.NewRequest("POST", "http://gate.example/v1/take", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(tt.local)}))
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if got := problem.Foreign(r); (got != nil) != tt.foreign {
			t.Errorf("on %s from %q: %v", tt.local, tt.origin, got)
		}
	}
}
