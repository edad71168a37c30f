package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/headgate/headgate"
)

// Times and sizes of connections.
const (
	// dialTime bounds connecting, with TLS and logging in.
	dialTime = 2 * time.Second
	// pingTime is how often a silent connection is tried, and answerTime how long
	// any answer may take before the connection is given up. Callers do not wait
	// for that: it is so long that a server that only stood still is found to have
	// charged for callers who are gone.
	pingTime   = time.Second
	answerTime = 5 * time.Second
	// buffer is the size of a connection's buffers, in bytes.
	buffer = 64 << 10
	// idleTime is how long connections that only handshakes use are kept.
	idleTime = time.Minute
	// topologyTime is how often sentinels and clusters are asked where the servers
	// are, besides being told.
	topologyTime = time.Second
)

// Open connects to the servers of c.URL and makes sure that they can keep limits.
// It fails with one sentence where they are away, old, replicas, of another kind
// than the URL says, do not let us in or would evict keys. Later failures are
// those of single calls. The error does not show the password.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, c Config) (*Store, error) {
	t, err := parseURL(c.URL)
	if err != nil {
		return nil, err
	}
	t.asked = time.Now()
	s := &Store{
		scheme: newScheme(t.prefix, t.cluster), log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler)), observe: c.Observe,
		lenient: c.Lenient || t.lenient,
	}
	for i := range s.handshakes {
		s.handshakes[i] = make(chan struct{}, shakingsAtOnce)
	}
	s.ground.executor, s.manual = s, c.ManualClockForTest
	if s.manual {
		s.ground.mostCalls = 1
	}
	s.ground.life, s.quit = context.WithCancel(context.WithoutCancel(ctx))
	s.partitions = make([]partition, s.scheme.partitions())
	for i := range s.partitions {
		s.partitions[i].init(&s.ground, i)
	}
	if s.client, err = connect(ctx, t); err != nil {
		s.quit()
		return nil, err
	}
	if err := s.check(ctx, t); err != nil {
		_ = s.Close() // never fails
		return nil, err
	}
	if s.lenient {
		s.log.Warn("redis: strict=false: after a failover or restart limits go on with what the server has kept, which may lack charges", "store", t.String())
	}
	return s, nil
}

// options returns the client's settings.
func (t *target) clientOption() rueidis.ClientOption {
	o := rueidis.ClientOption{
		InitAddress: slices.Clone(t.addrs), Username: t.user, Password: t.password, SelectDB: t.db, TLSConfig: t.tls,
		ClientName: "headgate", ClientSetInfo: rueidis.DisableClientSetInfo,
		ForceSingleClient: !t.cluster && t.sentinel == "", ShuffleInit: true,
		DisableCache: true,
		// A take that is sent again may be charged twice; what can be tried again we
		// know better.
		DisableRetry: true,
		// A connection that the server has closed is noticed before it is used.
		AlwaysPipelining:   true,
		ReadBufferEachConn: buffer, WriteBufferEachConn: buffer, RingScaleEachConn: 8,
		PipelineMultiplex:   -1, // one connection to a server: flights are few
		BlockingPoolCleanup: idleTime,
		ConnWriteTimeout:    answerTime,
	}
	o.Dialer.Timeout, o.Dialer.KeepAlive = dialTime, pingTime
	o.ClusterOption.ShardsRefreshInterval, o.ClusterOption.MaxMovedRedirections = topologyTime, 4
	if t.sentinel != "" {
		o.Sentinel = rueidis.SentinelOption{
			Dialer: o.Dialer, TLSConfig: t.tls, MasterSet: t.sentinel, Username: t.sentinelUser, Password: t.sentinelPassword,
			ClientName: o.ClientName, TopologyRefreshInterval: topologyTime,
		}
	}
	return o
}

// connect returns a client of the servers, which are of the kind that t says.
func connect(ctx context.Context, t *target) (rueidis.Client, error) {
	if t.cluster {
		if err := checkCluster(ctx, t); err != nil {
			return nil, err
		}
	}
	c, err := rueidis.NewClient(t.clientOption())
	if err != nil {
		if c != nil {
			c.Close()
		}
		return nil, explain(t, err)
	}
	return c, nil
}

// checkCluster makes sure that the first of the addresses that answers is of a
// cluster: the client would take a single server as well.
func checkCluster(ctx context.Context, t *target) error {
	var first error
	for _, addr := range t.addrs {
		alone := *t
		alone.addrs, alone.cluster = []string{addr}, false
		c, err := rueidis.NewClient(alone.clientOption())
		if err == nil {
			var s server
			if s, err = ask(ctx, c); err == nil {
				c.Close()
				return s.checkKind(addr, true)
			}
		}
		if c != nil {
			c.Close()
		}
		if first == nil {
			first = explain(&alone, err)
		}
	}
	return first
}

// check makes sure that the servers can keep limits, and that the user may do
// what that takes.
func (s *Store) check(ctx context.Context, t *target) error {
	primaries := 0
	for addr, node := range s.client.Nodes() {
		info, err := ask(ctx, node)
		if err != nil {
			if t.cluster {
				continue // one of several may be away
			}
			return explain(t, err)
		}
		if err := info.checkKind(addr, t.cluster); err != nil {
			return err
		}
		if t.cluster && info["role"] != "master" {
			continue
		}
		warning, err := info.check(addr, t.evicting)
		if err != nil {
			return err
		}
		if warning != "" {
			s.log.Warn("redis: " + warning)
		}
		primaries++
	}
	if primaries == 0 {
		return fmt.Errorf("no primary of the %s answers", t)
	}
	return s.try(ctx, t)
}

// tryLimit is what is decided at first: its state is gone after a second.
var tryLimit = func() *headgate.Prepared {
	l, err := headgate.PerSecond(1).WithScope("\x00redisstore").WithName("open").Prepare()
	if err != nil {
		panic(err) // the numbers are right
	}
	return l
}()

// try decides something, to see that it can be done.
func (s *Store) try(ctx context.Context, t *target) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	b := new(headgate.Batch)
	b.Reset(headgate.Take)
	if _, err := b.Add(headgate.Charge{Limit: tryLimit, Owner: "open", Cost: 1}); err != nil {
		return err
	}
	err := s.apply(ctx, b)
	if err == nil {
		return nil
	}
	if diagnose(err).kind == kindMemory {
		s.log.Warn("redis: the server has no room for another key: requests of new subjects are refused", "store", t.String(), "error", err)
		return nil
	}
	return explain(t, err)
}
