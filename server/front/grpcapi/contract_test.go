package grpcapi

import (
	"net"
	"strings"
	"testing"
	"time"

	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/server/front/fronttest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// listen serves a door on a port of its own, and returns its address.
func listen(tb testing.TB, s *grpc.Server) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	go s.Serve(l)
	tb.Cleanup(s.Stop)
	return l.Addr().String()
}

// dial returns a connection to an address.
func dial(tb testing.TB, target string, options ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

func newClient(tb testing.TB, target string, o client.Options) *client.Client {
	tb.Helper()
	c, err := client.New(target, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// TestContract: every decision of the contract is the same through this door, for those
// who write messages and for package client.
func TestContract(t *testing.T) {
	t.Run("messages", func(t *testing.T) {
		fronttest.Run(t, func(t *testing.T, g *fronttest.Gate) gatetest.Holder {
			return fronttest.OverMessages(g, dial(t, listen(t, New(Config{Gate: g}))))
		})
	})
	t.Run("client", func(t *testing.T) {
		fronttest.Run(t, func(t *testing.T, g *fronttest.Gate) gatetest.Holder {
			return fronttest.OverClient(g, newClient(t, listen(t, New(Config{Gate: g})), client.Options{Timeout: 10 * time.Second}))
		})
	})
}

// reason is the name of a reason in the JSON API, taken from that of the number here.
func reason(r headgatev1.Reason) string {
	if r == headgatev1.Reason_REASON_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(r.String(), "REASON_"))
}
