package lintest

import (
	"flag"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/store/pgstore"
	"github.com/headgate/headgate/store/pgstore/pgtest"
)

var onPostgres = flag.Int("lin.postgres", 2, "how many histories each linearizability test on PostgreSQL makes: one takes seconds")

// connectPostgres opens a store for each node; the test closes them.
func connectPostgres(t *testing.T, urls ...string) (all []headgate.Store) {
	t.Helper()
	for _, u := range urls {
		s, err := pgstore.Open(t.Context(), pgstore.Config{URL: u})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// leased has the nodes of a subject lease from what they were.
func (ls *leases) leased(s *Subject) {
	var own leases
	for i, n := range s.Nodes {
		l := lease.New(n.(headgate.Authority), lease.Config{Hot: 1, Horizon: 2 * time.Millisecond})
		own = append(own, l)
		s.Nodes[i] = l
	}
	*ls = append(*ls, own...)
	s.Lost = func() (lost int64) {
		for _, l := range own {
			st := l.Stats()
			lost += st.Dropped + st.Late + st.Outstanding
		}
		return lost
	}
}

func TestLinearizablePostgres(t *testing.T) {
	server := pgtest.Shared(t)
	calm := Config{Histories: *onPostgres, Seed: *firstSeed}
	faulty := calm
	// A commit and connecting again take longer than with Redis.
	faulty.Patience, faulty.Phase = 150*time.Millisecond, 120
	for _, tt := range []struct {
		name           string
		leased, faults bool
	}{
		{"decided by the store", false, false},
		{"decided by the store, with faults", false, true},
		{"leases", true, false},
		{"leases with faults", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := server.Schema(t)
			// The nodes create nothing while something is between.
			last := connectPostgres(t, u)[0]
			t.Cleanup(func() { _ = last.Close() })
			c, urls := calm, repeat(u)
			var net *network
			if tt.faults {
				c = faulty
				net = newNetwork(t, server.Addr())
				urls = net.urls(server.Addr(), u)
			}
			c.Leased = tt.leased
			var ls leases
			sum := Run(t, c, func(t *testing.T) *Subject {
				s := &Subject{Nodes: connectPostgres(t, urls...), Truth: last}
				if tt.leased {
					ls.leased(s)
				}
				if tt.faults {
					s.Disturb, s.Lost = net.disturb, nil
				}
				return s
			})
			if tt.leased {
				ls.check(t, sum)
			}
			// Leases learn of most grants whose answers were lost, and give them back.
			if tt.faults && (sum.Unknown == 0 || sum.Spent == 0 && !tt.leased) {
				t.Errorf("%v: the faults did nothing", sum)
			}
		})
	}
}
