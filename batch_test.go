package headgate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

func TestBatchDecision(t *testing.T) {
	bucket := mustPrepare(t, headgate.PerSecond(10))
	window := mustPrepare(t, headgate.Window(10, time.Minute))
	quota := mustPrepare(t, headgate.QuotaPer(10, headgate.Day))
	soft := mustPrepare(t, headgate.Limit{Algorithm: headgate.Quota, Count: 10, Calendar: headgate.Calendar{Unit: headgate.Month}, Soft: true})
	slots := mustPrepare(t, headgate.InFlight(10, time.Minute))
	ban := mustPrepare(t, headgate.Limit{Algorithm: headgate.Ban, Count: 10, Period: time.Minute, TTL: time.Hour})

	type charge struct {
		headgate.Charge
		o headgate.Outcome
	}
	passes := func(l *headgate.Prepared, cost, remaining int64) charge {
		return charge{headgate.Charge{Limit: l, Cost: cost}, headgate.Outcome{Allowed: true, Limit: 10, Remaining: remaining, Used: 10 - remaining, ResetAfter: time.Duration(remaining) * time.Second}}
	}
	refuses := func(l *headgate.Prepared, retry time.Duration) charge {
		return charge{headgate.Charge{Limit: l, Cost: 1}, headgate.Outcome{Limit: 10, Used: 10, RetryAfter: retry, ResetAfter: 2 * retry}}
	}
	never := func(l *headgate.Prepared) charge {
		c := refuses(l, 0)
		c.o.Never, c.o.Remaining = true, 3
		return c
	}
	shadow := func(c charge) charge { c.Shadow = true; return c }
	delayed := func(c charge, d time.Duration) charge { c.o.Delay = d; return c }
	ok := func(bound int, remaining int64) headgate.Decision {
		return headgate.Decision{Allowed: true, Reason: headgate.OK, Retryable: true, BoundBy: bound, Limit: 10, Remaining: remaining, ResetAfter: time.Duration(remaining) * time.Second}
	}
	no := func(bound int, r headgate.Reason, retry time.Duration) headgate.Decision {
		return headgate.Decision{Reason: r, Retryable: true, BoundBy: bound, Limit: 10, RetryAfter: retry, ResetAfter: 2 * retry}
	}
	can := func(d headgate.Decision, retryable bool, remaining int64) headgate.Decision {
		d.Retryable, d.Remaining = retryable, remaining
		return d
	}
	for _, test := range []struct {
		name    string
		charges []charge
		want    headgate.Decision
	}{
		{"no limit", nil, headgate.Decision{Allowed: true, Reason: headgate.OK, Retryable: true, BoundBy: -1}},
		{"one", []charge{passes(bucket, 1, 4)}, ok(0, 4)},
		{"the fewest remain", []charge{passes(bucket, 1, 4), passes(window, 1, 3), passes(quota, 1, 5)}, ok(1, 3)},
		{"the fewest requests remain", []charge{passes(bucket, 1, 4), passes(window, 3, 8)}, ok(1, 8)},
		{"cost 0 counts as 1", []charge{passes(bucket, 0, 4), passes(window, 2, 10)}, ok(0, 4)},
		{"of equal ones the first", []charge{passes(bucket, 1, 4), passes(window, 1, 4)}, ok(0, 4)},
		{"of equally many requests the fewest tokens", []charge{passes(bucket, 2, 5), passes(window, 2, 4)}, ok(1, 4)},
		{"shadows, bans and soft quotas bind nobody", []charge{shadow(passes(window, 1, 0)), passes(ban, 1, 0), passes(soft, 1, 0), passes(bucket, 1, 4)}, ok(3, 4)},
		{"nothing but those", []charge{shadow(passes(window, 1, 0)), passes(ban, 1, 0), passes(soft, 1, 0)}, headgate.Decision{Allowed: true, Reason: headgate.OK, Retryable: true, BoundBy: -1}},
		{"the longest delay", []charge{delayed(passes(bucket, 1, 4), time.Second), delayed(passes(window, 1, 5), time.Minute)},
			headgate.Decision{Allowed: true, Reason: headgate.OK, Retryable: true, BoundBy: 0, Limit: 10, Remaining: 4, ResetAfter: 4 * time.Second, Delay: time.Minute}},
		{"a shadow that refuses", []charge{shadow(refuses(window, time.Minute)), passes(bucket, 1, 4)}, ok(1, 4)},

		{"bucket", []charge{refuses(bucket, time.Second)}, no(0, headgate.RateLimited, time.Second)},
		{"window", []charge{passes(bucket, 1, 0), refuses(window, time.Second)}, no(1, headgate.RateLimited, time.Second)},
		{"quota", []charge{refuses(quota, time.Second)}, no(0, headgate.QuotaExceeded, time.Second)},
		{"slots", []charge{refuses(slots, time.Second)}, no(0, headgate.ConcurrencyExceeded, time.Second)},
		{"ban", []charge{refuses(ban, time.Second)}, no(0, headgate.Banned, time.Second)},
		{"never", []charge{never(bucket)}, can(no(0, headgate.CostExceedsLimit, 0), false, 3)},
		{"the longest wait binds", []charge{refuses(bucket, time.Second), refuses(window, time.Minute), refuses(slots, time.Second)}, no(1, headgate.ConcurrencyExceeded, time.Minute)},
		{"of equal waits the first", []charge{refuses(window, time.Minute), refuses(bucket, time.Minute)}, no(0, headgate.RateLimited, time.Minute)},
		{"quota outweighs slots and rate", []charge{refuses(bucket, time.Hour), refuses(quota, time.Second), refuses(slots, time.Second)}, no(0, headgate.QuotaExceeded, time.Hour)},
		{"ban outweighs all", []charge{refuses(quota, time.Hour), refuses(ban, time.Second)}, no(0, headgate.Banned, time.Hour)},
		{"never outweighs waits and binds", []charge{refuses(quota, time.Hour), never(bucket), refuses(slots, time.Second)}, can(no(1, headgate.CostExceedsLimit, 0), false, 3)},
		{"ban and never", []charge{refuses(ban, time.Hour), never(bucket)}, can(no(1, headgate.Banned, 0), false, 3)},
		{"shadows do not refuse", []charge{shadow(never(quota)), refuses(bucket, time.Second)}, no(1, headgate.RateLimited, time.Second)},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b headgate.Batch
			b.Reset(headgate.Take)
			b.Allowed = true
			for _, c := range test.charges {
				i, err := b.Add(c.Charge)
				if err != nil {
					t.Fatal(err)
				}
				b.Outcomes()[i] = c.o
				b.Allowed = b.Allowed && (c.o.Allowed || c.Shadow)
			}
			if got := b.Decision(); got != test.want {
				t.Errorf("\n got %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestBatchAdd(t *testing.T) {
	l := mustPrepare(t, headgate.PerSecond(10).WithName("limit"))
	same, other := mustPrepare(t, l.Limit), mustPrepare(t, headgate.PerSecond(11).WithName("limit"))
	charge := func(l *headgate.Prepared, owner string, cost int64) headgate.Charge {
		return headgate.Charge{Limit: l, Owner: owner, Cost: cost}
	}
	var b headgate.Batch
	add := func(c headgate.Charge, index int, code headgate.Code) {
		t.Helper()
		before := len(b.Charges())
		i, err := b.Add(c)
		if i != index && err == nil || headgate.CodeOf(err) != code {
			t.Fatalf("index %d, error %v; want %d, code %v", i, err, index, code)
		}
		if err != nil && len(b.Charges()) != before {
			t.Fatal("a refused charge was added")
		}
	}
	add(charge(l, "a", 3), 0, headgate.Unknown)
	add(charge(l, "b", 1), 1, headgate.Unknown)
	add(charge(same, "a", 4), 0, headgate.Unknown)
	if c := b.Charges(); len(c) != 2 || c[0].Cost != 7 || c[1].Cost != 1 {
		t.Fatalf("%+v", c)
	}
	add(charge(other, "a", 1), 0, headgate.InvalidRequest)
	add(charge(other, "c", 1), 2, headgate.Unknown)
	add(charge(l, "d", -1), 0, headgate.InvalidRequest)
	add(charge(l, "d", headgate.MaxInt+1), 0, headgate.InvalidRequest)
	add(charge(l, "d", headgate.MaxInt), 3, headgate.Unknown)
	add(charge(l, "d", 1), 0, headgate.InvalidRequest)
	for i := 4; i < headgate.MaxCharges; i++ {
		add(charge(l, string(rune('a'+i)), 0), i, headgate.Unknown)
	}
	add(charge(l, "one too many", 1), 0, headgate.InvalidRequest)
	add(charge(l, "b", 1), 1, headgate.Unknown)
	if len(b.Charges()) != headgate.MaxCharges || len(b.Outcomes()) != headgate.MaxCharges {
		t.Fatalf("%d charges, %d outcomes", len(b.Charges()), len(b.Outcomes()))
	}
	b.Now, b.Hold, b.Allowed, b.At = 1, 2, true, 3
	b.Reset(headgate.Peek)
	if b.Op != headgate.Peek || b.Now != 0 || b.Hold != 0 || b.Allowed || b.At != 0 || len(b.Charges()) != 0 {
		t.Fatalf("after Reset: %v %d %d %v %d", b.Op, b.Now, b.Hold, b.Allowed, b.At)
	}
}

// A merged charge is a shadow, or a parent's, only if both were.
func TestBatchAddMergesFlags(t *testing.T) {
	l := mustPrepare(t, headgate.PerSecond(10))
	for _, a := range []bool{false, true} {
		for _, other := range []bool{false, true} {
			var b headgate.Batch
			for _, f := range []bool{a, other} {
				if _, err := b.Add(headgate.Charge{Limit: l, Cost: 1, Shadow: f, Parent: f}); err != nil {
					t.Fatal(err)
				}
			}
			if c := b.Charges()[0]; c.Shadow != (a && other) || c.Parent != (a && other) {
				t.Errorf("%v and %v: shadow %v, parent %v", a, other, c.Shadow, c.Parent)
			}
		}
	}
}

// TestBatchRoom: a batch with room holds more than one request's charges, in one
// order, and is an ordinary one again after a reset.
func TestBatchRoom(t *testing.T) {
	limit := mustPrepare(t, headgate.PerSecond(10))
	var b headgate.Batch
	fill := func() (n int) {
		for {
			if _, err := b.Add(headgate.Charge{Limit: limit, Owner: string(rune('a' + n)), Cost: 1}); err != nil {
				if headgate.CodeOf(err) != headgate.InvalidRequest {
					t.Fatalf("full batch: %v", err)
				}
				return n
			}
			n++
		}
	}
	b.Room(headgate.MaxCharges + 1)
	if n := fill(); n != headgate.MaxCharges+1 {
		t.Errorf("a batch with room for %d holds %d", headgate.MaxCharges+1, n)
	}
	if c := b.Charges()[headgate.MaxCharges]; c.Owner != string(rune('a'+headgate.MaxCharges)) || len(b.Outcomes()) != len(b.Charges()) {
		t.Errorf("last charge %+v, %d outcomes for %d charges", c, len(b.Outcomes()), len(b.Charges()))
	}
	b.Reset(headgate.Take)
	if n := fill(); n != headgate.MaxCharges {
		t.Errorf("after a reset %d charges fit, want %d", n, headgate.MaxCharges)
	}
	b.Reset(headgate.Take)
	b.Room(headgate.MaxRoom + 1)
	if n := fill(); n != headgate.MaxRoom {
		t.Errorf("%d charges fit, at most %d may", n, headgate.MaxRoom)
	}
}

// TestBatchResetForgets: nothing of a reservation or an idempotency key stays.
func TestBatchResetForgets(t *testing.T) {
	b := headgate.Batch{
		Now: 1, Hold: 2, HoldFor: 3, MaxDelay: 4, Key: headgate.RequestKey{ID: [2]uint64{5, 6}, Print: 7},
		Replayed: true, Allowed: true, At: 8,
	}
	b.Reset(headgate.Settle)
	if b.Op != headgate.Settle || b.Now != 0 || b.Hold != 0 || b.HoldFor != 0 || b.MaxDelay != 0 ||
		b.Key != (headgate.RequestKey{}) || b.Replayed || b.Allowed || b.At != 0 {
		t.Errorf("after a reset: %+v", b)
	}
}

func TestOpString(t *testing.T) {
	for op, want := range map[headgate.Op]string{
		headgate.Take: "take", headgate.Peek: "peek", headgate.Refund: "refund", headgate.Debit: "debit",
		headgate.Release: "release", headgate.Renew: "renew", headgate.Reset: "reset", headgate.Settle: "settle", 200: "op(200)",
	} {
		if got := op.String(); got != want {
			t.Errorf("%d is %q, want %q", uint8(op), got, want)
		}
	}
}

func TestBatchValidate(t *testing.T) {
	longest := headgate.MaxHold.Microseconds()
	for _, test := range []struct {
		name  string
		set   func(*headgate.Batch)
		field string // at fault, "" for none
	}{
		{"empty", func(*headgate.Batch) {}, ""},
		{"longest hold", func(b *headgate.Batch) { b.Hold, b.HoldFor = 1, longest }, ""},
		{"a Peek needs no name", func(b *headgate.Batch) { b.Op, b.HoldFor = headgate.Peek, 1 }, ""},
		{"hold too long", func(b *headgate.Batch) { b.Hold, b.HoldFor = 1, longest+1 }, "ttl"},
		{"hold below 0", func(b *headgate.Batch) { b.Hold, b.HoldFor = 1, -1 }, "ttl"},
		{"hold without a name", func(b *headgate.Batch) { b.HoldFor = 1 }, "ttl"},
		{"delay below 0", func(b *headgate.Batch) { b.MaxDelay = -1 }, "max_delay"},
	} {
		b := new(headgate.Batch)
		test.set(b)
		err := b.Validate()
		if (err != nil) != (test.field != "") {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if e, ok := errors.AsType[*headgate.Error](err); err != nil && (!ok || e.Code != headgate.InvalidRequest || e.Field != test.field) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
