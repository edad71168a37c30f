package redisstore

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
	"github.com/headgate/headgate/store/storetest"
)

var (
	_ headgate.Authority = (*Store)(nil)
	_ headgate.Census    = (*Store)(nil)
)

var clusterOps = flag.Int("cluster.ops", 2_000, "batches that TestClusterDifferential decides")

// openStore opens a store and closes it at the end of the test.
func openStore(t testing.TB, c Config) *Store {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func prefixed() string { return "prefix=" + redistest.Prefix() }

func prepare(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// take takes once, and returns the batch.
func take(t testing.TB, s headgate.Store, charges ...headgate.Charge) (*headgate.Batch, error) {
	t.Helper()
	b := batchOf(t, headgate.Take, charges...)
	return b, s.Apply(t.Context(), b)
}

func batchOf(t testing.TB, op headgate.Op, charges ...headgate.Charge) *headgate.Batch {
	t.Helper()
	b := new(headgate.Batch)
	b.Reset(op)
	for _, c := range charges {
		if _, err := b.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// servers are what the suite runs on.
var servers = []struct {
	name  string
	apart bool
	url   func(t *testing.T) func(query ...string) string
}{
	{"standalone", false, func(t *testing.T) func(...string) string { return redistest.Shared(t).URL }},
	{"cluster", true, func(t *testing.T) func(...string) string { return redistest.SharedCluster(t).URL }},
}

func TestStore(t *testing.T) {
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			url := server.url(t)
			for _, manual := range []bool{false, true} {
				name := "server clock"
				if manual {
					name = "manual clock"
				}
				t.Run(name, func(t *testing.T) {
					storetest.Run(t, func(t *testing.T) headgate.Store {
						return openStore(t, Config{URL: url(prefixed()), ManualClockForTest: manual})
					}, storetest.Capabilities{ManualClock: manual, Apart: server.apart})
				})
			}
		})
	}
}

// A batch without charges is decided without asking anybody.
func TestEmptyBatch(t *testing.T) {
	s := openStore(t, Config{URL: redistest.Shared(t).URL(prefixed())})
	before := s.Stats().Calls
	b := batchOf(t, headgate.Take)
	if err := s.Apply(context.Background(), b); err != nil || !b.Allowed || b.At == 0 {
		t.Errorf("%v, allowed %v at %d", err, b.Allowed, b.At)
	}
	if n := s.Stats().Calls; n != before {
		t.Errorf("%d calls", n-before)
	}
}

// In a cluster a sequence of batches is decided exactly as anywhere else, however
// their charges are spread.
func TestClusterDifferential(t *testing.T) {
	url := redistest.SharedCluster(t).URL
	storetest.Differential(t, func(t *testing.T) headgate.Store {
		return openStore(t, Config{URL: url(prefixed()), ManualClockForTest: true})
	}, storetest.Capabilities{ManualClock: true, Apart: true}, *clusterOps, *scriptSeed)
}

func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
