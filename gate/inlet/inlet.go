// Package inlet is what middleware around servers has in common that lets a gate decide,
// such as packages httpgate and grpcgate: whom it asks, whose word it takes for a client's
// address, whose fault it is that nothing was decided, what clients are told of their
// limits, and the slots that a request holds for as long as its handler runs.
package inlet

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/clientip"
)

// Engine decides: a [gate.Gate] in this process, or a Client of package client, which
// asks a server. One that has the method TrustedProxies of a gate is asked for the
// proxies of its policy.
type Engine interface {
	// Take decides a request; see [gate.Gate.Take].
	Take(ctx context.Context, r *gate.Request, d *gate.Decision) error
	// Renew and Release are for slots of concurrency limits; see [gate.Gate.Renew].
	Renew(ctx context.Context, c *gate.Claim, d *gate.Decision) error
	Release(ctx context.Context, c *gate.Claim, d *gate.Decision) error
}

// DefaultWaitCap is how long a request waits at most, whatever its rule says.
const DefaultWaitCap = 10 * time.Second

// WaitCap returns the WaitCap of requests for what a Config says: 0 is DefaultWaitCap, -1
// no bound but the rule's.
func WaitCap(said time.Duration) (time.Duration, error) {
	switch {
	case said == 0:
		return DefaultWaitCap, nil
	case said == -1:
		return 0, nil
	case said < 0:
		return 0, fmt.Errorf("wait cap %v: must be positive, 0 for %v or -1 for no bound", said, DefaultWaitCap)
	}
	return said, nil
}

// Proxies are those that are believed when they name a client.
type Proxies struct {
	application string
	said        []netip.Prefix
	policy      proxied // nil where said says it
}

// proxied is an engine that knows the proxies of its policy.
type proxied interface {
	TrustedProxies(application string) ([]netip.Prefix, bool)
}

// NewProxies returns the proxies that are said. nil means those of the application where
// the engine knows them, else 127.0.0.0/8 and ::1; an empty slice is nobody. IPv4 networks
// may be mapped to IPv6, such as ::ffff:10.0.0.0/104. The error says that one is no prefix,
// or that it is mapped and shorter than 96 bits.
func NewProxies(e Engine, application string, said []netip.Prefix) (Proxies, error) {
	plain, err := clientip.Trusted(said)
	if err != nil {
		return Proxies{}, err
	}
	p := Proxies{application: application, said: plain}
	if said == nil {
		if p.policy, _ = e.(proxied); p.policy == nil {
			p.said = clientip.Loopback()
		}
	}
	return p, nil
}

// Find sets the address and strangeness of a request of which peer, the other end of the
// connection, has sent the Headers. The error is a *headgate.Error with code NotFound if
// the policy does not have the application, or with InvalidRequest for what a proxy sent
// and is no address.
func (p *Proxies) Find(q *gate.Request, peer netip.Addr) (err error) {
	trusted := p.said
	if p.policy != nil {
		var ok bool
		if trusted, ok = p.policy.TrustedProxies(p.application); !ok {
			return &headgate.Error{Code: headgate.NotFound, Field: "application", Err: fmt.Errorf("%.64q is not in the policy", p.application)}
		}
	}
	if q.IP, err = clientip.Find(peer, q.Headers, trusted); err != nil {
		return &headgate.Error{Code: headgate.InvalidRequest, Field: "request.ip", Err: err}
	}
	q.Stranger = !clientip.Within(peer, trusted)
	return nil
}
