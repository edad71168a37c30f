package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// roundOps is how many batches one store of the differential test decides:
// few enough for random steps to stay within a few years.
const roundOps = 10_000

// family is one budget's limits: the same scope and name with several numbers.
type family struct {
	limits []*headgate.Prepared
	// mixed says that the numbers are of different algorithms. Such a budget
	// comes alone in its batch and with a cost that always passes on a fresh
	// budget: whether a window that ended unused is forgotten or kept would
	// else show after a change of algorithm.
	mixed bool
}

func families(t testing.TB) []family {
	slots := func(l headgate.Limit, n int) headgate.Limit { return l.WithSlices(n) }
	leaky := func(count int64, period time.Duration, burst int64) headgate.Limit {
		return headgate.Limit{Algorithm: headgate.LeakyBucket, Count: count, Period: period, Burst: burst}
	}
	quota := func(count int64, unit headgate.CalendarUnit, rollover int64) headgate.Limit {
		l := headgate.QuotaPer(count, unit)
		l.Rollover = rollover
		return l
	}
	soft := headgate.QuotaPer(5, headgate.Day)
	soft.Soft = true
	ban := func(count int64, period, ttl time.Duration) headgate.Limit {
		return headgate.Limit{Algorithm: headgate.Ban, Count: count, Period: period, TTL: ttl}
	}
	keys := func(count int64, ttl time.Duration) headgate.Limit {
		return headgate.Limit{Algorithm: headgate.Idempotency, Count: count, TTL: ttl}
	}
	kathmandu := time.FixedZone("UTC+5:45", 5*3600+45*60)
	var all []family
	add := func(mixed bool, name string, limits ...headgate.Limit) {
		all = append(all, newFamily(t, mixed, name, limits))
	}
	add(false, "bucket", headgate.PerSecond(10).WithBurst(20), headgate.Per(3, 7*sec), headgate.PerHour(1000).WithBurst(50), headgate.Limit{Count: 1_000_003, Period: sec, Burst: 2_000_000})
	add(false, "slow-bucket", headgate.PerHour(10), headgate.Per(7, 24*time.Hour).WithBurst(12))
	add(false, "fast-bucket", headgate.Limit{Count: 1_000_000_007, Period: sec, Burst: 10}, headgate.Per(1, 3*us).WithBurst(1_000_000), headgate.PerSecond(1))
	add(false, "leaky", leaky(10, sec, 10), leaky(3, 7*sec, 5), headgate.PerSecond(10).WithBurst(5))
	add(false, "window", headgate.Window(8, 10*sec), headgate.Window(5, time.Minute), headgate.Window(20, time.Hour))
	add(false, "sliding", headgate.Sliding(8, 10*sec), slots(headgate.Sliding(12, time.Minute), 60), slots(headgate.Sliding(20, time.Hour), 9))
	add(false, "classic", slots(headgate.Sliding(8, 10*sec), 1), slots(headgate.Sliding(12, time.Minute), 1), headgate.Sliding(9, time.Minute))
	add(false, "log", headgate.Log(8, 10*sec), headgate.Log(30, time.Minute), headgate.Log(3, time.Hour))
	add(false, "quota", quota(10, headgate.Day, 0), quota(6, headgate.Hour, 4), quota(20, headgate.Month, 0).AnchoredAt(31), quota(5, headgate.Day, 10).In(kathmandu))
	add(false, "soft", soft, headgate.QuotaPer(5, headgate.Day))
	add(false, "slots", headgate.InFlight(6, 10*sec), headgate.InFlight(20, time.Minute), headgate.InFlight(2, sec))
	add(false, "ban", ban(3, time.Minute, 10*time.Minute), ban(6, 10*sec, sec), ban(1, time.Hour, 100*ms))
	add(false, "keys", keys(3, sec), keys(64, time.Minute), keys(1, time.Hour))
	add(true, "mixed", headgate.PerMinute(10), headgate.Window(10, time.Minute), headgate.Sliding(10, time.Minute), headgate.Log(10, time.Hour), quota(10, headgate.Hour, 0), leaky(10, time.Hour, 10), headgate.InFlight(10, time.Hour))
	return all
}

