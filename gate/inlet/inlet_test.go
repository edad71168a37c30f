package inlet

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

func TestWaitCap(t *testing.T) {
	for said, want := range map[time.Duration]time.Duration{0: DefaultWaitCap, -1: 0, time.Second: time.Second} {
		if got, err := WaitCap(said); err != nil || got != want {
			t.Errorf("%v: got %v, %v, want %v", said, got, err, want)
		}
	}
	if got, err := WaitCap(-time.Second); err == nil {
		t.Errorf("-1s: got %v, want an error", got)
	}
}

func TestFaultOf(t *testing.T) {
	of := func(c headgate.Code, field string) error {
		return &headgate.Error{Code: c, Field: field, Err: errors.New("x")}
	}
	strange := gate.Request{Headers: http.Header{"X-A": {"ok", "\xff"}}}
	for _, tt := range []struct {
		name string
		err  error
		q    gate.Request
		want Fault
	}{
		{"away", of(headgate.Unavailable, ""), gate.Request{}, OfAway},
		{"closed", of(headgate.Closed, ""), gate.Request{}, OfAway},
		{"full", of(headgate.Overloaded, ""), gate.Request{}, OfEngine},
		{"unknown", errors.New("x"), gate.Request{}, OfEngine},
		{"away, whatever the client sent", of(headgate.Unavailable, ""), strange, OfAway},
		{"header that is no UTF-8", errors.New("x"), strange, OfClient},
		{"path that is no UTF-8", errors.New("x"), gate.Request{Path: "/\xff"}, OfClient},
		{"subject that is no UTF-8", errors.New("x"), gate.Request{Subject: "\xff"}, OfClient},
		{"invalid", of(headgate.InvalidRequest, "subject"), gate.Request{}, OfClient},
		{"application", of(headgate.InvalidRequest, "application"), gate.Request{}, OfProgram},
		{"unknown application", of(headgate.NotFound, "application"), gate.Request{}, OfProgram},
		{"unit", of(headgate.InvalidRequest, "costs"), gate.Request{}, OfProgram},
		{"cost of a unit", of(headgate.InvalidRequest, "costs.tokens"), gate.Request{}, OfClient},
		{"plan that was said", of(headgate.InvalidRequest, "plan"), gate.Request{Plan: "p"}, OfProgram},
		{"plan that was not", of(headgate.InvalidRequest, "plan"), gate.Request{}, OfClient},
	} {
		if got := FaultOf(tt.err, &tt.q); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// engine knows the proxies of application "a".
type engine struct{ Engine }

func (engine) TrustedProxies(application string) ([]netip.Prefix, bool) {
	return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, application == "a"
}

// unknowing is an engine that knows no proxies.
type unknowing struct{}

func (unknowing) Take(context.Context, *gate.Request, *gate.Decision) error  { return nil }
func (unknowing) Renew(context.Context, *gate.Claim, *gate.Decision) error   { return nil }
func (unknowing) Release(context.Context, *gate.Claim, *gate.Decision) error { return nil }

func TestProxies(t *testing.T) {
	for _, tt := range []struct {
		name        string
		engine      Engine
		application string
		said        []netip.Prefix
		peer        string
		want        string // the address, or the code of the error
		stranger    bool
	}{
		{"the policy's", engine{}, "a", nil, "10.0.0.1", "198.51.100.7", false},
		{"a stranger to it", engine{}, "a", nil, "127.0.0.1", "127.0.0.1", true},
		{"those said", engine{}, "a", []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, "192.0.2.1", "198.51.100.7", false},
		{"mapped", engine{}, "a", []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.0/120")}, "192.0.2.1", "198.51.100.7", false},
		{"nobody", engine{}, "a", []netip.Prefix{}, "10.0.0.1", "10.0.0.1", true},
		{"loopback where nobody knows", unknowing{}, "a", nil, "127.0.0.1", "198.51.100.7", false},
	} {
		p, err := NewProxies(tt.engine, tt.application, tt.said)
		if err != nil {
			t.Fatal(err)
		}
		q := gate.Request{Headers: http.Header{"X-Forwarded-For": {"198.51.100.7"}}}
		got := ""
		if err := p.Find(&q, netip.MustParseAddr(tt.peer)); err != nil {
			got = headgate.CodeOf(err).String()
		} else {
			got = q.IP.String()
		}
		if got != tt.want || q.Stranger != tt.stranger {
			t.Errorf("%s: got %s, stranger %v, want %s, %v", tt.name, got, q.Stranger, tt.want, tt.stranger)
		}
	}
	lost, err := NewProxies(engine{}, "lost", nil) // a policy loaded later may have it
	if err != nil {
		t.Fatal(err)
	}
	if err := lost.Find(new(gate.Request), netip.MustParseAddr("10.0.0.1")); headgate.CodeOf(err) != headgate.NotFound {
		t.Errorf("unknown application: got %v", err)
	}
	for _, said := range []netip.Prefix{{}, netip.MustParsePrefix("::ffff:0:0/95")} {
		if _, err := NewProxies(unknowing{}, "a", []netip.Prefix{said}); err == nil {
			t.Errorf("%v: no error", said)
		}
	}
}
