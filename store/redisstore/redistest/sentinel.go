package redistest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/internal/servertest"
)

// masterName is what the sentinels call the primary.
const masterName = "headgate"

// Trio is a primary with two replicas and three sentinels, which make a replica
// the primary when most of them have missed it for 500 ms.
type Trio struct {
	// Servers lists the three servers, Sentinels the three sentinels.
	Servers, Sentinels []*Server
}

// Sentinel starts a Trio.
func Sentinel(t testing.TB) *Trio {
	t.Helper()
	tr, err := startTrio()
	if err != nil {
		t.Fatalf("start redis with sentinels: %v", err)
	}
	t.Cleanup(func() {
		for _, s := range tr.all() {
			s.end(t)
		}
	})
	return tr
}

func startTrio() (_ *Trio, err error) {
	tr := &Trio{}
	defer func() {
		if err != nil {
			for _, s := range tr.all() {
				s.process.Remove()
			}
		}
	}()
	for i := range 3 {
		var o Options
		if i > 0 {
			o.Config = []string{"replicaof 127.0.0.1 " + tr.Servers[0].portText()}
		}
		s, err := start(o)
		if err != nil {
			return tr, err
		}
		tr.Servers = append(tr.Servers, s)
	}
	if err := servertest.Await("wait for the replicas", func() error { return tr.replicated(tr.Servers[0]) }); err != nil {
		return tr, err
	}
	for range 3 {
		s, err := startSentinel(tr.Servers[0])
		if err != nil {
			return tr, err
		}
		tr.Sentinels = append(tr.Sentinels, s)
	}
	return tr, servertest.Await("wait for the sentinels", tr.complete)
}

// startSentinel starts a sentinel that watches primary.
func startSentinel(primary *Server) (*Server, error) {
	s, err := start(Options{sentinel: []string{
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", masterName, primary.port),
		"sentinel down-after-milliseconds " + masterName + " 500",
		"sentinel failover-timeout " + masterName + " 3000",
		"sentinel parallel-syncs " + masterName + " 2",
	}})
	if err != nil {
		return nil, err
	}
	// Sentinels find each other and put a lost server right within seconds,
	// where 10 are usual.
	if err := s.tryAll([]string{"SENTINEL", "DEBUG", "INFO-PERIOD", "500", "PUBLISH-PERIOD", "200"}); err != nil {
		s.process.Remove()
		return nil, err
	}
	return s, nil
}

// complete returns nil when every sentinel knows the others and the replicas.
func (tr *Trio) complete() error {
	for _, s := range tr.Sentinels {
		m, err := s.describe()
		if err != nil {
			return err
		}
		if m["num-other-sentinels"] != "2" || m["num-slaves"] != "2" || m["flags"] != "master" {
			return fmt.Errorf("the sentinel at %s sees %s other sentinels, %s replicas and a primary that is %s", s.Addr(), m["num-other-sentinels"], m["num-slaves"], m["flags"])
		}
	}
	return nil
}

// describe returns what a sentinel says of the primary.
func (s *Server) describe() (map[string]string, error) {
	reply, err := s.Try("SENTINEL", "MASTER", masterName)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for pair := range slices.Chunk(reply.([]any), 2) {
		m[pair[0].(string)], _ = pair[1].(string)
	}
	return m, nil
}

func (tr *Trio) all() []*Server { return slices.Concat(tr.Sentinels, tr.Servers) }

// URL returns a URL that names all sentinels and the primary's name. Each query
// is a pair such as "prefix=hg:".
func (tr *Trio) URL(query ...string) string {
	var hosts []string
	for _, s := range tr.Sentinels {
		hosts = append(hosts, s.Addr())
	}
	return "redis://" + strings.Join(hosts, ",") + "?" + encode(append(query, "sentinel="+masterName))
}

// Primary returns the server that most sentinels take for the primary.
func (tr *Trio) Primary(t testing.TB) *Server {
	t.Helper()
	p, err := tr.primary()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// primary fails unless all sentinels agree and the server agrees with them.
func (tr *Trio) primary() (*Server, error) {
	var primary *Server
	for _, s := range tr.Sentinels {
		reply, err := s.Try("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName)
		if err != nil {
			return nil, err
		}
		port := reply.([]any)[1].(string)
		i := slices.IndexFunc(tr.Servers, func(s *Server) bool { return s.portText() == port })
		if i < 0 {
			return nil, fmt.Errorf("the sentinel at %s names port %s", s.Addr(), port)
		}
		if primary != nil && primary != tr.Servers[i] {
			return nil, errors.New("the sentinels disagree on the primary")
		}
		primary = tr.Servers[i]
	}
	return primary, primary.isMaster()
}

// isMaster returns nil if the server takes writes.
func (s *Server) isMaster() error {
	reply, err := s.Try("ROLE")
	if err != nil {
		return err
	}
	if role := reply.([]any)[0]; role != "master" {
		return fmt.Errorf("%s is a %v", s.Addr(), role)
	}
	return nil
}

// replicated returns nil when all other servers that run follow primary.
func (tr *Trio) replicated(primary *Server) error {
	for _, s := range tr.Servers {
		if s == primary || s.process.Running() != nil {
			continue
		}
		if err := s.follows(primary); err != nil {
			return err
		}
	}
	return nil
}

// follows returns nil if s is a replica of primary and has its data.
func (s *Server) follows(primary *Server) error {
	reply, err := s.Try("ROLE")
	if err != nil {
		return err
	}
	role := reply.([]any)
	if role[0] != "slave" || role[2] != int64(primary.port) || role[3] != "connected" {
		return fmt.Errorf("the role of %s is %v", s.Addr(), role)
	}
	return nil
}

// Failover makes a replica the primary, as an operator does, and waits until
// everybody knows and the old one follows the new one. What was written before
// it is kept, and what is written meanwhile may be lost.
func (tr *Trio) Failover(t testing.TB) *Server {
	t.Helper()
	old := tr.Primary(t)
	old.Replicate(t, len(tr.Servers)-1)
	tr.Sentinels[0].Do(t, "SENTINEL", "FAILOVER", masterName)
	return tr.promoted(t, old)
}

// KillPrimary ends the primary and waits until a replica has taken its place.
func (tr *Trio) KillPrimary(t testing.TB) *Server {
	t.Helper()
	old := tr.Primary(t)
	old.Kill(t)
	return tr.promoted(t, old)
}

// promoted waits for a primary other than old.
func (tr *Trio) promoted(t testing.TB, old *Server) *Server {
	t.Helper()
	var now *Server
	err := servertest.Await("wait for another primary than "+old.Addr(), func() error {
		var err error
		if now, err = tr.primary(); err != nil {
			return err
		}
		if now == old {
			return errors.New("the primary is the old one")
		}
		return tr.replicated(now)
	})
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// Revive starts a killed server again and waits until it follows the primary.
func (tr *Trio) Revive(t testing.TB, s *Server) {
	t.Helper()
	s.Restart(t)
	err := servertest.Await("wait for "+s.Addr()+" to follow the primary", func() error {
		primary, err := tr.primary()
		if err != nil {
			return err
		}
		return s.follows(primary)
	})
	if err != nil {
		t.Fatal(err)
	}
}
