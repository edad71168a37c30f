package lintest

import (
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/store/dynamostore"
	"github.com/headgate/headgate/store/dynamostore/dynamotest"
)

// connectDynamo opens a store for each URL; whoever asks closes them. Each compares
// clocks first, so all do at once.
func connectDynamo(t *testing.T, urls ...string) []*dynamostore.Store {
	t.Helper()
	all, errs := make([]*dynamostore.Store, len(urls)), make([]error, len(urls))
	var wait sync.WaitGroup
	for i, u := range urls {
		wait.Go(func() { all[i], errs[i] = dynamostore.Open(t.Context(), dynamostore.Config{URL: u}) })
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestLinearizableDynamo(t *testing.T) {
	server := dynamotest.Shared(t)
	// A batch of several owners is decided one owner after the other.
	calm := Config{Histories: max(1, *histories/3), Operations: 800, Seed: *firstSeed, Single: true}
	last := func(t *testing.T, table string) headgate.Store {
		s := connectDynamo(t, server.URL(table))[0]
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	t.Run("calm", func(t *testing.T) {
		table := dynamotest.Table()
		truth := last(t, table)
		Run(t, calm, func(t *testing.T) *Subject {
			s := &Subject{Truth: truth}
			for _, d := range connectDynamo(t, repeat(server.URL(table))...) {
				s.Nodes = append(s.Nodes, d)
			}
			return s
		})
	})
	t.Run("faults", func(t *testing.T) {
		faulty := calm
		faulty.Patience = 250 * time.Millisecond // a busy machine needs more than half of that without faults
		table, net := dynamotest.Table(), newNetwork(t, server.Addr())
		truth := last(t, table)
		var urls []string
		for _, p := range net.proxies {
			urls = append(urls, server.URL(table, "endpoint=http://"+p.Addr()))
		}
		sum := Run(t, faulty, func(t *testing.T) *Subject {
			s := &Subject{Truth: truth, Disturb: net.disturb}
			for _, d := range connectDynamo(t, urls...) {
				s.Nodes = append(s.Nodes, d)
			}
			return s
		})
		if sum.Unknown == 0 || sum.Spent == 0 {
			t.Errorf("%v: the faults did nothing", sum)
		}
	})
	t.Run("leases", func(t *testing.T) {
		leased := calm
		leased.Leased, leased.Single = true, false
		table := dynamotest.Table()
		truth := last(t, table)
		var ls leases
		sum := Run(t, leased, func(t *testing.T) *Subject {
			s := &Subject{Truth: truth}
			var own leases
			for _, d := range connectDynamo(t, repeat(server.URL(table))...) {
				l := lease.New(d, lease.Config{Hot: 1, Horizon: 20 * time.Millisecond})
				own = append(own, l)
				s.Nodes = append(s.Nodes, l)
			}
			ls = append(ls, own...)
			s.Lost = func() (lost int64) {
				for _, l := range own {
					st := l.Stats()
					lost += st.Dropped + st.Late + st.Outstanding
				}
				return lost
			}
			return s
		})
		ls.check(t, sum)
	})
}
