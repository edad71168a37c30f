package resp

import (
	"context"
	"net"
	"testing"

	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/server/front/fronttest"
)

// TestContract: every decision of the contract is the same through this door, in either
// version of the protocol.
func TestContract(t *testing.T) {
	for _, version := range []string{"2", "3"} {
		t.Run("RESP"+version, func(t *testing.T) {
			fronttest.Run(t, func(t *testing.T, g *fronttest.Gate) gatetest.Holder {
				s := New(Config{Gate: g, Now: g.Now})
				mine, its := net.Pipe()
				s.welcome(its)
				t.Cleanup(func() {
					mine.Close()
					if err := s.Shutdown(context.Background()); err != nil {
						t.Error(err)
					}
				})
				holder, err := fronttest.OverRESP(g, mine, version)
				if err != nil {
					t.Fatal(err)
				}
				return holder
			})
		})
	}
}
