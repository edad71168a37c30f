package lintest

import (
	"context"
	"flag"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/store/redisstore"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

var (
	histories = flag.Int("lin.histories", 10, "how many histories each linearizability test makes")
	firstSeed = flag.Uint64("lin.seed", uint64(time.Now().UnixNano())&0xffffff, "the seed of the first one")
)

const nodes = 3

// connect opens a store for each node; the test closes them.
func connect(t *testing.T, urls ...string) (all []*redisstore.Store) {
	t.Helper()
	for _, u := range urls {
		s, err := redisstore.Open(t.Context(), redisstore.Config{URL: u})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// direct returns a subject whose nodes are redisstores.
func direct(stores []*redisstore.Store) *Subject {
	s := new(Subject)
	for _, r := range stores {
		s.Nodes = append(s.Nodes, r)
	}
	return s
}

// leases are all lease stores of a test.
type leases []*lease.Store

// subject returns one whose nodes lease from redisstores.
func (ls *leases) subject(stores []*redisstore.Store) *Subject {
	s := new(Subject)
	var own leases
	for _, r := range stores {
		l := lease.New(r, lease.Config{Hot: 1, Horizon: 2 * time.Millisecond})
		own = append(own, l)
		s.Nodes = append(s.Nodes, l)
	}
	*ls = append(*ls, own...)
	s.Lost = func() (lost int64) {
		for _, l := range own {
			st := l.Stats()
			lost += st.Dropped + st.Late + st.Outstanding
		}
		return lost
	}
	return s
}

// check fails t unless leases decided much of what was allowed.
func (ls *leases) check(t *testing.T, sum Tally) {
	t.Helper()
	var local, lost int64
	for _, l := range *ls {
		st := l.Stats()
		local += st.Local
		lost += st.Dropped + st.Late
	}
	t.Logf("%d of %d allowed by leases, which lost %d tokens", local, sum.Allowed, lost)
	if local < int64(sum.Allowed)/10 {
		t.Error("leases decided little")
	}
}

// network is a proxy for each node.
type network struct {
	proxies []*Proxy
	begun   atomic.Int64 // disturbances so far
}

func newNetwork(t *testing.T, addr string) *network {
	n := new(network)
	for range nodes {
		n.proxies = append(n.proxies, NewProxy(t, addr))
	}
	return n
}

// urls returns the URL with the proxies' addresses in place of the server's.
func (n *network) urls(addr, url string) (all []string) {
	for _, p := range n.proxies {
		all = append(all, strings.Replace(url, addr, p.Addr(), 1))
	}
	return all
}

// deafEvery is how often all nodes lose their answers at once: a disturbance of
// some ends before the patience of its callers if the others go on.
const deafEvery = 8

// disturb begins a fault on the way of some nodes, or ends all.
func (n *network) disturb(rng *rand.Rand, on bool) error {
	if on && n.begun.Add(1)%deafEvery == 1 {
		for _, p := range n.proxies {
			if err := p.LoseAnswers(); err != nil {
				return err
			}
		}
		return nil
	}
	for _, p := range n.proxies {
		if on && rng.IntN(3) == 0 {
			continue
		}
		if err := p.Disturb(rng, on); err != nil {
			return err
		}
	}
	return nil
}

func repeat(s string) (all []string) {
	for range nodes {
		all = append(all, s)
	}
	return all
}

// truth opens a store that the end of the test closes.
func truth(t *testing.T, url string) headgate.Store {
	s := connect(t, url)[0]
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestLinearizable(t *testing.T) {
	server := redistest.Shared(t)
	calm := Config{Histories: *histories, Seed: *firstSeed}
	faulty := calm
	faulty.Patience = 25 * time.Millisecond
	url := func() string { return server.URL("prefix=" + redistest.Prefix()) }
	t.Run("redis", func(t *testing.T) {
		u := url()
		last := truth(t, u)
		Run(t, calm, func(t *testing.T) *Subject {
			s := direct(connect(t, repeat(u)...))
			s.Truth = last
			return s
		})
	})
	t.Run("redis with faults", func(t *testing.T) {
		u, net := url(), newNetwork(t, server.Addr())
		last := truth(t, u)
		sum := Run(t, faulty, func(t *testing.T) *Subject {
			s := direct(connect(t, net.urls(server.Addr(), u)...))
			s.Truth, s.Disturb = last, net.disturb
			return s
		})
		if sum.Unknown == 0 || sum.Spent == 0 {
			t.Errorf("%v: the faults did nothing", sum)
		}
	})
	t.Run("cluster", func(t *testing.T) {
		// A batch across partitions is decided one partition after the other.
		one := calm
		one.Single = true
		u := redistest.SharedCluster(t).URL("prefix=" + redistest.Prefix())
		last := truth(t, u)
		Run(t, one, func(t *testing.T) *Subject {
			s := direct(connect(t, repeat(u)...))
			s.Truth = last
			return s
		})
	})
	t.Run("leases", func(t *testing.T) {
		leased := calm
		leased.Leased = true
		u := url()
		last := truth(t, u)
		var ls leases
		sum := Run(t, leased, func(t *testing.T) *Subject {
			s := ls.subject(connect(t, repeat(u)...))
			s.Truth = last
			return s
		})
		ls.check(t, sum)
	})
	t.Run("leases with faults", func(t *testing.T) {
		leased := faulty
		leased.Leased = true
		u, net := url(), newNetwork(t, server.Addr())
		last := truth(t, u)
		var ls leases
		sum := Run(t, leased, func(t *testing.T) *Subject {
			s := ls.subject(connect(t, net.urls(server.Addr(), u)...))
			s.Truth, s.Disturb, s.Lost = last, net.disturb, nil
			return s
		})
		ls.check(t, sum)
		// They learn of most grants whose answers were lost, and give them back.
		if sum.Unknown == 0 {
			t.Errorf("%v: the faults did nothing", sum)
		}
	})
}

// A store that sends an unknown take again is caught: both may be charged.
func TestRetriesAreCaught(t *testing.T) {
	server := redistest.Shared(t)
	u, net := server.URL("prefix="+redistest.Prefix()), newNetwork(t, server.Addr())
	c := Config{Patience: 25 * time.Millisecond}.withDefaults()
	for seed := range uint64(10) {
		_, err := once(t, &c, seed, func(t *testing.T) *Subject {
			s := direct(connect(t, net.urls(server.Addr(), u)...))
			for i, n := range s.Nodes {
				s.Nodes[i] = wrapper{n, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
					err := s.Apply(ctx, b)
					for try := 0; err != nil && try < 5; try++ {
						err = s.Apply(context.WithoutCancel(ctx), b)
					}
					return err
				}}
			}
			s.Disturb = net.disturb
			return s
		})
		if err != nil {
			t.Log(err)
			return
		}
	}
	t.Error("10 histories passed")
}
