package record

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// everyLimit is one limit of every kind, and of kinds whose numbers differ.
func everyLimit(t testing.TB) (all []*headgate.Prepared) {
	t.Helper()
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	rolls := headgate.QuotaPer(1000, headgate.Month).In(paris).AnchoredAt(31)
	rolls.Rollover = 50
	soft := headgate.QuotaPer(5, headgate.Day)
	soft.Soft = true
	for _, l := range []headgate.Limit{
		headgate.PerSecond(10).WithBurst(7), headgate.Per(1_000_003, time.Second).WithBurst(4_000_000_000),
		{Algorithm: headgate.LeakyBucket, Count: 3, Period: time.Minute}, headgate.Window(5, time.Hour),
		headgate.Sliding(8, time.Minute), headgate.Sliding(8, time.Minute).WithSlices(1), headgate.Log(4, time.Second),
		rolls, soft, headgate.QuotaPer(9, headgate.Week).In(time.FixedZone("UTC+5:45", 20700)), headgate.QuotaPer(9, headgate.Hour).In(time.FixedZone("nought", 0)), headgate.InFlight(3, time.Minute),
		{Algorithm: headgate.Ban, Count: 2, Period: time.Minute, TTL: time.Hour}, {Algorithm: headgate.Idempotency, Count: 4},
	} {
		p, err := l.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// randomOwner is an owner some of whose budgets were used, reserved and leased.
func randomOwner(t testing.TB, rng *rand.Rand, now int64) *Owner {
	o := new(Owner)
	e := headgate.Epoch{ID: 1 + rng.Uint64N(1<<53-1)}
	for i, l := range everyLimit(t) {
		if rng.IntN(3) == 0 {
			continue
		}
		b := Budget{ID: [2]uint64{uint64(i), rng.Uint64()}}
		b.Load(l, now, e)
		for range rng.IntN(5) {
			var out headgate.Outcome
			b.Apply(&algo.Call{Op: headgate.Take, Now: now, Cost: rng.Int64N(3), Hold: rng.Uint64N(9), HoldFor: rng.Int64N(2) * 5_000_000}, e, &out)
			now += rng.Int64N(1000)
		}
		if rng.IntN(2) == 0 {
			terms, reply := algo.DefaultTerms, headgate.LeaseReply{}
			terms.Least = 2
			b.Acquire(&headgate.LeaseRequest{Limit: l, Holder: [2]uint64{rng.Uint64(), 1}, Want: 1}, now, e, &terms, &reply)
		}
		b.Keep = rng.Int64N(2) * (now + 1_000_000)
		o.Budgets = append(o.Budgets, b)
	}
	return o
}

func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC).UnixMicro()
	held, leased := 0, 0
	for range 2000 {
		o := randomOwner(t, rng, now)
		at := now + rng.Int64N(10_000_000)
		value := o.Append([]byte("before"), at)
		var got Owner
		if err := got.Decode(value[len("before"):]); err != nil {
			t.Fatal(err)
		}
		var want []Budget
		for _, b := range o.Budgets {
			if at < b.Absent() {
				want = append(want, b)
			}
		}
		if o.Forget(at); !reflect.DeepEqual(o.Budgets, want) && len(want) > 0 || len(o.Budgets) != len(want) {
			t.Fatalf("%d budgets are left of %d", len(o.Budgets), len(want))
		}
		if len(got.Budgets) != len(want) {
			t.Fatalf("%d budgets came back of %d", len(got.Budgets), len(want))
		}
		for i := range want {
			x, y := &got.Budgets[i], &want[i]
			if x.ID != y.ID || !x.Limit.SameNumbers(y.Limit) || x.Keep != y.Keep || x.Epoch != y.Epoch ||
				!reflect.DeepEqual(x.Words, y.Words) || !reflect.DeepEqual(x.Leases, y.Leases) {
				t.Fatalf("%+v came back as %+v", y, x)
			}
			if len(x.Leases) > 0 {
				leased++
			}
			if len(x.Words) > algo.Words(x.Limit) {
				held++
			}
		}
		if got.Find([2]uint64{99, 99}) >= 0 || len(want) > 0 && got.Find(want[len(want)-1].ID) != len(want)-1 {
			t.Fatal("a budget is not where it is")
		}
	}
	if held < 100 || leased < 100 {
		t.Errorf("%d budgets with something held and %d with leases", held, leased)
	}
}

func TestLimitRoundTrip(t *testing.T) {
	for _, l := range everyLimit(t) {
		text := AppendLimit([]byte("before"), &l.Limit)[len("before"):]
		got, err := ReadLimit(text)
		if err != nil || !got.SameNumbers(l) {
			t.Errorf("%+v came back as %+v: %v", l, got, err)
		}
		for n := range text {
			if _, err := ReadLimit(text[:n]); err == nil {
				t.Errorf("%v: %d bytes of %d were read", l.Algorithm, n, len(text))
			}
		}
		if _, err := ReadLimit(append(text, 0)); err == nil {
			t.Errorf("%v: a byte more was read", l.Algorithm)
		}
	}
}

func TestNothingIsNeverSeen(t *testing.T) {
	var o Owner
	if err := o.Decode(nil); err != nil || len(o.Budgets) != 0 {
		t.Errorf("%v %v", o, err)
	}
	if b := o.Append(nil, 0); b != nil {
		t.Errorf("%x", b)
	}
	rng := rand.New(rand.NewPCG(1, 3))
	o = *randomOwner(t, rng, 1_700_000_000_000_000)
	if b := o.Append(nil, o.Absent()); b != nil {
		t.Errorf("a budget is kept when all are absent: %x", b)
	}
	if b := o.Append(nil, o.Absent()-1); b == nil {
		t.Error("a budget is gone before it is absent")
	}
}

// A value that is cut off, goes on, or has a bit that flipped is refused.
func TestDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 4))
	value := randomOwner(t, rng, 1_700_000_000_000_000).Append(nil, 0)
	var o Owner
	for n := 1; n < len(value); n++ {
		if o.Decode(value[:n]) == nil {
			t.Fatalf("%d bytes of %d were read", n, len(value))
		}
	}
	if o.Decode(append(bytes.Clone(value), 0)) == nil {
		t.Error("a byte more was read")
	}
	for i := range value {
		for bit := range 8 {
			bad := bytes.Clone(value)
			bad[i] ^= 1 << bit
			if o.Decode(bad) == nil {
				t.Fatalf("bit %d of byte %d flipped, and was read", bit, i)
			}
		}
	}
	later := bytes.Clone(value)
	later[0] = form + 1
	if err := o.Decode(later); err == nil || !strings.Contains(err.Error(), "form 2") {
		t.Errorf("a later form: %v", err)
	}
}

// sealed returns the value with that body.
func sealed(body []byte) []byte {
	if len(body) == 0 {
		return nil
	}
	value := append([]byte{form, 0, 0, 0, 0}, body...)
	seal(value)
	return value
}

// Whatever a value says, reading it ends.
func FuzzDecode(f *testing.F) {
	for seed := range uint64(8) {
		o := randomOwner(f, rand.New(rand.NewPCG(seed, 5)), 1_700_000_000_000_000)
		f.Add(o.Append(nil, 0)[headBytes:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var o Owner
		if o.Decode(sealed(body)) != nil {
			return
		}
		for i := range o.Budgets {
			if b := &o.Budgets[i]; b.Limit == nil || len(b.Words) < algo.Words(b.Limit) {
				t.Fatalf("%+v was read", b)
			}
		}
	})
}
