package fronttest_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/envoyrls"
	"github.com/headgate/headgate/server/front/fronttest"
	"github.com/headgate/headgate/server/front/grpcapi"
	"github.com/headgate/headgate/server/front/httpapi"
	"github.com/headgate/headgate/server/front/resp"
)

var (
	seeds = flag.Int("front.seeds", 20, "policies to put to the doors, each with its requests")
	first = flag.Uint64("front.seed", 1, "the first of them")
)

// stepsOfSeed is how much is asked of each policy.
const stepsOfSeed = 40

// doors open a door with a gate of its own.
var doors = []struct {
	name string
	open func(t testing.TB, policy string) fronttest.Door
}{
	{"http", overHTTP},
	{"messages", func(t testing.TB, policy string) fronttest.Door {
		g := fronttest.Open(t, policy)
		conn := serve(t, grpcapi.New(grpcapi.Config{Gate: g}))
		return through(g, func(d *fronttest.Door) {
			way := fronttest.OverMessages(g, conn)
			d.Holder, d.More, d.Reads, d.Descriptors, d.Grain = way, way, true, true, time.Microsecond
		})
	}},
	{"client", func(t testing.TB, policy string) fronttest.Door {
		g := fronttest.Open(t, policy)
		c, err := client.New(listen(t, grpcapi.New(grpcapi.Config{Gate: g})), client.Options{Timeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return through(g, func(d *fronttest.Door) {
			way := fronttest.OverClient(g, c)
			d.Holder, d.More, d.Reads, d.Descriptors, d.Grain = way, way, true, true, time.Microsecond
		})
	}},
	{"resp2", func(t testing.TB, policy string) fronttest.Door { return overRESP(t, policy, "2") }},
	{"resp3", func(t testing.TB, policy string) fronttest.Door { return overRESP(t, policy, "3") }},
	{"envoy", func(t testing.TB, policy string) fronttest.Door {
		g := fronttest.Open(t, policy)
		s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(front.With(ctx, operator{}), in)
		}))
		envoyrls.New(envoyrls.Config{Gate: g}).Register(s)
		conn := serve(t, s)
		return through(g, func(d *fronttest.Door) { d.Envoy = fronttest.OverEnvoy(g, conn) })
	}},
}

// through is a door to g that changes some of the ways.
func through(g *fronttest.Gate, change func(*fronttest.Door)) fronttest.Door {
	d := fronttest.Local(g)
	change(&d)
	return d
}

func overHTTP(t testing.TB, policy string) fronttest.Door {
	g := fronttest.Open(t, policy)
	return through(g, func(d *fronttest.Door) {
		way := fronttest.OverHTTP(g, httpapi.New(httpapi.Config{Gate: g}))
		d.Holder, d.More, d.Reads, d.Grain = way, way, true, time.Millisecond
	})
}

func overRESP(t testing.TB, policy, version string) fronttest.Door {
	g := fronttest.Open(t, policy)
	s := resp.New(resp.Config{Gate: g, Now: g.Now, Admit: func(string) front.Caller { return operator{} }})
	l := local(t)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != resp.ErrClosed {
			t.Error(err)
		}
	})
	way, err := fronttest.OverRESP(g, conn, version)
	if err != nil {
		t.Fatal(err)
	}
	return through(g, func(d *fronttest.Door) { d.Holder, d.More, d.Reads, d.Grain = way, way, true, time.Millisecond })
}

// patience ends tests that would hang.
const patience = 30 * time.Second

// operator may do everything.
type operator struct{ front.Anybody }

func (operator) Operates() bool { return true }

func local(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listen serves s, and returns its address.
func listen(t testing.TB, s *grpc.Server) string {
	l := local(t)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// serve serves s, and returns a connection to it.
func serve(t testing.TB, s *grpc.Server) *grpc.ClientConn {
	conn, err := grpc.NewClient(listen(t, s), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestDoorsAgree: the same requests by the same policy get the same answers through every
// door.
func TestDoorsAgree(t *testing.T) {
	var tally fronttest.Tally
	for seed := *first; seed < *first+uint64(*seeds); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := fronttest.NewCase(seed, stepsOfSeed)
			want := c.Play(t.Context(), fronttest.Local(fronttest.Open(t, c.Policy)))
			tally.Add(want)
			for _, d := range doors {
				open := func(policy string) fronttest.Door { return d.open(t, policy) }
				if diff := c.Compare(t.Context(), want, open(c.Policy)); diff != nil {
					t.Errorf("%s, again with -run TestDoorsAgree -front.seed=%d -front.seeds=1: %v", d.name, seed, diff.Shrink(t, open))
				}
			}
		})
	}
	t.Logf("seeds %d to %d: %v", *first, *first+uint64(*seeds)-1, &tally)
}
