package storetest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// costUnit is what the batches beside leases are counted in: limits that are
// leased are large.
const costUnit = 100

// leaseFamilies are budgets that are leased, and others, with numbers of which a
// thousand tokens are always there. The last two are as in [families].
func leaseFamilies(t testing.TB) (all []family) {
	add := func(mixed bool, name string, limits ...headgate.Limit) {
		all = append(all, newFamily(t, mixed, name, limits))
	}
	leaky := headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1000, Period: sec, Burst: 2000}
	rolling, soft := headgate.QuotaPer(5000, headgate.Hour), headgate.QuotaPer(2000, headgate.Hour)
	rolling.Rollover, soft.Soft = 3000, true
	ban := headgate.Limit{Algorithm: headgate.Ban, Count: 20, Period: time.Minute, TTL: 10 * sec}
	add(false, "bucket", headgate.PerSecond(1000).WithBurst(5000), headgate.PerSecond(200).WithBurst(2000), headgate.PerSecond(5000).WithBurst(900), headgate.Limit{Count: 1_000_003, Period: sec, Burst: 2_000_000})
	add(false, "slow-bucket", headgate.PerHour(5000), headgate.Per(7, sec).WithBurst(20_000))
	add(false, "window", headgate.Window(5000, 10*sec), headgate.Window(2000, 10*sec), headgate.Window(1000, sec))
	add(false, "sliding", headgate.Sliding(5000, 20*sec), headgate.Sliding(3000, 20*sec), headgate.Sliding(5000, time.Minute).WithSlices(60), headgate.Sliding(5000, time.Minute).WithSlices(1))
	add(false, "quota", headgate.QuotaPer(5000, headgate.Hour), rolling, headgate.QuotaPer(20_000, headgate.Day))
	add(false, "soft", soft, headgate.QuotaPer(2000, headgate.Hour))
	add(false, "small", headgate.PerSecond(100).WithBurst(999))
	add(false, "never", leaky, headgate.Log(5000, 10*sec))
	add(false, "slots", headgate.InFlight(1000, 10*sec))
	add(false, "ban", ban)
	add(false, "keys", headgate.Limit{Algorithm: headgate.Idempotency, Count: 64, TTL: time.Minute})
	add(true, "mixed", headgate.PerMinute(5000), headgate.Window(5000, time.Minute), headgate.Sliding(5000, time.Minute), headgate.QuotaPer(5000, headgate.Hour), headgate.InFlight(5000, time.Hour))
	return all
}

// DifferentialAuthority sends ops random requests and batches to authorities that
// open returns and to a plain model made of [algo.Budget], and compares every
// field of every answer. Requests are honest, repeated, late and false. The
// authorities need a manual clock, are fresh, and stay in one incarnation.
func DifferentialAuthority(t *testing.T, open func(t *testing.T) headgate.Authority, c Capabilities, ops int, seed uint64) {
	if !c.ManualClock {
		t.Fatal("without a manual clock nobody knows when a lease was granted")
	}
	all := leaseFamilies(t)
	for round := 0; round*roundOps < ops; round++ {
		n := min(roundOps, ops-round*roundOps)
		t.Run(fmt.Sprintf("round %d of seed %d", round, seed), func(t *testing.T) {
			d := newLender(t, open(t), all, c, rand.New(rand.NewPCG(seed, uint64(round))))
			for i := range n {
				if d.rng.IntN(3) == 0 {
					d.step(i)
				} else {
					d.request(i)
				}
			}
			if d.allowed < n/20 || d.refused < n/50 || d.settled < n/1000 {
				t.Fatalf("%d allowed, %d refused and %d settled of %d: the workload decides nothing", d.allowed, d.refused, d.settled, n)
			}
			if d.granted < n/10 || d.repeated < n/50 || d.stale < n/50 || d.unknown < n/50 || d.out < n/10 {
				t.Fatalf("%d granted, %d granted again, %d stale, %d unknown, %d with tokens out of %d: the workload leases nothing", d.granted, d.repeated, d.stale, d.unknown, d.out, n)
			}
		})
	}
}

// lender is a differ of authorities.
type lender struct {
	*differ
	authority headgate.Authority
	lessees   map[place]*account
	holders   uint64                  // that there have been
	sent      []headgate.LeaseRequest // for others to send again
	// What the workload reaches.
	granted, repeated, stale, unknown, out int
}

// place is where a holder stands.
type place struct {
	family int
	owner  string
	n      int
}

// account is what a holder remembers.
type account struct {
	lessee
	settled, returned int64
}

func newLender(t *testing.T, a headgate.Authority, all []family, c Capabilities, rng *rand.Rand) *lender {
	d := &lender{differ: newDiffer(t, a, all, c, rng), authority: a, lessees: make(map[place]*account)}
	d.unit, d.pace = costUnit, d.stroll
	// The model is of the same incarnation: a ban tells which that is, and keeps
	// no account.
	for _, f := range all {
		if l := f.limits[0]; l.Algorithm == headgate.Ban {
			d.model = newModel(headgate.Epoch{ID: d.acquire([]headgate.LeaseRequest{{Limit: l}})[0].Epoch})
		}
	}
	return d
}