func newFamily(t testing.TB, mixed bool, name string, limits []headgate.Limit) family {
	f := family{mixed: mixed}
	for _, l := range limits {
		f.limits = append(f.limits, prepare(t, l.WithName(name)))
	}
	// The first numbers again, prepared anew.
	f.limits = append(f.limits, prepare(t, limits[0].WithName(name)))
	return f
}

// Differential decides ops random batches on stores that open returns and on a
// plain model made of package algo, and compares every field of every answer.
// The model takes the instant of each decision from the answer, which must not
// go back for an owner and, on a manual clock, not leave the instants told.
func Differential(t *testing.T, open func(t *testing.T) headgate.Store, c Capabilities, ops int, seed uint64) {
	all := families(t)
	for round := 0; round*roundOps < ops; round++ {
		n := min(roundOps, ops-round*roundOps)
		t.Run(fmt.Sprintf("round %d of seed %d", round, seed), func(t *testing.T) {
			d := newDiffer(t, open(t), all, c, rand.New(rand.NewPCG(seed, uint64(round))))
			for i := range n {
				d.step(i)
			}
			if d.allowed < n/20 || d.refused < n/20 {
				t.Fatalf("%d allowed and %d refused of %d: the workload decides nothing", d.allowed, d.refused, n)
			}
			if d.settled < n/200 || d.replayed < n/1000 || d.conflicts < n/5000 {
				t.Fatalf("%d settled, %d replayed, %d conflicts of %d: the workload has no holds or keys", d.settled, d.replayed, d.conflicts, n)
			}
		})
	}
}

func newDiffer(t *testing.T, s headgate.Store, all []family, c Capabilities, rng *rand.Rand) *differ {
	d := &differ{
		T: t, store: s, families: all, keys: &all[len(all)-2], unit: 1, manual: c.ManualClock, apart: c.Apart,
		rng: rng, model: newModel(headgate.Epoch{ID: 1}), latest: make(map[string]int64),
	}
	d.pace = d.travel
	if d.manual {
		d.now = time.Now().UTC().Truncate(time.Hour).UnixMicro()
		d.most = d.now
	}
	return d
}

type differ struct {
	*testing.T
	store            headgate.Store
	families         []family
	keys             *family // of idempotency limits
	unit             int64   // what costs are counted in
	pace             func()  // moves the instant before each batch
	manual, apart    bool
	rng              *rand.Rand
	model            model
	latest           map[string]int64 // instant of each owner's last decision
	now, most        int64            // the instant told last, and the latest told
	allowed, refused int
	// settled counts the charges in which a hold was found.
	settled, replayed, conflicts int
	// held and keyed are the latest takes with a reservation and with a key, for
	// others to come back to.
	held, keyed []past
}

// past is a take that was allowed.
type past struct {
	hold    uint64
	key     headgate.RequestKey
	charges []headgate.Charge
}

// recall keeps the latest few.
func recall(all []past, p past) []past { return append(all[max(0, len(all)-5):], p) }

// again adds the charges of an earlier batch, now and then at another cost.
func (d *differ) again(b *headgate.Batch, p past) {
	for _, c := range p.charges {
		if d.rng.IntN(3) == 0 {
			c.Cost = d.rng.Int64N(2*c.Cost + 2)
		}
		if _, err := b.Add(c); err != nil {
			d.Fatal(err)
		}
	}
}

// tally counts what the workload reaches.
func (d *differ) tally(b *headgate.Batch, a *modelAnswer) {
	switch {
	case a.conflict:
		d.conflicts++
	case a.replayed:
		d.replayed++
	case a.allowed:
		d.allowed++
	default:
		d.refused++
	}
	if b.Op != headgate.Settle {
		return
	}
	for i, c := range b.Charges() {
		if a.outcomes[i].Allowed && c.Limit.Algorithm < headgate.Concurrency {
			d.settled++
		}
	}
}

