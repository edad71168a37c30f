package memstore_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
)

// While the disk hangs and as many states wait for it as may, a large limit goes on
// within its mark, and no further: a kill forgets nothing.
func TestKilledWhileManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newPaper()
		c := memstore.Config{MaxBytes: 1 << 20}
		s := kept(t, j, c)
		large, small := prepared(t, headgate.QuotaPer(100_000, headgate.Year), "large"), prepared(t, headgate.PerHour(10), "small")
		take(t, s, "hot", 1, large)
		take(t, s, "warm", 1, small)
		synctest.Wait()
		disk := make(chan struct{})
		j.tell(func() { <-disk })
		hasty := func(owner string, l *headgate.Prepared) bool {
			var b headgate.Batch
			b.Patience = 1000
			b.Add(headgate.Charge{Limit: l, Owner: owner, Cost: 1})
			return s.Apply(t.Context(), &b) == nil && b.Allowed
		}
		for i := range 3000 {
			hasty(fmt.Sprint(i), small)
		}
		passed := int64(1)
		for range 1000 {
			if hasty("hot", large) {
				passed++
			}
		}
		left := remaining(t, kept(t, j.killed(), c), large, "hot")
		if passed+left > large.Count || passed == 1 {
			t.Errorf("%d passed, and %d are left of %d", passed, left, large.Count)
		}
		close(disk)
	})
}

