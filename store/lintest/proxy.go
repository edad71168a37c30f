package lintest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Proxy is a TCP proxy in this process that can be told to misbehave.
type Proxy struct {
	proxy *toxiproxy.Proxy

	mu   sync.Mutex
	deck []int // of the faults, those that are still to come before one comes again
}

// NewProxy starts a proxy in front of the server at addr, which ends with the
// test.
func NewProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, "store", "127.0.0.1:0", addr)
	if err := p.Start(); err != nil {
		t.Fatalf("start a proxy for %s: %v", addr, err)
	}
	t.Cleanup(p.Stop)
	return &Proxy{proxy: p}
}

// Addr returns the host and port at which the proxy listens.
func (p *Proxy) Addr() string { return p.proxy.Listen }

// faults lists what Disturb puts between, by the names and attributes of
// toxiproxy. A timeout of 0 is a black hole until it is taken away, when its
// connections end.
var faults = []string{
	// Requests and answers that come late, some of them too late.
	`{"type": "latency", "stream": "upstream", "attributes": {"latency": 5, "jitter": 5}}`,
	`{"type": "latency", "stream": "upstream", "attributes": {"latency": 30, "jitter": 30}}`,
	`{"type": "latency", "stream": "downstream", "attributes": {"latency": 30, "jitter": 30}}`,
	// Requests that are lost, and answers of what is done.
	`{"type": "timeout", "stream": "upstream", "attributes": {"timeout": 0}}`,
	answersLost,
	// Connections that are reset, by request or by answer.
	`{"type": "reset_peer", "stream": "upstream", "attributes": {"timeout": 0}}`,
	`{"type": "reset_peer", "stream": "downstream", "attributes": {"timeout": 0}}`,
	// Answers in pieces of a few bytes.
	`{"type": "slicer", "stream": "downstream", "attributes": {"average_size": 8, "size_variation": 4, "delay": 50}}`,
}

// answersLost is the fault by which something is done and nobody learns of it.
const answersLost = `{"type": "timeout", "stream": "downstream", "attributes": {"timeout": 0}}`

// LoseAnswers lets requests through and no answers, until Disturb ends it.
func (p *Proxy) LoseAnswers() error {
	p.proxy.Toxics.ResetToxics(context.Background())
	_, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(answersLost))
	return err
}

// Disturb begins one of the faults, which come in random order, or ends it. One of
// them is that nobody listens.
func (p *Proxy) Disturb(rng *rand.Rand, on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proxy.Toxics.ResetToxics(context.Background())
	if on {
		if len(p.deck) == 0 {
			p.deck = rng.Perm(len(faults) + 1)
		}
		n := p.deck[0]
		if p.deck = p.deck[1:]; n == len(faults) {
			p.proxy.Stop()
			return nil
		}
		_, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(faults[n]))
		return err
	}
	if err := p.proxy.Start(); !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return err
	}
	return nil
}
