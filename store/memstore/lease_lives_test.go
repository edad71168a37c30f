package memstore_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// tenant holds leases of one budget across the lives of the authority.
type tenant struct {
	id                [2]uint64
	limit             *headgate.Prepared
	owner             string
	last              headgate.LeaseReply
	left, returned    int64
	deadline, renewed int64
	resets            int   // that the limit had seen when it was renewed
	window            int64 // the end of the one that it was granted in; 0 of buckets
}

func (h *tenant) anew(r *rand.Rand) {
	*h = tenant{id: [2]uint64{r.Uint64(), r.Uint64()}, limit: h.limit, owner: h.owner}
}

func (h *tenant) request(want int64) headgate.LeaseRequest {
	return headgate.LeaseRequest{
		Limit: h.limit, Owner: h.owner, Holder: h.id, Epoch: h.last.Epoch, Window: h.last.Window,
		Granted: h.last.Granted, Settled: h.last.Granted - h.left, Returned: h.returned, Want: want, Min: 1,
	}
}

// loans is a chain of authorities on one journal, those that hold leases of them,
// and a store that is never killed and hears of what is spent when it is.
type loans struct {
	t       *testing.T
	r       *rand.Rand
	journal *paper
	next    *paper // what a kill has left that came in the middle of a commit
	store   *memstore.Store
	truth   *memstore.Store
	config  memstore.Config
	tenants []*tenant
	limits  []*headgate.Prepared
	failed  time.Time // when the journal last failed
	resets  map[*headgate.Prepared]int
	// What the workload reaches.
	spent, direct, went, kept int
}

func newLoans(t *testing.T, seed uint64) *loans {
	v := &loans{t: t, r: rand.New(rand.NewPCG(seed, 2)), journal: newPaper(), truth: memstore.New(memstore.Config{}), resets: make(map[*headgate.Prepared]int)}
	v.config.Shards = 1 << v.r.IntN(4)
	for i, l := range []headgate.Limit{
		headgate.PerSecond(1000).WithBurst(2000), // transient
		headgate.PerMinute(3000),
		headgate.PerHour(5000),
		headgate.Window(2000, time.Second), // transient
		headgate.Window(5000, time.Minute),
		headgate.Sliding(5000, time.Minute),
		headgate.Sliding(1000, 6*time.Second), // transient
		headgate.QuotaPer(20_000, headgate.Hour),
	} {
		p := prepared(t, l, fmt.Sprintf("limit-%d", i))
		v.limits = append(v.limits, p)
		for range 3 {
			h := &tenant{limit: p, owner: "alice"}
			h.anew(v.r)
			v.tenants = append(v.tenants, h)
		}
	}
	v.begin()
	return v
}

func (v *loans) begin() {
	c := v.config
	c.Journal, c.Secret, c.Past = v.journal, secret, v.journal.past()
	v.store = memstore.New(c)
}

// pass expects that a store that knows of all lives lets the charge pass.
func (v *loans) pass(l *headgate.Prepared, owner string, cost int64, what string) {
	v.t.Helper()
	b := headgate.Batch{Now: v.store.Now()}
	b.Add(headgate.Charge{Limit: l, Owner: owner, Cost: cost})
	if err := v.truth.Apply(v.t.Context(), &b); err != nil {
		v.t.Fatal(err)
	}
	if !b.Allowed {
		v.t.Fatalf("%s: %d more of %+v: admitted too much: %+v", what, cost, l.Limit, b.Outcomes()[0])
	}
}

// survives does what may be killed in the middle of a commit, or fail. It reports
// whether anybody learned of it.
func (v *loans) survives(do func() error) bool {
	left := 1 + v.r.IntN(3)
	switch v.r.IntN(40) {
	case 0:
		v.journal.tell(func() {
			if left--; left == 0 {
				v.next = v.journal.killed()
			}
		})
	case 1:
		v.journal.mu.Lock()
		v.journal.fail, v.failed = errors.New("disk full"), time.Now()
		v.journal.mu.Unlock()
	}
	err := do()
	v.journal.mu.Lock()
	failing := v.journal.fail != nil
	v.journal.fail = nil
	v.journal.mu.Unlock()
	if err != nil && !failing {
		v.t.Fatal(err)
	}
	if v.journal.onCommit != nil {
		<-time.After(5 * time.Millisecond) // for what nobody waits for
		v.journal.tell(nil)
	}
	if v.next != nil {
		v.store.Close() // on what nobody sees any more
		v.journal, v.next = v.next, nil
		v.begin()
		return false
	}
	return err == nil
}

func (v *loans) take(l *headgate.Prepared) {
	var allowed bool
	cost := 1 + v.r.Int64N(5)
	if v.r.IntN(20) == 0 {
		cost = 1 + v.r.Int64N(max(l.Count, l.Burst)/10)
	}
	if v.survives(func() (err error) {
		allowed, _, err = do(v.t, v.store, headgate.Take, "alice", cost, l)
		return err
	}) && allowed {
		v.direct++
		v.pass(l, "alice", cost, "direct")
	}
}

