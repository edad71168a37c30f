package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// `make hostile` sets it.
var hostileTimed = flag.Bool("hostile.timed", false, "judge the latency of others in TestHostile, beside 10,000 idle connections at each door too")

const (
	// hostileGrowth is how much larger the server may be after it all than before.
	hostileGrowth = 64 << 20
	// hostileIdle is how many idle connections every door has in the short form.
	hostileIdle = 300
	// hostileDoor is the bound on the connections of a door.
	hostileDoor = 10_000
	// politePause is how long a polite client waits between an answer and its next
	// request.
	politePause = 4 * time.Millisecond
)

// attack is what hostile peers do at a door.
type attack struct {
	door, name string
	// run does it once, and returns an error if it does not end as it must.
	run func(s *siege) error
	// within is how long the server may let it go on, where it is for the server to end
	// it; 0 for those that end at once.
	within time.Duration
	// flood says that it makes work, so that others' times are compared beside it alone.
	flood bool
}

// attacks are all. The names of doors are those of listeners.
func attacks() []attack {
	var all []attack
	for _, list := range [][]attack{respAttacks(), grpcAttacks(), httpAttacks()} {
		all = append(all, list...)
	}
	return all
}

// siege is a server with polite clients at each door, and hostile ones.
type siege struct {
	p      *process
	at     map[string]string // address by door
	polite []*polite
	beside atomic.Int32 // what goes on beside polite clients: one of calm, elsewhere, atUs

	end  chan struct{}
	wait sync.WaitGroup
}

// What goes on beside polite clients, as far as their times are compared.
const (
	calm      = iota
	elsewhere // what the times are compared with
	atUs
)

// newSiege starts a server and the polite clients.
func newSiege(t *testing.T) *siege {
	t.Helper()
	p := besieged(t)
	s := &siege{p: p, at: p.doors(t, 3), end: make(chan struct{})}
	for range 2 {
		s.polite = append(s.polite, s.politeHTTP(), s.politeGRPC(t), s.politeEnvoy(t), s.politeRedis(t))
	}
	t.Cleanup(s.leave)
	for i, c := range s.polite {
		c.subject = fmt.Sprint("polite-", i)
		s.wait.Go(func() { c.live(t, s) })
	}
	s.others(t, 100)
	return s
}

// besieged starts a server that can be besieged.
func besieged(t *testing.T) *process {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, file, "version: 1\napplications:\n  a: {rules: [{name: r, match: {operation: x}, limits: ["+slowYear("w", politeQuota)+"]}]}\n")
	return startProcess(t, "--grpc", "127.0.0.1:0", "--resp", "127.0.0.1:0", "--policy", file, "--store", "memory")
}

// leave ends the polite clients.
func (s *siege) leave() {
	select {
	case <-s.end:
	default:
		close(s.end)
	}
	s.wait.Wait()
}

// doors returns where each of n doors listens.
func (p *process) doors(t *testing.T, n int) map[string]string {
	t.Helper()
	at := make(map[string]string)
	until(t, "the server listens", func() bool {
		for line := range strings.Lines(p.said()) {
			if _, rest, ok := strings.Cut(line, "msg=listening door="); ok {
				door, address, _ := strings.Cut(strings.TrimSpace(rest), " address=")
				at[door] = address
			}
		}
		return len(at) == n
	})
	return at
}

// until waits for something.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// others waits until each polite client has had n answers more.
func (s *siege) others(t *testing.T, n int64) {
	t.Helper()
	for _, c := range s.polite {
		want := c.answers.Load() + n
		until(t, c.door+" answers "+c.subject, func() bool { return c.answers.Load() >= want || c.failed.Load() })
		if c.failed.Load() {
			t.Fatalf("%s: a polite client is not answered", c.door)
		}
	}
}

// weight is what the server takes.
type weight struct {
	rss, peak           int64 // in bytes
	goroutines, sockets int
}

func (s *siege) weight(t *testing.T) (z weight) {
	t.Helper()
	var err error
	if z.goroutines, err = strconv.Atoi(s.p.metric("go_goroutines")); err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%d/", s.p.cmd.Process.Pid)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			z.rss = kb << 10
		case "VmHWM":
			z.peak = kb << 10
		}
	}
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if to, _ := os.Readlink(filepath.Join(dir, "fd", f.Name())); strings.HasPrefix(to, "socket:") {
			z.sockets++
		}
	}
	return z
}

// settled waits until the server is as it was before: nothing is left of those who have
// gone. What polite clients ask in the meantime lets the collector run.
func (s *siege) settled(t *testing.T, before weight) {
	t.Helper()
	var now weight
	most := before.rss + hostileGrowth
	if raced() { // which keeps several times as much beside all memory
		most += 4 * hostileGrowth
	}
	late := time.After(2 * patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		now = s.weight(t)
		if now.sockets <= before.sockets && now.goroutines <= before.goroutines && now.rss <= most {
			t.Logf("the server: %d MiB, %d goroutines, %d sockets; before: %d MiB, %d, %d; at most %d MiB",
				now.rss>>20, now.goroutines, now.sockets, before.rss>>20, before.goroutines, before.sockets, now.peak>>20)
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("the server is left with %d MiB, %d goroutines, %d sockets; before: %d MiB, %d, %d",
				now.rss>>20, now.goroutines, now.sockets, before.rss>>20, before.goroutines, before.sockets)
		}
	}
}

// TestHostile: whatever peers do at a door, it ends with a clear error or a closed
// connection, polite clients at all doors are answered rightly meanwhile, and nothing
// of it stays in memory.
func TestHostile(t *testing.T) {
	if *hostileAttack != "" {
		besiege(t, *hostileAttack)
		return
	}
	s := newSiege(t)
	before := s.weight(t)
	if *hostileTimed {
		s.timed(t)
	} else {
		s.short(t)
	}
	s.others(t, 20)
	s.settled(t, before)
	s.leave()
	for _, c := range s.polite {
		if n := c.answers.Load(); n < 200 {
			t.Errorf("%s: a polite client had %d answers only", c.door, n)
		}
	}
	for line := range strings.Lines(s.p.said()) {
		if strings.Contains(line, "panic") {
			t.Error(line)
		}
	}
	s.p.stop()
}

// short makes every attack once, those that take their time at once.
func (s *siege) short(t *testing.T) {
	var slow sync.WaitGroup
	for _, a := range attacks() {
		if a.within > 0 {
			slow.Go(func() {
				if err := a.run(s); err != nil {
					t.Errorf("%s: %s: %v", a.door, a.name, err)
				}
			})
		}
	}
	for _, a := range attacks() {
		if a.within > 0 {
			continue
		}
		t.Run(a.door+"/"+a.name, func(t *testing.T) {
			if err := a.run(s); err != nil {
				t.Error(err)
			}
			s.others(t, 2)
		})
	}
	for door := range strings.FieldsSeq(everyDoor) {
		t.Run(door+"/idle", func(t *testing.T) { s.idles(t, door, hostileIdle) })
	}
	t.Run("resp/one too many", func(t *testing.T) { s.overcrowd(t, "resp") })
	slow.Wait()
}

// errOpen is that of attacks that go on for too long.
var errOpen = errors.New("the connection is still open")

// dial connects to a door, for a time at most.
func (s *siege) dial(door string, within time.Duration) (net.Conn, error) {
	c, err := net.Dial("tcp", s.at[door])
	if err != nil {
		return nil, err
	}
	// Where times are not judged, a busy machine may be late.
	if !*hostileTimed {
		within = max(within, patience)
	}
	return c, c.SetDeadline(time.Now().Add(within))
}