// Where memory is full, others leave it for the keys of requests: no retry is charged
// again.
func TestKeysWhileMemoryIsFull(t *testing.T) {
	s := kept(t, newPaper(), memstore.Config{MaxBytes: 1 << 20, Shards: 1})
	quota, small := prepared(t, headgate.QuotaPer(100_000, headgate.Year), "quota"), prepared(t, headgate.PerHour(10), "small")
	keys := prepared(t, headgate.Limit{Algorithm: headgate.Idempotency, Count: headgate.MaxRemembered, TTL: time.Hour}, "keys")
	ask := func(owner string, id uint64) *headgate.Batch {
		var b headgate.Batch
		b.Key = headgate.RequestKey{ID: [2]uint64{id, id}, Print: 1}
		b.Add(headgate.Charge{Limit: quota, Owner: owner, Cost: 1})
		b.Add(headgate.Charge{Limit: keys, Owner: owner})
		if err := s.Apply(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	twice, n := 0, 0
	for i := range uint64(40_000) {
		take(t, s, fmt.Sprint("stranger", i), 1, small)
		if i%4 != 0 {
			continue
		}
		for _, owner := range []string{fmt.Sprint("known", i/4%500), fmt.Sprint("new", i)} {
			n++
			if b := ask(owner, i+1); !b.Allowed || b.Replayed {
				t.Fatalf("%s: %+v", owner, b)
			}
			if b := ask(owner, i+1); !b.Replayed {
				twice++
			}
		}
	}
	if twice > 0 {
		t.Errorf("%d of %d retries were charged again", twice, n)
	}
}

// fullLives are lives in little memory, with strangers who fill it, and a disk that
// fails at times.
type fullLives struct {
	lives
	stranger *headgate.Prepared
	came     int
}

// strangers come, and wait for the disk for a millisecond.
func (v *fullLives) strangers(n int) {
	for range n {
		v.came++
		var b headgate.Batch
		b.Patience = 1000
		b.Add(headgate.Charge{Limit: v.stranger, Owner: fmt.Sprint("stranger", v.came), Cost: 1})
		if err := v.store.Apply(v.t.Context(), &b); err != nil && headgate.CodeOf(err) != headgate.Unavailable {
			v.t.Fatal(err)
		}
	}
}

// fail makes the disk fail, or ends that.
func (v *fullLives) fail(err error) {
	v.journal.mu.Lock()
	defer v.journal.mu.Unlock()
	v.journal.fail = err
}

func (v *fullLives) kill() {
	was := v.journal
	v.unclean, v.journal = true, was.killed()
	was.mu.Lock()
	was.fail = nil
	was.mu.Unlock()
	if err := v.store.Close(); err != nil { // on what nobody sees any more
		v.t.Fatal(err)
	}
	v.forfeit()
}

// forfeit notes that budgets may have less left than they should: what was not
// answered may have been charged.
func (v *fullLives) forfeit() {
	for _, b := range v.list {
		b.emptied = true
	}
}

// take does a random Take.
func (v *fullLives) take() {
	var b, c headgate.Batch
	if v.r.IntN(8) == 0 {
		b.Hold, b.HoldFor = v.r.Uint64()|1, 1+v.r.Int64N(60_000_000)
	}
	b.Patience = 1_000_000
	var asked []*budget
	for range 1 + v.r.IntN(3) {
		x := v.list[v.r.IntN(len(v.list))]
		l := x.limits[v.r.IntN(len(x.limits))]
		if slices.ContainsFunc(b.Charges(), func(o headgate.Charge) bool { return o.Limit.ID == l.ID && o.Owner == x.owner }) {
			continue
		}
		cost := v.r.Int64N(4)
		if v.r.IntN(3) == 0 {
			cost = v.r.Int64N(1 + max(l.Burst, l.Count)/50)
		}
		asked = append(asked, x)
		charge := headgate.Charge{Limit: l, Owner: x.owner, Cost: cost}
		b.Add(charge)
		c.Add(charge)
	}
	err := v.store.Apply(v.t.Context(), &b)
	if err != nil && headgate.CodeOf(err) != headgate.Unavailable {
		v.t.Fatal(err)
	}
	v.log = append(v.log, fmt.Sprintf("%+v hold %x for %d at %d: %v, %v", c.Charges(), b.Hold, b.HoldFor, b.At, b.Allowed, err))
	if err != nil || !b.Allowed {
		for _, x := range asked {
			x.emptied = x.emptied || err != nil
			x.apart = x.apart || len(x.limits) > 1
		}
		return
	}
	c.Hold, c.HoldFor, c.Now = b.Hold, b.HoldFor, b.At
	v.apply(v.truth, &c)
	if !c.Allowed && slices.ContainsFunc(asked, func(x *budget) bool { return x.apart }) {
		c.Op, c.Hold, c.HoldFor = headgate.Debit, 0, 0
		v.apply(v.truth, &c)
	} else if !c.Allowed {
		v.t.Fatalf("admitted too much: %+v\nallowed %+v\nbut by rights %+v", b.Charges(), b.Outcomes(), c.Outcomes())
	}
}

// However full memory is and however the disk fails, kills and stops admit no more than
// one store that lives on.
func TestFullLives(t *testing.T) {
	racetest.Alone(t)
	for _, seed := range []uint64{0, 1, 2, 39} { // the last one found something
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 178))
				v := &fullLives{
					lives:    lives{t: t, r: r, journal: newPaper(), truth: memstore.New(memstore.Config{}), list: budgets(t)},
					stranger: prepared(t, headgate.Window(10, 24*time.Hour), "stranger"),
				}
				v.config.Shards, v.config.MaxBytes = 1, 1<<20
				v.begin()
				defer func() {
					v.store.Close()
					if t.Failed() {
						for _, s := range v.log[max(0, len(v.log)-30):] {
							t.Log(s)
						}
					}
				}()
				v.strangers(12_000)
				broken := false
				for range *livesOps / 20 {
					switch n := r.IntN(200); {
					case n == 0:
						v.kill()
						v.log = append(v.log, "killed")
						broken = false
						<-time.After(time.Duration(r.Int64N(int64(3 * time.Second))))
						v.begin()
						v.compare()
					case n == 1 && !broken:
						<-time.After(3 * time.Second) // what failed is tried again
						v.stop()
						v.log = append(v.log, "stopped")
						v.begin()
						v.compare()
					case n == 2:
						<-time.After(time.Duration(r.Int64N(int64(20 * time.Minute))))
					case n == 3 && seed%4 != 0:
						if broken = !broken; broken {
							v.fail(errors.New("no disk"))
							v.strangers(1500)
							v.log = append(v.log, "the disk fails")
						} else {
							v.fail(nil)
						}
					case n < 30:
						<-time.After(time.Duration(r.Int64N(int64(time.Second))))
					case n < 60:
						v.strangers(20)
					default:
						v.take()
					}
				}
				v.fail(nil)
				<-time.After(3 * time.Second)
				v.compare()
				v.stop()
			})
		})
	}
}