// reset forgets what was taken, but for what is leased out. Whoever learns of it,
// it may have happened.
func (v *loans) reset(l *headgate.Prepared) {
	v.resets[l]++ // who has nothing left is forgotten
	v.survives(func() error {
		_, _, err := do(v.t, v.store, headgate.Reset, "alice", 0, l)
		return err
	})
	if _, _, err := do(v.t, v.truth, headgate.Reset, "alice", 0, l); err != nil {
		v.t.Fatal(err)
	}
}

func (v *loans) spend(h *tenant) {
	if v.store.Now() >= h.deadline || h.left == 0 {
		return
	}
	n := 1 + v.r.Int64N(h.left)
	h.left -= n
	v.spent++
	v.pass(h.limit, h.owner, n, "leased")
}

func (v *loans) acquire(h *tenant) {
	if v.r.IntN(100) == 0 {
		h.anew(v.r)
	}
	if n := v.r.Int64N(h.left + 1); v.r.IntN(3) == 0 || v.store.Now() >= h.deadline {
		h.left, h.returned = h.left-n, h.returned+n
	}
	requests := []headgate.LeaseRequest{h.request(v.r.Int64N(1 + max(h.limit.Count, h.limit.Burst)/8))}
	var replies [1]headgate.LeaseReply
	sent := v.store.Now()
	if !v.survives(func() error { return v.store.Acquire(v.t.Context(), requests, replies[:]) }) {
		return
	}
	got := &replies[0]
	live := h.last.Epoch != 0 && h.resets == v.resets[h.limit] && sent-h.renewed < 1_000_000 && (h.window == 0 || sent < h.window)
	if got.Status != headgate.LeaseOK {
		if live || got.Status == headgate.LeaseFailed {
			v.t.Fatalf("%+v of %+v: %+v was answered %+v %d µs later", h.limit.Limit, h.last, requests[0], *got, sent-h.renewed)
		}
		h.anew(v.r)
		return
	}
	if live {
		v.went++
	}
	h.left += got.Granted - h.last.Granted
	h.last, h.renewed, h.resets, h.window = *got, sent, v.resets[h.limit], 0
	h.deadline = sent + got.TTL.Microseconds()
	if got.WindowLeft > 0 {
		h.window = sent + got.WindowLeft.Microseconds()
		h.deadline = min(h.deadline, h.window)
	}
}

// kill ends a life between two operations, and expects that what is leased out is
// as it was.
func (v *loans) kill() {
	<-time.After(2*time.Second - time.Since(v.failed)) // what failed is not written yet, and nobody was told of it
	synctest.Wait()
	old, before := v.store, make([]headgate.Outcome, len(v.limits))
	for i, l := range v.limits {
		_, o, err := do(v.t, old, headgate.Peek, "alice", 0, l)
		if err != nil {
			v.t.Fatal(err)
		}
		before[i] = o[0]
	}
	v.journal = v.journal.killed()
	v.begin()
	defer old.Close() // on what nobody sees any more
	for i, l := range v.limits {
		_, o, err := do(v.t, v.store, headgate.Peek, "alice", 0, l)
		if err != nil {
			v.t.Fatal(err)
		}
		if before[i].Leased && o[0] != before[i] || o[0].Remaining > before[i].Remaining {
			v.t.Fatalf("%+v: killed at\n%+v, began at\n%+v", l.Limit, before[i], o[0])
		}
		if before[i].Leased {
			v.kept++
		}
	}
}

// However often an authority is killed, stopped, or cannot write, what it and all
// who hold leases of it let pass is what the limits have, and who holds leases
// goes on with them.
func TestLeasesOutliveTheAuthority(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newLoans(t, seed)
				defer func() { v.store.Close() }()
				ops := *livesOps / 4
				for range ops {
					switch n := v.r.IntN(200); {
					case n == 0:
						v.kill()
					case n == 1:
						if err := v.store.Close(); err != nil {
							t.Fatal(err)
						}
						v.begin()
					case n == 2:
						<-time.After(time.Duration(v.r.IntN(5000)) * time.Millisecond)
					case n == 3:
						v.reset(v.limits[v.r.IntN(len(v.limits))])
					case n < 25:
						<-time.After(time.Duration(v.r.IntN(60)) * time.Millisecond)
					case n < 55:
						v.take(v.limits[v.r.IntN(len(v.limits))])
					case n < 130:
						v.spend(v.tenants[v.r.IntN(len(v.tenants))])
					default:
						v.acquire(v.tenants[v.r.IntN(len(v.tenants))])
					}
				}
				if v.spent < ops/20 || v.direct < ops/20 || v.went < ops/20 || v.kept < ops/2000 {
					t.Errorf("%d spent of leases, %d otherwise, %d renewed, %d kept through a kill, in %d", v.spent, v.direct, v.went, v.kept, ops)
				}
			})
		})
	}
}
