package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// Of a process of hostile peers, which the timed form starts.
var (
	hostileAttack = flag.String("hostile.attack", "", "make this `ATTACK` alone in TestHostile, at the doors of -hostile.at, until the input ends")
	hostileAt     = flag.String("hostile.at", "", "`ADDRESSES` by door of -hostile.attack, as JSON")
)

const (
	// hostileRounds is how often an attack elsewhere and one here follow each other, of
	// hostileWhile each.
	hostileRounds = 3
	hostileWhile  = 2 * time.Second
	// hostilePeers is how many peers make an attack that takes its time.
	hostilePeers = 50
)

// timed makes attacks again and again, and compares how long others wait beside them with
// how long they wait beside the same attack at another server of this machine: real peers
// would bring machines of their own, and what they themselves take of this one is not what
// the server lets them take.
func (s *siege) timed(t *testing.T) {
	there := besieged(t).doors(t, 3)
	seen := make(map[string]bool)
	for _, a := range attacks() {
		name := a.timedName()
		if seen[name] {
			continue
		}
		seen[name] = true
		t.Run(name, func(t *testing.T) { s.compare(t, name, there, a.within > 0) })
	}
	for door := range strings.FieldsSeq(everyDoor) {
		t.Run(door+"/idle", func(t *testing.T) { newSiege(t).weigh(t, door) })
		t.Run(door+"/one too many", func(t *testing.T) { s.overcrowd(t, door) })
	}
}

// timedName is what an attack is called where times are judged: those that make no work
// have one name at each door.
func (a *attack) timedName() string {
	if a.within > 0 || a.flood {
		return a.door + "/" + a.name
	}
	return a.door + "/nonsense"
}

// besiege is a process of hostile peers: it makes the attacks of a name again and again
// until nobody writes to its input any more.
func besiege(t *testing.T, name string) {
	s := new(siege)
	if err := json.Unmarshal([]byte(*hostileAt), &s.at); err != nil {
		t.Fatal(err)
	}
	late := make(chan struct{})
	go func() {
		defer close(late)
		bufio.NewReader(os.Stdin).ReadByte()
	}()
	peers := 1
	var list []attack
	for _, a := range attacks() {
		if a.timedName() == name {
			list = append(list, a)
			if a.within > 0 {
				peers = hostilePeers
			}
		}
	}
	var all sync.WaitGroup
	for range peers {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-late:
					return
				default:
				}
				a := list[i%len(list)]
				if err := a.run(s); err != nil {
					t.Errorf("%s: %s: %v", a.door, a.name, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// peers starts a process that makes the attacks of a name at those doors. It has only the
// time that nobody else on this machine wants. finish ends it when its attacks are over.
func peers(t *testing.T, name string, doors map[string]string) (finish func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	at, err := json.Marshal(doors)
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd := exec.CommandContext(t.Context(), "chrt", "--idle", "0", self, "-test.run=^TestHostile$", "-hostile.timed", "-hostile.attack="+name, "-hostile.at="+string(at))
	cmd.Stdout, cmd.Stderr = &said, &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the attack: %v\n%s", err, said.String())
		}
	}
}

// compare lets the polite clients ask beside an attack elsewhere and here by turns. One
// that takes its time is made once by each of its peers.
func (s *siege) compare(t *testing.T, name string, there map[string]string, slow bool) {
	t.Helper()
	s.forget()
	rounds := hostileRounds
	if slow {
		rounds = 1
	}
	for range rounds {
		for where, doors := range map[int32]map[string]string{elsewhere: there, atUs: s.at} {
			finish := peers(t, name, doors)
			s.beside.Store(where)
			<-time.After(hostileWhile)
			finish()
			s.beside.Store(calm)
			<-time.After(hostileWhile / 4)
		}
	}
	s.judge(t)
}

// forget drops the times that were taken.
func (s *siege) forget() {
	for _, c := range s.polite {
		c.mu.Lock()
		for i := range c.took {
			c.took[i] = c.took[i][:0]
		}
		c.mu.Unlock()
	}
}

// judge compares what the polite clients have waited.
func (s *siege) judge(t *testing.T) {
	t.Helper()
	var all [atUs + 1][]time.Duration
	for _, c := range s.polite {
		c.mu.Lock()
		for i := range all {
			all[i] = append(all[i], c.took[i]...)
		}
		c.mu.Unlock()
	}
	if len(all[elsewhere]) < 1000 || len(all[atUs]) < 1000 {
		t.Fatalf("%d and %d answers are too few to judge", len(all[elsewhere]), len(all[atUs]))
	}
	without, with := p99(all[elsewhere]), p99(all[atUs])
	t.Logf("others' p99 %v without, %v with it, %.2f x, of %d and %d answers", without, with, float64(with)/float64(without), len(all[elsewhere]), len(all[atUs]))
	if with > 2*without {
		t.Errorf("others' p99 is %v beside it, %v without", with, without)
	}
}

// weigh has ten thousand idle connections at a door, less a few, and says what each
// costs a server that had none before.
func (s *siege) weigh(t *testing.T, door string) {
	t.Helper()
	n := hostileDoor - 100
	if most := filesAllowed(t); most < n+500 {
		t.Fatalf("%d files may be open: raise ulimit -n to %d", most, n+500)
	}
	s.forget()
	s.beside.Store(elsewhere)
	<-time.After(hostileRounds * hostileWhile)
	s.beside.Store(calm)
	before := s.weight(t)
	w, refused := s.guests(t, door, n)
	if refused > 0 {
		t.Fatalf("%d of %d are refused", refused, n)
	}
	now := s.weight(t)
	s.beside.Store(atUs)
	<-time.After(hostileRounds * hostileWhile)
	s.beside.Store(calm)
	w.still(t)
	t.Logf("%d idle connections: %d bytes each, %.1f goroutines", len(w), (now.rss-before.rss)/int64(len(w)), float64(now.goroutines-before.goroutines)/float64(len(w)))
	s.judge(t)
}
