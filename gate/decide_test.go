package gate_test

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/store/memstore"
)

func TestContract(t *testing.T) {
	gatetest.Run(t, func(t *testing.T, policy string) gatetest.Holder {
		return gatetest.Local(open(t, policy))
	})
}

func TestContractAway(t *testing.T) {
	gatetest.RunAway(t, func(t *testing.T, policy string, wrap func(headgate.Store) headgate.Store) gatetest.Holder {
		memory := func() headgate.Store { return memstore.New(memstore.Config{Origin: origin}) }
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: wrap(memory()), Local: memory()})
		if err != nil {
			t.Fatal(err)
		}
		return gatetest.Local(g)
	})
}

// Nobody can say which of two lines of an identifying header is meant: they name
// nobody, and the next identity is looked for.
func TestHeaderTwiceNamesNobody(t *testing.T) {
	g := open(t, `
version: 1
applications:
  web:
    identity: [{header: x-api-key, known_only: true}, ip]
    limits: [{name: all, rate: 10/min, per: subject}]
subjects: {web/key-1: {}, web/key-2: {}}
`)
	r := gate.Request{Application: "web", Path: "/", IP: netip.MustParseAddr("203.0.113.9"), Now: origin}
	var d gate.Decision
	for _, c := range []struct {
		keys []string
		want string
	}{
		{[]string{"key-2"}, "key-2"},
		{[]string{"key-1", "key-2"}, "203.0.113.9"},
		{[]string{"key-3"}, "203.0.113.9"},
	} {
		r.Headers = http.Header{"X-Api-Key": c.keys}
		if err := g.Take(t.Context(), &r, &d); err != nil || d.Subject != c.want {
			t.Errorf("%q: subject %q, %v; want %q", c.keys, d.Subject, err, c.want)
		}
	}
}
