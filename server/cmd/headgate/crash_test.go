package main

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// `make crash` sets these.
var (
	crashKills = flag.Int("crash.kills", 30, "how often TestCrash kills the server")
	crashSeed  = flag.Uint64("crash.seed", 1, "what TestCrash draws its random numbers from")
)

// The ways in which a life ends.
const (
	endUnderLoad = iota
	endInBackup
	endInDrain
	endInCheckpoint
	endInStart
	endInOrder
	endings
)

var endingNames = [endings]string{"under load", "in a backup", "in the drain", "in a checkpoint", "in the start", "in order"}

const (
	// crashSubjects is how many subjects there are at a time, and crashLives for how
	// many lives: others follow then.
	crashSubjects, crashLives = 6, 12
	crashClients              = 12
	// mostLog is how long a write-ahead log may become.
	mostLog = 52 << 20
)

func crashPolicy(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("version: 1\napplications:\n  a:\n    rules:\n")
	for i, l := range crashLimits {
		if i > 0 && crashLimits[i-1].operation == l.operation {
			fmt.Fprintf(&b, "          - {name: %s, %s}\n", l.name, l.text)
			continue
		}
		fmt.Fprintf(&b, "      - name: %s\n        match: {operation: %s}\n        limits:\n          - {name: %s, %s}\n", l.operation, l.operation, l.name, l.text)
	}
	b.WriteString("      - {name: villain, match: {operation: villain}, limits: [{name: a, rate: 1/h}], ban: {after: 2, within: 1m, for: 1h}}\n")
	b.WriteString("      - {name: flood, match: {operation: flood}, limits: [{name: a, algorithm: fixed_window, rate: 100/min}]}\n")
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// crash drives a server through its lives.
type crash struct {
	t                  *testing.T
	rng                *rand.Rand
	name, data, policy string
	client             *http.Client
	v                  *victim
	life, generation   int
	eldest             int // life of the generation
	kills              int // since the last look
	fast               bool
	unclean            bool // the life began after a kill
	lives              [endings]int
	today              int64           // when the generation was born
	retried            int             // keys that were not answered at first
	starts             []time.Duration // from the start to the first answer
	drain              time.Duration   // how long the latest end in order took
	longestLog         int64
	inFlight           int

	ending  atomic.Bool
	load    sync.WaitGroup
	stalled atomic.Int64 // requests that were not decided in time

	mu       sync.Mutex
	accounts map[string]*account
	subjects []string
	keys     map[string]string // unanswered: key to subject
	asked    map[string]int64  // how many keys of a subject there are
	onces    map[string]int64  // and how many were admitted
	tickets  []*ticket
	villains []villain
	acked    map[string]int64
	worst    map[string]int64
	answers  int
	findings []string
}

func newCrash(t *testing.T, seed uint64) *crash {
	c := &crash{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), name: program(t), data: filepath.Join(t.TempDir(), "data"), policy: crashPolicy(t),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: patience},
		drain:  40 * time.Millisecond,
		keys:   make(map[string]string), asked: make(map[string]int64), onces: make(map[string]int64), acked: make(map[string]int64), worst: make(map[string]int64),
	}
	c.born()
	t.Cleanup(func() {
		if c.v != nil {
			c.v.kill()
		}
	})
	return c
}

// born makes a new generation of subjects.
func (c *crash) born() {
	c.generation++
	c.eldest, c.today = c.life, time.Now().UnixMicro()/day.Microseconds()
	c.accounts = make(map[string]*account)
	c.subjects = c.subjects[:0]
	for i := range crashSubjects {
		s := fmt.Sprintf("s%d-%d", c.generation, i)
		c.subjects = append(c.subjects, s)
		for _, l := range crashLimits {
			c.accounts[s+" "+l.operation+"/"+l.name] = newAccount(l, s, c.found)
		}
	}
	c.tickets, c.villains = nil, nil
	clear(c.keys)
	clear(c.asked)
	clear(c.onces)
}

// found notes what is wrong. The caller may hold c.mu.
func (c *crash) found(a *account, what string) {
	last := a.passed[max(0, len(a.passed)-8):]
	c.findings = append(c.findings, fmt.Sprintf("life %d, %s: %s; %d charges for sure, the last %v", c.life, a.name, what, len(a.passed), last))
}

// start begins a life. It returns when the server has answered once.
func (c *crash) start() {
	c.t.Helper()
	c.life++
	c.v = serveIn(c.t, c.name, c.data, "--policy", c.policy)
	c.v.await(c.t)
	c.peek(c.subjects[0], "fast")
	c.starts = append(c.starts, time.Since(c.v.began))
	if left, _ := filepath.Glob(filepath.Join(c.data, backups+"*")); len(left) > 0 {
		c.findings = append(c.findings, fmt.Sprintf("life %d: %v is left of a backup that was not finished:\n%s", c.life, left, c.v.said()))
	}
	if info, err := os.Stat(filepath.Join(c.data, "limits.db-wal")); err == nil {
		if c.longestLog = max(c.longestLog, info.Size()); info.Size() > mostLog {
			c.findings = append(c.findings, fmt.Sprintf("life %d: the write-ahead log has %d bytes", c.life, info.Size()))
		}
	}
}

