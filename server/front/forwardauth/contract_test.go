package forwardauth

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/guard"
	"github.com/headgate/headgate/internal/ratefield"
	"github.com/headgate/headgate/store/memstore"
)

// throughDoor puts the contract's requests to the gate where a proxy's would be,
// and compares what the door says of each decision with the decision. Tickets and
// batches do not exist here: the gate answers them.
type throughDoor struct {
	gatetest.Holder
	gate *gate.Gate
}

func (throughDoor) TrustedProxies(string) ([]netip.Prefix, bool) {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, true
}

// posed is a decider that decides one request of the contract, whatever it is asked.
type posed struct {
	throughDoor
	call   gatetest.Call
	answer gatetest.Answer
	err    error
}

func (p *posed) Take(ctx context.Context, _ *gate.Request, d *gate.Decision) error {
	decide := p.gate.Take
	if p.call.Peek {
		decide = p.gate.Peek
	}
	p.call.Request.Now = p.call.At.UnixMicro()
	if p.err = decide(ctx, &p.call.Request, d); p.err != nil {
		return p.err
	}
	d.RetryJitter = 0
	p.answer = gatetest.Of(d)
	return nil
}

func (o throughDoor) Decide(ctx context.Context, c gatetest.Call) (gatetest.Answer, error) {
	p := &posed{throughDoor: o, call: c}
	w := httptest.NewRecorder()
	mount(Config{Gate: p}).ServeHTTP(w, request("GET", apiPath, local, "X-Original-Method: GET", "X-Original-URI: /").WithContext(ctx))
	if p.err != nil {
		if w.Code < 400 || w.Header().Get("Headgate-Reason") != "" {
			return gatetest.Answer{}, fmt.Errorf("answered %d to %w", w.Code, p.err)
		}
		return gatetest.Answer{}, p.err
	}
	a, h := p.answer, w.Header()
	a.Allowed, a.Reason, a.BoundBy, a.Degraded = w.Code == http.StatusNoContent, h.Get("Headgate-Reason"), h.Get("Headgate-Limit"), h.Get("Headgate-Degraded")
	wait := ""
	if !p.answer.Allowed && a.Retryable {
		wait = fmt.Sprint(ratefield.RetryAfter(a.RetryAfter, 0, 0))
	}
	if got := h.Get("Retry-After"); got != wait {
		return a, fmt.Errorf("Retry-After %q, want %q", got, wait)
	}
	return a, nil
}

// TestContractAway: without the store every decision of the contract leaves by this
// door as it was made.
func TestContractAway(t *testing.T) {
	gatetest.RunAway(t, func(t *testing.T, policy string, wrap func(headgate.Store) headgate.Store) gatetest.Holder {
		memory := func() headgate.Store {
			return memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: gatetest.Start.UnixMicro()})
		}
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: wrap(memory()), Local: memory()})
		if err != nil {
			t.Fatal(err)
		}
		return throughDoor{gatetest.Local(g), g}
	})
}

// twoNodes is a store that two nodes share and that decides nothing.
type twoNodes struct{ headgate.Store }

func (twoNodes) Nodes(context.Context, [2]uint64, time.Duration) (int, error) { return 2, nil }

func (s twoNodes) Apply(ctx context.Context, b *headgate.Batch) error {
	return &headgate.Error{Code: headgate.Unavailable, Err: fmt.Errorf("no answer to %v", b.Op)}
}

// A node's share of a limit refills by the share of its rate, and that is what
// clients are told.
func TestShareInFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := memstore.New(memstore.Config{MaxBytes: 1 << 20})
		store := guard.New(twoNodes{memory}, guard.Config{})
		defer store.Close()
		if err := store.Meet(t.Context()); err != nil {
			t.Fatal(err)
		}
		g, err := gate.Open(t.Context(), gate.Config{Store: store, Local: store.Local(), Policy: []byte(`
version: 1
applications:
  web:
    trusted_proxies: [127.0.0.0/8]
    identity: [ip]
    rules: [{name: all, match: {path: /}, limits: [{name: burst, rate: 60/min, burst: 20}]}]
`)})
		if err != nil {
			t.Fatal(err)
		}
		door := mount(Config{Gate: g})
		// 0.4 of 20 and of 1/s: 8, and one every 2.5 s.
		for n, want := range []string{
			`"all/burst";r=7;t=18`, `"all/burst";r=6;t=15`, `"all/burst";r=5;t=13`, `"all/burst";r=4;t=10`,
			`"all/burst";r=3;t=8`, `"all/burst";r=2;t=5`, `"all/burst";r=1;t=3`, `"all/burst";r=0;t=3`,
		} {
			w := visit(door, "/", "198.51.100.9", "")
			if got := w.Header().Get("RateLimit"); w.Code != 204 || got != want {
				t.Errorf("request %d: %d, RateLimit %s, want %s", n+1, w.Code, got, want)
			}
			if got, want := w.Header().Get("RateLimit-Policy"), `"all/burst";q=8;w=20`; got != want {
				t.Errorf("request %d: RateLimit-Policy %s, want %s", n+1, got, want)
			}
		}
		w := visit(door, "/", "198.51.100.9", "")
		if w.Code != 429 || w.Header().Get("RateLimit") != `"all/burst";r=0;t=3` || w.Header().Get("Retry-After") != "3" || w.Header().Get("Headgate-Degraded") != "local" {
			t.Errorf("refused: %s", dump(w))
		}
	})
}