// step decides one batch and compares.
func (d *differ) step(i int) {
	b := new(headgate.Batch)
	d.fill(b)
	if d.manual {
		d.pace()
		b.Now = d.now
	}
	conflict, hold := false, b.Hold
	if err := d.store.Apply(d.Context(), b); err != nil {
		if conflict = headgate.CodeOf(err) == headgate.Conflict; !conflict {
			d.Fatalf("batch %d: %v: %v", i, d.show(b), err)
		}
	}
	if d.manual && (b.At < d.now || b.At > d.most) {
		d.Fatalf("batch %d: decided at %d, told %d and at most %d", i, b.At, d.now, d.most)
	}
	for _, c := range b.Charges() {
		if b.At < d.latest[c.Owner] {
			d.Fatalf("batch %d: %q decided at %d, before at %d", i, c.Owner, b.At, d.latest[c.Owner])
		}
		d.latest[c.Owner] = b.At
	}
	got := modelAnswer{allowed: b.Allowed, replayed: b.Replayed, conflict: conflict, hold: b.Hold}
	b.Hold = hold
	want := d.model.apply(b, b.At)
	d.tally(b, &want)
	if b.Op == headgate.Take && want.allowed && !want.replayed {
		p := past{hold, b.Key, slices.Clone(b.Charges())}
		if b.HoldFor > 0 {
			d.held = recall(d.held, p)
		}
		if b.Key != (headgate.RequestKey{}) {
			d.keyed = recall(d.keyed, p)
		}
	}
	if conflict && want.conflict {
		return
	}
	if got.allowed != want.allowed || got.replayed != want.replayed || got.conflict != want.conflict || got.hold != want.hold {
		d.Errorf("batch %d:\n got %+v\nwant %+v", i, got, want)
	}
	for j, want := range want.outcomes {
		if got := b.Outcomes()[j]; got != want {
			d.Errorf("batch %d, charge %d:\n got %+v\nwant %+v", i, j, got, want)
		}
	}
	if d.Failed() {
		d.Fatalf("batch %d at %d: %v", i, b.At, d.show(b))
	}
}

// travel moves the instant: mostly a little, now and then far or back.
func (d *differ) travel() {
	step := func(most time.Duration) int64 { return d.rng.Int64N(most.Microseconds()) }
	switch n := d.rng.IntN(2000); {
	case n < 800:
	case n < 1100:
		d.now += step(ms)
	case n < 1500:
		d.now += step(3 * sec)
	case n < 1700:
		d.now += step(time.Minute)
	case n < 1800:
		// To the edge of something.
		edge := []time.Duration{sec, 10 * sec, time.Minute, time.Hour}[d.rng.IntN(4)].Microseconds()
		d.now = (d.now/edge+1)*edge - int64(d.rng.IntN(2))
	case n < 1880:
		d.now += step(2 * time.Hour)
	case n < 1990:
		d.now -= step(time.Minute)
	case n < 1998:
		d.now += step(50 * time.Hour)
	default:
		d.now += step(70 * 24 * time.Hour)
	}
	d.most = max(d.most, d.now)
}

var owners = []string{"alice", "bob", "carol", "", "dave", "erin", "\x00", "frank"}