// look compares every account with what the server says of it.
func (c *crash) look() {
	ready := time.Now().UnixMicro()
	for _, s := range c.subjects {
		a := c.accounts[s+" fast/a"]
		a.model.add(a.charges)
		a.charges = nil
		if c.fast && c.kills > 0 || c.unclean {
			a.model.(*bucket).empty(c.v.began.UnixMicro(), ready, c.fast && c.kills > 0)
		}
	}
	var readers sync.WaitGroup
	for _, s := range c.subjects {
		readers.Go(func() {
			for i, l := range crashLimits {
				if i > 0 && crashLimits[i-1].operation == l.operation {
					continue
				}
				c.lookAt(s, l.operation)
			}
		})
	}
	readers.Wait()
	for _, v := range c.villains {
		if a, _ := c.peek(v.subject, "villain"); v.sure && (a.Allowed || a.Reason != "banned") {
			c.findings = append(c.findings, fmt.Sprintf("life %d: the ban of %s is gone: %+v", c.life, v.subject, a))
		}
	}
	c.kills = 0
}

// lookAt compares the accounts of an operation.
func (c *crash) lookAt(subject, operation string) {
	a, g := c.peek(subject, operation)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range a.Limits {
		x := c.accounts[subject+" "+l.ID]
		forfeit := int64(c.kills) * x.limit.forfeit()
		g.remaining = l.Remaining
		x.look(g, forfeit)
	}
}

// peek asks what is left.
func (c *crash) peek(subject, operation string) (answered, glance) {
	from := time.Now().UnixMicro()
	a, err := c.ask("/v1/peek", bodyOf(subject, operation, ""))
	if err != nil {
		c.t.Errorf("life %d: peek at %s of %s: %v", c.life, operation, subject, err)
	}
	return a, glance{from: from, to: time.Now().UnixMicro()}
}

func bodyOf(subject, operation, more string) string {
	return fmt.Sprintf(`{"application":"a","operation":%q,"subject":%q%s}`, operation, subject, more)
}

// resolve asks again with every idempotency key that was not answered. Then all
// charges are known, and each key has one.
func (c *crash) resolve() {
	for _, key := range slices.Sorted(maps.Keys(c.keys)) {
		c.once(c.keys[key], key)
		c.retried++
	}
	if len(c.keys) > 0 {
		c.t.Errorf("life %d: %d keys are not answered", c.life, len(c.keys))
	}
	for _, s := range c.subjects {
		a, g := c.peek(s, "once")
		if used := a.Limits[0].Used; used != c.onces[s] && g.from/day.Microseconds() == c.today {
			c.findings = append(c.findings, fmt.Sprintf("life %d: %s was admitted with %d keys and charged %d", c.life, s, c.onces[s], used))
		}
	}
}

// flood writes states of many others, so that the write-ahead log is moved to the
// database file, and returns when that has begun.
func (c *crash) flood(r *rand.Rand) {
	file := filepath.Join(c.data, "limits.db")
	before, err := os.Stat(file)
	if err != nil {
		c.t.Fatal(err)
	}
	begun := make(chan struct{})
	var others sync.WaitGroup
	for i := range 2 {
		others.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-begun:
					return
				default:
				}
				items := make([]string, 1000)
				for j := range items {
					items[j] = bodyOf(fmt.Sprintf("f%d-%d-%d-%d", c.life, i, n, j), "flood", "")
				}
				if _, err := c.ask("/v1/take/batch", `{"items":[`+strings.Join(items, ",")+`]}`); c.failed("flood", err) {
					return
				}
			}
		})
	}
	late := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-late:
			c.t.Errorf("life %d: the write-ahead log is not moved", c.life)
			waiting = false
		case <-tick.C:
			info, err := os.Stat(file)
			waiting = err == nil && info.ModTime().Equal(before.ModTime())
		}
	}
	c.within(time.Duration(r.Int64N(int64(60 * time.Millisecond))))
	c.ending.Store(true)
	close(begun)
	c.v.kill()
	others.Wait()
}

// within lets so much time pass.
func (c *crash) within(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.t.Context().Done():
	}
}

