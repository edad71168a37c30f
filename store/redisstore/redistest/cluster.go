package redistest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/headgate/headgate/internal/servertest"
)

// slots is how many slots a cluster has.
const slots = 16384

const masters = 3

// Ring is a cluster of three masters, each with a third of the slots. A master
// is taken for dead when most of the others have missed it for a second.
type Ring struct {
	// Masters lists the masters: the first has the lowest third of the slots.
	// Replicas lists those of each. A promoted replica takes its master's place
	// in Masters.
	Masters  [masters]*Server
	Replicas [masters][]*Server

	all []*Server
}

// Cluster starts a Ring with so many replicas of each master.
func Cluster(t testing.TB, replicas int) *Ring {
	t.Helper()
	r, err := startRing(replicas)
	if err != nil {
		t.Fatalf("start a redis cluster: %v", err)
	}
	t.Cleanup(func() {
		for _, s := range r.all {
			s.end(t)
		}
	})
	return r
}

var sharedRing = sync.OnceValues(func() (*Ring, error) { return startRing(0) })

// SharedCluster returns the process's cluster without replicas, which it starts
// where it is the first to ask. Tests that kill its servers or move its slots
// start one of their own.
func SharedCluster(t testing.TB) *Ring {
	t.Helper()
	r, err := sharedRing()
	if err != nil {
		t.Fatalf("start a redis cluster: %v", err)
	}
	return r
}