// stroll is travel as leases live: mostly a fraction of a second.
func (d *lender) stroll() {
	switch n := d.rng.IntN(200); {
	case n < 110:
	case n < 170:
		d.now += d.rng.Int64N(200_000)
	case n < 190:
		d.now += d.rng.Int64N(2_000_000)
	case n < 193:
		d.now += []int64{1_000_000, 1_500_000}[d.rng.IntN(2)] - int64(d.rng.IntN(2))
	case n < 199:
		edge := []int64{1_000_000, 2_000_000, 10_000_000}[d.rng.IntN(3)]
		d.now = (d.now/edge+1)*edge - int64(d.rng.IntN(2))
	default:
		d.travel()
	}
	d.most = max(d.most, d.now)
}

// acquire sends requests at the latest instant.
func (d *lender) acquire(requests []headgate.LeaseRequest) []headgate.LeaseReply {
	d.pace()
	tell := &headgate.Batch{Op: headgate.Peek, Now: d.most}
	if _, err := tell.Add(theirs(requests[0].Owner, requests[0].Limit, 0)); err != nil {
		d.Fatal(err)
	}
	if err := d.store.Apply(d.Context(), tell); err != nil {
		d.Fatal(err)
	}
	if tell.At != d.most {
		d.Fatalf("decided at %d, told %d", tell.At, d.most)
	}
	replies := make([]headgate.LeaseReply, len(requests))
	if err := d.authority.Acquire(d.Context(), requests, replies); err != nil {
		d.Fatalf("%+v: %v", requests, err)
	}
	return replies
}

// request sends requests for a few budgets and compares the replies.
func (d *lender) request(i int) {
	var requests []headgate.LeaseRequest
	var from []*account
	seen := map[modelKey]bool{}
	for range 1 + d.rng.IntN(2)*d.rng.IntN(4) {
		r, h := d.fill()
		if k := (modelKey{r.Limit.ID, r.Owner}); !seen[k] {
			seen[k] = true
			requests, from = append(requests, r), append(from, h)
		}
	}
	for j, got := range d.acquire(requests) {
		r := &requests[j]
		want := d.model.acquire(r, d.most)
		if got != want {
			d.Errorf("request %d of %d at %d: %v\n%+v\n got %+v\nwant %+v", j, i, d.most, r.Limit.Name, *r, got, want)
		}
		d.note(r, &want, from[j])
	}
	if d.Failed() {
		d.FailNow()
	}
}

// note counts what the workload reaches, and lets the holder know, now and then
// not.
func (d *lender) note(r *headgate.LeaseRequest, reply *headgate.LeaseReply, h *account) {
	switch more := reply.Granted > r.Granted; {
	case reply.Status == headgate.LeaseStale:
		d.stale++
	case reply.Status == headgate.LeaseUnknownHolder:
		d.unknown++
	case more && h == nil:
		d.repeated++
	case more:
		d.granted++
	}
	if reply.State.Leased {
		d.out++
	}
	if h == nil || h.id != r.Holder || d.rng.IntN(6) == 0 {
		return
	}
	if reply.Status != headgate.LeaseOK {
		d.anew(h)
	}
	if h.last = *reply; r.Limit.Algorithm == headgate.Ban {
		h.settled, h.returned = 0, 0
	}
}

func (d *lender) anew(h *account) {
	d.holders++
	*h = account{lessee: lessee{id: [2]uint64{d.holders, d.rng.Uint64()}, limit: h.limit, owner: h.owner}}
}

// fill makes up a request, and returns the holder that sent it; nil of one that
// is late or false.
func (d *lender) fill() (headgate.LeaseRequest, *account) {
	if len(d.sent) > 0 && d.rng.IntN(8) == 0 {
		r := d.sent[d.rng.IntN(len(d.sent))]
		return r, nil
	}
	p := place{d.rng.IntN(len(d.families)), owners[d.rng.IntN(3)], d.rng.IntN(3)}
	if d.rng.IntN(3) > 0 {
		p.family %= 6 // those that are leased
	}
	f := &d.families[p.family]
	h := d.lessees[p]
	if h == nil {
		h = &account{lessee: lessee{limit: f.limits[0], owner: p.owner}}
		d.lessees[p] = h
		d.anew(h)
	}
	if d.rng.IntN(60) == 0 {
		d.anew(h)
	}
	if d.rng.IntN(40) == 0 {
		h.limit = f.limits[d.rng.IntN(len(f.limits))]
	}
	h.settled += d.rng.Int64N(h.last.Granted - h.settled + 1)
	if d.rng.IntN(3) == 0 {
		n := d.rng.Int64N(h.last.Granted - h.settled + 1)
		h.settled, h.returned = h.settled+n, h.returned+n
	}
	r := h.report(h.settled, h.returned, d.rng.Int64N([]int64{1, 10, 500, 3000}[d.rng.IntN(4)]))
	r.Min = d.rng.Int64N(r.Want/4 + 2)
	r.Floor, r.FloorWindow = h.last.Count, h.last.Window
	if d.rng.IntN(12) == 0 {
		for _, n := range []*int64{&r.Granted, &r.Settled, &r.Returned, &r.Want, &r.Min, &r.Window} {
			if d.rng.IntN(3) == 0 {
				*n += d.rng.Int64N(2000) - 1000
			}
		}
		return r, nil
	}
	d.sent = append(d.sent[max(0, len(d.sent)-40):], r)
	return r, h
}