// live goes through one life, and returns whether it was ended by a kill.
func (c *crash) live(end int) (killed bool) {
	r := c.rng
	if end == endInStart {
		c.life++
		usual := 100 * time.Millisecond
		if n := len(c.starts); n > 0 {
			usual = c.starts[n-1]
		}
		c.v = serveIn(c.t, c.name, c.data, "--policy", c.policy)
		c.within(time.Duration(r.Int64N(int64(usual * 6 / 5))))
		c.v.kill()
		c.lives[end]++
		c.kills++
		c.unclean = true
		return true
	}
	c.unclean = c.unclean || c.kills > 0
	c.start()
	c.look()
	c.resolve()
	if c.life >= c.eldest+crashLives {
		c.bury()
		c.born()
	}
	c.begin()
	c.within(time.Duration(r.Int64N(int64(300 * time.Millisecond))))
	killed = true
	switch end {
	case endInCheckpoint:
		c.flood(r)
	case endInBackup:
		c.backUp(r)
	case endInDrain, endInOrder:
		c.ending.Store(true)
		if err := c.v.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			c.t.Fatal(err)
		}
		left := make(chan struct{})
		go func() {
			defer close(left)
			c.over() // connections that were not used yet are waited for
		}()
		told, late := time.Now(), time.Duration(r.Int64N(int64(c.drain*6/5)))
		if end == endInOrder {
			late = patience
		}
		select {
		case <-time.After(late):
		case <-c.v.ended:
			c.drain = time.Since(told)
		}
		c.v.kill()
		<-left
		killed = c.v.cmd.ProcessState.ExitCode() != exitDone
		if killed && end == endInOrder {
			c.t.Errorf("life %d ended with %v:\n%s", c.life, c.v.cmd.ProcessState, c.v.said())
		}
		if !killed {
			end = endInOrder
		}
	default:
		c.ending.Store(true)
		c.v.kill()
	}
	c.over()
	c.lives[end]++
	if killed {
		c.kills++
	}
	// For what starts empty, a short life is as good as none.
	c.unclean = killed || c.unclean && time.Since(c.v.began) < 10*time.Second
	return killed
}

// backUp kills the server while it makes a backup.
func (c *crash) backUp(r *rand.Rand) {
	token, err := os.ReadFile(filepath.Join(c.data, "admin-token"))
	if err != nil {
		c.t.Fatal(err)
	}
	q, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.v.url+"/v1/backup", http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	ended := make(chan error, 1)
	go func() {
		resp, err := c.client.Do(q)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			if resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s", resp.Status)
			}
			resp.Body.Close()
		}
		ended <- err
	}()
	c.within(time.Duration(r.Int64N(int64(60 * time.Millisecond))))
	c.ending.Store(true)
	c.v.kill()
	<-ended // it may have come to its end
}

// bury audits a generation.
func (c *crash) bury() {
	for _, name := range slices.Sorted(maps.Keys(c.accounts)) {
		a := c.accounts[name]
		a.audit()
		if a.limit.empties {
			continue
		}
		id := a.limit.operation + "/" + a.limit.name
		c.worst[id] = max(c.worst[id], a.worst)
	}
}

// TestCrash kills a server under load again and again, at all times: nothing that it
// has admitted is forgotten, so no limit ever admits more than it says, and little is
// forfeited.
func TestCrash(t *testing.T) {
	c := newCrash(t, *crashSeed)
	began, killed := time.Now(), 0
	for n := 0; killed < *crashKills && len(c.findings) == 0 && !t.Failed(); n++ {
		end := endUnderLoad
		switch x := c.rng.IntN(100); {
		// However few lives there are, some end in each way.
		case n%15 == 7:
			end = endInCheckpoint
		case n%15 == 11:
			end = endInOrder
		case n%15 == 13:
			end = endInBackup
		case x < 15:
			end = endInStart
		case x < 30:
			end = endInBackup
		case x < 50:
			end = endInDrain
		case x < 60:
			end = endInOrder
		}
		if c.live(end) {
			killed++
		}
	}
	c.start()
	c.look()
	c.resolve()
	c.v.stop(t)
	c.start()
	c.look() // nothing may be forfeited
	c.v.stop(t)
	c.bury()
	for _, f := range c.findings {
		t.Error(f)
	}
	slices.Sort(c.starts)
	t.Logf("seed %d: %d kills in %v", *crashSeed, killed, time.Since(began).Round(time.Second))
	for end, n := range c.lives {
		t.Logf("%4d lives ended %s", n, endingNames[end])
	}
	t.Logf("%d requests answered, %d not, of which %d were not decided in time, %d of them asked again with their key; tokens admitted: %v", c.answers-c.inFlight, c.inFlight, c.stalled.Load(), c.retried, c.acked)
	t.Logf("tokens forfeited at most at once: %v", c.worst)
	t.Logf("from the start to the first answer: median %v, longest %v; longest write-ahead log %d bytes", c.starts[len(c.starts)/2], c.starts[len(c.starts)-1], c.longestLog)
	for end, n := range c.lives {
		if n == 0 && *crashKills >= 30 {
			t.Errorf("no life ended %s", endingNames[end])
		}
	}
}