// fill makes up a batch.
func (d *differ) fill(b *headgate.Batch) {
	op := headgate.Take
	if n := d.rng.IntN(100); n >= 65 {
		op = []headgate.Op{
			headgate.Peek, headgate.Peek, headgate.Peek, headgate.Refund, headgate.Debit,
			headgate.Release, headgate.Renew, headgate.Reset, headgate.Settle, headgate.Settle, headgate.Settle,
		}[(n-65)%11]
	}
	b.Reset(op)
	b.Hold = uint64(d.rng.IntN(5))
	if b.Hold > 0 && d.rng.IntN(3) == 0 {
		b.HoldFor = 1 + d.rng.Int64N([]int64{ms.Microseconds(), sec.Microseconds(), time.Minute.Microseconds(), (24 * time.Hour).Microseconds()}[d.rng.IntN(4)])
	}
	if d.rng.IntN(4) == 0 {
		b.MaxDelay = 1 + d.rng.Int64N(2*sec.Microseconds())
	}
	switch {
	case (op == headgate.Settle || op == headgate.Renew) && len(d.held) > 0 && d.rng.IntN(5) > 0:
		p := d.held[d.rng.IntN(len(d.held))]
		b.Hold = p.hold
		d.again(b, p)
		return
	case op == headgate.Take && len(d.keyed) > 0 && d.rng.IntN(10) == 0:
		p := d.keyed[d.rng.IntN(len(d.keyed))]
		b.Reset(op)
		b.Key = p.key
		b.Key.Print += uint64(d.rng.IntN(5)) / 4
		d.again(b, p)
		return
	}
	if d.rng.IntN(6) == 0 {
		b.Key = headgate.RequestKey{ID: [2]uint64{d.rng.Uint64N(1 << 40), 7}, Print: 1}
		d.add(b, d.keys, 0)
	}
	if f := &d.families[len(d.families)-1]; f.mixed && d.rng.IntN(8) == 0 {
		switch op {
		case headgate.Refund, headgate.Release, headgate.Renew, headgate.Settle:
			b.Op = headgate.Take
		}
		b.HoldFor = 0
		d.add(b, f, 1+d.rng.Int64N(10))
		return
	}
	charges := 1
	if d.rng.IntN(2) == 0 {
		charges += d.rng.IntN(4)
	}
	if d.rng.IntN(50) == 0 {
		charges = headgate.MaxCharges - 1
	}
	for range charges {
		cost := int64(1)
		switch n := d.rng.IntN(20); {
		case n == 0:
			cost = 0
		case n == 1:
			cost = d.rng.Int64N(40)
		case n == 2:
			cost = d.rng.Int64N(3_000_000)
		case n < 10:
			cost = 1 + d.rng.Int64N(6)
		}
		d.add(b, &d.families[d.rng.IntN(len(d.families)-1)], cost)
	}
}

// add adds a charge, unless the batch has that budget under other numbers.
func (d *differ) add(b *headgate.Batch, f *family, cost int64) {
	c := headgate.Charge{
		Limit:  f.limits[0],
		Owner:  owners[d.rng.IntN(len(owners))],
		Cost:   cost * d.unit,
		Shadow: d.rng.IntN(12) == 0,
		Parent: d.rng.IntN(8) == 0,
	}
	c.Parent = c.Parent || d.apart && c.Owner == ""
	if d.rng.IntN(10) == 0 || f.mixed {
		c.Limit = f.limits[d.rng.IntN(len(f.limits))]
	}
	for _, other := range b.Charges() {
		if other.Limit.ID == c.Limit.ID && other.Owner == c.Owner {
			return
		}
	}
	if _, err := b.Add(c); err != nil {
		d.Fatal(err)
	}
}

// show describes a batch for a report.
func (d *differ) show(b *headgate.Batch) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%v hold %d for %d, delay %d, key %v:", b.Op, b.Hold, b.HoldFor, b.MaxDelay, b.Key)
	for _, c := range b.Charges() {
		l := c.Limit
		fmt.Fprintf(&s, "\n  %s %v %d/%v burst %d slices %d ttl %v owner %q cost %d shadow %v parent %v",
			l.Name, l.Algorithm, l.Count, l.Period, l.Burst, l.Slices, l.TTL, c.Owner, c.Cost, c.Shadow, c.Parent)
	}
	return s.String()
}