func startRing(replicas int) (_ *Ring, err error) {
	r := &Ring{}
	defer func() {
		if err != nil {
			for _, s := range r.all {
				s.process.Remove()
			}
		}
	}()
	for range masters * (1 + replicas) {
		s, err := start(Options{cluster: true})
		if err != nil {
			return r, err
		}
		r.all = append(r.all, s)
	}
	copy(r.Masters[:], r.all)
	// Slots and epochs of their own before they meet: nothing to agree on.
	for i, s := range r.Masters {
		first, last := i*slots/masters, (i+1)*slots/masters-1
		if err := s.tryAll(
			[]string{"CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last)},
			[]string{"CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i + 1)},
		); err != nil {
			return r, err
		}
	}
	for _, s := range r.all[1:] {
		if err := r.all[0].tryAll([]string{"CLUSTER", "MEET", "127.0.0.1", s.portText(), strconv.Itoa(s.bus)}); err != nil {
			return r, err
		}
	}
	if err := servertest.Await("wait for the cluster", r.joined); err != nil {
		return r, err
	}
	for i, s := range r.all[masters:] {
		m := i % masters
		id, err := r.Masters[m].id()
		if err != nil {
			return r, err
		}
		if err := s.tryAll([]string{"CLUSTER", "REPLICATE", id}); err != nil {
			return r, err
		}
		r.Replicas[m] = append(r.Replicas[m], s)
	}
	return r, servertest.Await("wait for the replicas", r.settled)
}

// tryAll sends commands one after the other.
func (s *Server) tryAll(commands ...[]string) error {
	for _, c := range commands {
		if _, err := s.Try(c...); err != nil {
			return fmt.Errorf("%s at %s: %w", strings.Join(c, " "), s.Addr(), err)
		}
	}
	return nil
}

// id returns the node's name.
func (s *Server) id() (string, error) {
	reply, err := s.Try("CLUSTER", "MYID")
	if err != nil {
		return "", err
	}
	return reply.(string), nil
}

// running lists the nodes that have not been killed.
func (r *Ring) running() []*Server {
	return slices.DeleteFunc(slices.Clone(r.all), func(s *Server) bool { return s.process.Running() != nil })
}

// joined returns nil when all nodes know each other and every slot.
func (r *Ring) joined() error {
	for _, s := range r.running() {
		reply, err := s.Try("CLUSTER", "INFO")
		if err != nil {
			return err
		}
		info := reply.(string)
		state, known := infoField(info, "cluster_state"), infoField(info, "cluster_known_nodes")
		if state != "ok" || known != strconv.Itoa(len(r.all)) {
			return fmt.Errorf("%s: state %s, %s nodes are known", s.Addr(), state, known)
		}
	}
	return nil
}

// settled returns nil when all nodes that run agree that Masters are the
// masters, have all slots and have the replicas that run, which follow them.
func (r *Ring) settled() error {
	if err := r.joined(); err != nil {
		return err
	}
	for _, s := range r.running() {
		reply, err := s.Try("CLUSTER", "SLOTS")
		if err != nil {
			return err
		}
		for _, each := range reply.([]any) {
			// First slot, last slot, the master and its replicas.
			var ports []int64
			for _, node := range each.([]any)[2:] {
				ports = append(ports, node.([]any)[1].(int64))
			}
			if !slices.ContainsFunc(r.groups(), func(g []int64) bool { return g[0] == ports[0] && len(g) == len(ports) }) {
				return fmt.Errorf("%s: the nodes at ports %d share slots", s.Addr(), ports)
			}
		}
	}
	for i, m := range r.Masters {
		if m.process.Running() != nil {
			return fmt.Errorf("%s does not run", m.Addr())
		}
		if err := m.isMaster(); err != nil {
			return err
		}
		for _, s := range r.Replicas[i] {
			if s.process.Running() != nil {
				continue
			}
			if err := s.follows(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// groups lists the ports of each master and of its replicas that run.
func (r *Ring) groups() [][]int64 {
	var all [][]int64
	for i, m := range r.Masters {
		g := []int64{int64(m.port)}
		for _, s := range r.Replicas[i] {
			if s.process.Running() == nil {
				g = append(g, int64(s.port))
			}
		}
		all = append(all, g)
	}
	return all
}

// URL returns a URL that names the three masters. Each query is a pair such as
// "prefix=hg:".
func (r *Ring) URL(query ...string) string {
	var hosts []string
	for _, s := range r.Masters {
		hosts = append(hosts, s.Addr())
	}
	return "redis://" + strings.Join(hosts, ",") + "?" + encode(append(query, "cluster=true"))
}

// FlushAll empties all masters.
func (r *Ring) FlushAll(t testing.TB) {
	t.Helper()
	for _, s := range r.Masters {
		s.FlushAll(t)
	}
}

// Owner returns the index of the master that says that the slot is its own.
func (r *Ring) Owner(t testing.TB, slot int) int {
	t.Helper()
	for i, s := range r.Masters {
		for _, each := range s.Do(t, "CLUSTER", "SLOTS").([]any) {
			row := each.([]any)
			if row[0].(int64) <= int64(slot) && int64(slot) <= row[1].(int64) && row[2].([]any)[1].(int64) == int64(s.port) {
				return i
			}
		}
	}
	t.Fatalf("slot %d is nobody's", slot)
	return 0
}

// Failover makes a replica of master i the master, as an operator does, and
// waits until everybody knows. Nothing is lost that was written before.
func (r *Ring) Failover(t testing.TB, i int) *Server {
	t.Helper()
	if len(r.Replicas[i]) == 0 {
		t.Fatalf("master %d has no replica", i)
	}
	r.Replicas[i][0].Do(t, "CLUSTER", "FAILOVER")
	return r.promoted(t, i)
}

// KillMaster ends master i. If it has replicas it waits until one has taken its
// place.
func (r *Ring) KillMaster(t testing.TB, i int) *Server {
	t.Helper()
	old := r.Masters[i]
	old.Kill(t)
	if len(r.Replicas[i]) == 0 {
		return old
	}
	return r.promoted(t, i)
}

// promoted waits until a replica of master i is the master, and swaps the two.
func (r *Ring) promoted(t testing.TB, i int) *Server {
	t.Helper()
	old := r.Masters[i]
	n := -1
	err := servertest.Await("wait for another master than "+old.Addr(), func() error {
		n = slices.IndexFunc(r.Replicas[i], func(s *Server) bool { return s.isMaster() == nil })
		if n < 0 {
			return errors.New("no replica is the master")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Masters[i], r.Replicas[i][n] = r.Replicas[i][n], old
	r.await(t)
	return r.Masters[i]
}

func (r *Ring) await(t testing.TB) {
	t.Helper()
	if err := servertest.Await("wait for the cluster to agree", r.settled); err != nil {
		t.Fatal(err)
	}
}

// Revive starts a killed server again at its place and waits until the cluster
// agrees.
func (r *Ring) Revive(t testing.TB, s *Server) {
	t.Helper()
	s.Restart(t)
	r.await(t)
}

// Migration is a slot on its way from one master to another. Who asks the old
// one for a key that has moved is sent on by ASK, and for several keys of which
// some have moved refused by TRYAGAIN.
type Migration struct {
	ring     *Ring
	slot     string
	from, to *Server
}

// StartMigration begins to move a slot to master to, without a key of it.
func (r *Ring) StartMigration(t testing.TB, slot, to int) *Migration {
	t.Helper()
	m := &Migration{ring: r, slot: strconv.Itoa(slot), from: r.Masters[r.Owner(t, slot)], to: r.Masters[to]}
	from, err := m.from.id()
	target, err2 := m.to.id()
	err = cmp.Or(err, err2,
		m.to.tryAll([]string{"CLUSTER", "SETSLOT", m.slot, "IMPORTING", from}),
		m.from.tryAll([]string{"CLUSTER", "SETSLOT", m.slot, "MIGRATING", target}))
	if err != nil {
		t.Fatalf("migrate slot %d: %v", slot, err)
	}
	return m
}

// Keys returns the keys of the slot that have not moved.
func (m *Migration) Keys(t testing.TB) []string {
	t.Helper()
	var keys []string
	for _, k := range m.from.Do(t, "CLUSTER", "GETKEYSINSLOT", m.slot, "1000000").([]any) {
		keys = append(keys, k.(string))
	}
	return keys
}

// Move moves keys of the slot.
func (m *Migration) Move(t testing.TB, keys ...string) {
	t.Helper()
	if len(keys) > 0 {
		m.from.Do(t, append([]string{"MIGRATE", "127.0.0.1", m.to.portText(), "", "0", "5000", "KEYS"}, keys...)...)
	}
}

// Finish moves what is left and gives the slot away, and waits until everybody
// knows.
func (m *Migration) Finish(t testing.TB) {
	t.Helper()
	m.Move(t, m.Keys(t)...)
	id, err := m.to.id()
	if err != nil {
		t.Fatal(err)
	}
	give := []string{"CLUSTER", "SETSLOT", m.slot, "NODE", id}
	if err := cmp.Or(m.to.tryAll(give), m.from.tryAll(give)); err != nil {
		t.Fatal(err)
	}
	m.ring.await(t)
}

// MigrateSlot moves a slot with all its keys to master to.
func (r *Ring) MigrateSlot(t testing.TB, slot, to int) {
	t.Helper()
	r.StartMigration(t, slot, to).Finish(t)
}
