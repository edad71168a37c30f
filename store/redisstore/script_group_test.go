package redisstore

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// groupLimits are limits of every kind. Those at odd places are the numbers of the one
// before under a later plan.
func groupLimits(t *testing.T) []*headgate.Prepared {
	soft := func(n int64) headgate.Limit {
		l := headgate.QuotaPer(n, headgate.Hour)
		l.Soft = true
		return l
	}
	var all []*headgate.Prepared
	for i, l := range []headgate.Limit{
		headgate.PerSecond(10).WithBurst(20), headgate.Per(3, 7*time.Second),
		headgate.PerMinute(5), headgate.PerMinute(50),
		headgate.Window(8, 10*time.Second), headgate.Window(5, time.Minute),
		headgate.Sliding(8, 10*time.Second), headgate.Sliding(12, time.Minute).WithSlices(60),
		headgate.QuotaPer(30, headgate.Hour), headgate.QuotaPer(10, headgate.Day),
		headgate.Log(8, 10*time.Second), headgate.Log(30, time.Minute),
		headgate.InFlight(6, 10*time.Second), headgate.InFlight(20, time.Minute),
		{Algorithm: headgate.LeakyBucket, Count: 10, Period: time.Second}, headgate.Sliding(9, time.Minute).WithSlices(1),
		soft(30), soft(9),
		{Algorithm: headgate.Ban, Count: 3, Period: time.Minute, TTL: time.Minute}, {Algorithm: headgate.Ban, Count: 6, Period: time.Minute, TTL: time.Second},
		{Algorithm: headgate.Idempotency, Count: 3}, {Algorithm: headgate.Idempotency, Count: 64},
	} {
		p, err := l.WithName(fmt.Sprint("limit-", i/2)).Prepare()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// randomBatch makes up a batch on a few owners. plain asks for one that needs no engine.
func randomBatch(t *testing.T, rng *rand.Rand, limits []*headgate.Prepared, plain bool) *headgate.Batch {
	b := new(headgate.Batch)
	op := headgate.Take
	if rng.IntN(3) == 0 {
		op = headgate.Peek
	}
	if !plain && rng.IntN(3) == 0 {
		op = headgate.Op(rng.IntN(8))
	}
	b.Reset(op)
	b.Again = rng.IntN(3) == 0
	kinds := len(limits) / 2
	if !plain {
		b.Hold = uint64(rng.IntN(5))
		if b.Hold > 0 && rng.IntN(3) == 0 {
			b.HoldFor = 1 + rng.Int64N(10_000_000)
		}
		if rng.IntN(5) == 0 {
			b.Key = headgate.RequestKey{ID: [2]uint64{rng.Uint64N(5), 7}, Print: rng.Uint64N(8) / 7}
			if _, err := b.Add(headgate.Charge{Limit: limits[len(limits)-2], Owner: "alice"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 1 + rng.IntN(4) {
		kind := rng.IntN(kinds)
		if plain {
			kind = []int{0, 0, 0, 1, 2, 3, 4, 8, 9, 10}[rng.IntN(10)]
		}
		l := limits[2*kind]
		if rng.IntN(30) == 0 {
			l = limits[2*kind+1]
		}
		c := headgate.Charge{
			Limit: l, Owner: []string{"alice", "bob", "", "carol"}[rng.IntN(4)], Cost: rng.Int64N(4),
			Shadow: rng.IntN(10) == 0, Parent: rng.IntN(10) == 0,
		}
		if rng.IntN(20) == 0 {
			c.Cost = rng.Int64N(100)
		}
		if slices.ContainsFunc(b.Charges(), func(o headgate.Charge) bool { return o.Limit.ID == l.ID && o.Owner == c.Owner }) {
			continue
		}
		if _, err := b.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// Calls of one group are decided as the engine decides them one after the other at one
// instant, whether the engine is needed or not.
func TestScriptGroups(t *testing.T) {
	limits := groupLimits(t)
	together, apart := newScriptStore(t, true), newScriptStore(t, true)
	apart.engine = true
	rng := rand.New(rand.NewPCG(*scriptSeed, 3))
	now := time.Now().Truncate(time.Hour).UnixMicro()
	conflicts, fast, allowed, equal, merged := 0, 0, 0, 0, 0
	for n := range *scriptOps / 10 {
		if rng.IntN(3) == 0 {
			now += rng.Int64N(5_000_000)
		}
		if rng.IntN(20) == 0 { // the clock was set back
			now -= rng.Int64N(10_000_000)
		}
		if rng.IntN(100) == 0 { // another incarnation
			together.epoch.ID++
			together.epoch.Since = max(together.epoch.Since, now-rng.Int64N(10_000_000)+2_000_000)
			apart.epoch = together.epoch
		}
		plain := rng.IntN(2) == 0
		batches := make([]*headgate.Batch, 1+rng.IntN(8))
		payloads := make([]*payload, len(batches))
		for i := range batches {
			batches[i] = randomBatch(t, rng, limits, plain)
			if i > 0 && rng.IntN(2) == 0 { // the same again
				batches[i] = duplicate(batches[rng.IntN(i)], nil)
			}
			payloads[i] = new(payload)
			payloads[i].expect(now)
			payloads[i].batch(together.scheme, scriptOp(batches[i].Op), batches[i], 0)
		}
		var g group
		g.fill(together.epoch, now, payloads)
		if g.args[0][0] != modeGeneral {
			fast++
		}
		answers, err := together.group(t.Context(), now, payloads...)
		if err != nil {
			t.Fatal(err)
		}
		order := make([]int, len(batches)) // equal calls follow each other
		for i := range order {
			order[i] = i
			if g.places[i].rank > 0 {
				equal++
			}
			if answers[i].rank > 0 {
				merged++
			}
		}
		slices.SortFunc(order, func(i, j int) int {
			x, y := g.places[i], g.places[j]
			return cmp.Or(cmp.Compare(x.lead, y.lead), cmp.Compare(x.rank, y.rank))
		})
		for _, i := range order {
			b := batches[i]
			other := *b
			other.Now = now
			wantErr := apart.Apply(t.Context(), &other)
			_, err := decodeBatch(answers[i], together.epoch, b)
			if errors.Is(err, errConflict) {
				conflicts++
			} else if b.Allowed {
				allowed++
			}
			if (err == nil) != (wantErr == nil) || b.Allowed != other.Allowed || b.Replayed != other.Replayed || b.Hold != other.Hold || b.At != other.At ||
				!slices.Equal(b.Outcomes(), other.Outcomes()) {
				t.Fatalf("group %d, call %d of %d, %+v: %v %+v\n got %v %v %v %v %+v\nwant %v %v %v %v %+v", n, i, len(batches), g.places[i], b.Op, b.Charges(),
					err, b.Allowed, b.Replayed, b.Hold, b.Outcomes(), wantErr, other.Allowed, other.Replayed, other.Hold, other.Outcomes())
			}
		}
	}
	if conflicts == 0 || fast < *scriptOps/40 || allowed < *scriptOps/20 || merged < *scriptOps/250 || equal-merged < *scriptOps/1000 {
		t.Errorf("%d conflicts, %d groups without the engine, %d calls allowed, %d equal ones, %d of which were decided as one",
			conflicts, fast, allowed, equal, merged)
	}
}

// A key that is no hash, or a server without room, fails a group whole: nothing of it
// is written.
func TestScriptWritesAllOrNothing(t *testing.T) {
	s := newScriptStore(t, false)
	limits := groupLimits(t)
	for _, which := range [][]int{{0}, {0, 4}} { // without the engine, and with it
		charge := func(owner string) *payload {
			b := new(headgate.Batch)
			for _, i := range which {
				if _, err := b.Add(headgate.Charge{Limit: limits[i], Owner: owner, Cost: 1}); err != nil {
					t.Fatal(err)
				}
			}
			p := new(payload)
			p.batch(s.scheme, scriptOp(headgate.Take), b, 0)
			return p
		}
		good, bad := charge("good"), charge("bad")
		do := func(args ...string) any {
			t.Helper()
			answer, err := s.client.Do(t.Context(), s.client.B().Arbitrary(args[0]).Args(args[1:]...).Build()).ToAny()
			if err != nil {
				t.Fatal(err)
			}
			return answer
		}
		do("SET", bad.keys[0], "a string")
		if _, err := s.group(t.Context(), 0, good, bad); err == nil {
			t.Error("a key that is no hash was read")
		}
		do("DEL", bad.keys[0])
		do("CONFIG", "SET", "maxmemory", "1")
		_, err := s.group(t.Context(), 0, good, bad)
		do("CONFIG", "SET", "maxmemory", "0")
		if err == nil {
			t.Error("a full server took a write")
		}
		if n := do("EXISTS", good.keys[0], bad.keys[0]); n != int64(0) {
			t.Errorf("%v hashes were written", n)
		}
	}
}

// What a Take charged on trial can be undone, and then is as if it had never been; what
// nobody undoes stays charged.
func TestScriptUndo(t *testing.T) {
	for _, limits := range [][]*headgate.Prepared{groupLimits(t)} {
		for i := 0; i < len(limits); i += 2 {
			l := limits[i]
			if l.Algorithm == headgate.Idempotency {
				continue // what asks with a key is not undone
			}
			t.Run(l.Algorithm.String(), func(t *testing.T) {
				s := newScriptStore(t, true)
				now := time.Now().Truncate(time.Hour).UnixMicro() + 1_000_000
				one := func(op scriptOp, trial uint64, at, cost int64) *headgate.Batch {
					t.Helper()
					b := new(headgate.Batch)
					b.Reset(headgate.Op(op))
					b.Now, b.At = now, at
					if _, err := b.Add(headgate.Charge{Limit: l, Owner: "alice", Cost: cost}); err != nil {
						t.Fatal(err)
					}
					if err := s.apply(t.Context(), op, b, trial); err != nil {
						t.Fatal(err)
					}
					return b
				}
				look := func() headgate.Outcome { return one(scriptOp(headgate.Peek), 0, 0, 0).Outcomes()[0] }
				one(scriptOp(headgate.Take), 0, 0, 1)
				one(scriptOp(headgate.Reset), 0, 0, 0)
				one(scriptOp(headgate.Take), 0, 0, 1)
				now += 1000
				before := look()
				// On trial, undone later: nothing came back meanwhile that would not have.
				took := one(scriptOp(headgate.Take), 77, 0, 3)
				if !took.Allowed {
					t.Fatalf("%+v", took.Outcomes())
				}
				one(opUndo, 78, took.At, 3) // another's
				if u := look().Used; l.Algorithm != headgate.Ban && u != before.Used+3 {
					t.Fatalf("after another's undo %d are used, want %d more than %d", u, 3, before.Used)
				}
				one(opUndo, 77, took.At, 3)
				one(opUndo, 77, took.At, 3) // and again: it gives back once
				if after := look(); after != before && l.Algorithm != headgate.LeakyBucket {
					t.Errorf("undone on trial:\n got %+v\nwant %+v", after, before)
				}
				// For good, undone by its instant.
				took = one(scriptOp(headgate.Take), 0, 0, 3)
				one(opUndo, 0, took.At, 3)
				after := look()
				switch l.Algorithm {
				case headgate.TokenBucket, headgate.LeakyBucket, headgate.Concurrency:
					if after.Used < before.Used+3 {
						t.Errorf("undone without a name: %+v, before %+v", after, before)
					}
				default:
					if after != before {
						t.Errorf("undone by its instant:\n got %+v\nwant %+v", after, before)
					}
				}
				// What is not undone stays charged when the trial is over, as slots do for
				// their time to live.
				was := look().Used
				took = one(scriptOp(headgate.Take), 79, 0, 1)
				now += 2_000_000
				one(opUndo, 79, took.At, 1)
				switch l.Algorithm {
				case headgate.FixedWindow, headgate.Quota, headgate.SlidingWindow, headgate.SlidingLog:
					if u := look().Used; u != was+1 {
						t.Errorf("%d used after the trial, want %d", u, was+1)
					}
				}
			})
		}
	}
}

// Without a name, nothing is given back to a window that came later, nor what was lost
// with another incarnation.
func TestScriptUndoLate(t *testing.T) {
	s := newScriptStore(t, true)
	l := groupLimits(t)[4]
	now := time.Now().Truncate(time.Hour).UnixMicro()
	apply := func(op scriptOp, at, cost int64) *headgate.Batch {
		t.Helper()
		b := new(headgate.Batch)
		b.Reset(headgate.Op(op))
		b.Now, b.At = now, at
		if _, err := b.Add(headgate.Charge{Limit: l, Owner: "alice", Cost: cost}); err != nil {
			t.Fatal(err)
		}
		if err := s.apply(t.Context(), op, b, 0); err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := apply(scriptOp(headgate.Take), 0, 3).At
	now += 10_000_000
	second := apply(scriptOp(headgate.Take), 0, 2).At
	apply(opUndo, first, 3)
	if u := apply(scriptOp(headgate.Peek), 0, 0).Outcomes()[0].Used; u != 2 {
		t.Errorf("%d used, want 2", u)
	}
	s.epoch.ID, s.epoch.Since = 9, second+1
	apply(opUndo, second, 2)
	if u := apply(scriptOp(headgate.Peek), 0, 0).Outcomes()[0].Used; u != 2 {
		t.Errorf("%d used in another epoch, want 2", u)
	}
	s.epoch.Since = second
	apply(opUndo, second, 5)
	if u := apply(scriptOp(headgate.Peek), 0, 0).Outcomes()[0].Used; u != 0 {
		t.Errorf("%d used, want 0", u)
	}
}

// What a token bucket holds after a change of numbers is at most what doubles count.
func TestScriptEscrowOfMuch(t *testing.T) {
	soft := headgate.QuotaPer(5, headgate.Hour).WithName("much")
	soft.Soft = true
	var limits []*headgate.Prepared
	for _, l := range []headgate.Limit{soft, headgate.PerSecond(10).WithName("much")} {
		p, err := l.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		limits = append(limits, p)
	}
	s := newScriptStore(t, true)
	m := budgetModel{epoch: s.epoch}
	now := time.Now().Truncate(time.Hour).UnixMicro()
	hour := time.Hour.Microseconds()
	for i, step := range []struct {
		op                  headgate.Op
		l                   *headgate.Prepared
		hold                uint64
		holdFor, cost, wait int64
	}{
		{headgate.Take, limits[0], 1, 9 * hour, headgate.MaxInt - 7, hour}, // more than one period holds
		{headgate.Take, limits[0], 2, 8 * hour, 5_000_000_000_000_000, hour},
		{headgate.Take, limits[0], 3, 7 * hour, 7, 1000},
		{headgate.Debit, limits[1], 0, 0, 1, 1000},
		{headgate.Settle, limits[1], 1, 0, 0, 1000},
		{headgate.Settle, limits[1], 2, 0, 4_999_999_999_999_993, 1000},
		{headgate.Peek, limits[1], 0, 0, 1, 7 * hour},
		{headgate.Peek, limits[1], 0, 0, 1, 0},
	} {
		b := new(headgate.Batch)
		b.Reset(step.op)
		b.Now, b.Hold, b.HoldFor = now, step.hold, step.holdFor
		if _, err := b.Add(headgate.Charge{Limit: step.l, Owner: "alice", Cost: step.cost}); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		var want headgate.Outcome
		m.do(b, now, &want)
		if got := b.Outcomes()[0]; got != want {
			t.Fatalf("step %d:\n got %+v\nwant %+v", i, got, want)
		}
		now += step.wait
	}
}

// While one ban holds, nothing counts towards another of the same owner.
func TestScriptTwoBans(t *testing.T) {
	s := newScriptStore(t, false)
	var limits []*headgate.Prepared
	for i, count := range []int64{1, 5} {
		l := headgate.Limit{Name: fmt.Sprint("ban-", i), Algorithm: headgate.Ban, Count: count, Period: time.Hour, TTL: time.Hour}
		p, err := l.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		limits = append(limits, p)
	}
	none, err := headgate.PerHour(1).WithName("none").Prepare()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b := batchOf(t, headgate.Take, headgate.Charge{Limit: none, Owner: "alice", Cost: 1},
			headgate.Charge{Limit: limits[0], Owner: "alice"}, headgate.Charge{Limit: limits[1], Owner: "alice"})
		if err := s.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	b := batchOf(t, headgate.Peek, headgate.Charge{Limit: limits[0], Owner: "alice"}, headgate.Charge{Limit: limits[1], Owner: "alice"})
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if o := b.Outcomes(); o[0].Allowed || o[1].Used != 1 {
		t.Errorf("%+v", o)
	}
}

// Refusals of an incarnation that has just begun count towards no ban: a window that
// is closed until leases have ended, a bucket that is not full again.
func TestScriptRecoveryBansNobody(t *testing.T) {
	s := newScriptStore(t, true)
	start := time.Now().Truncate(time.Hour).UnixMicro()
	s.epoch.Since = start + 1_000_000
	ban := prepare(t, headgate.Limit{Name: "ban", Algorithm: headgate.Ban, Count: 2, Period: time.Hour, TTL: time.Hour})
	for _, test := range []struct {
		limit headgate.Limit
		at    []int64 // microseconds after Since
		want  []int64 // refusals counted by then
	}{
		{headgate.Window(1, 24*time.Hour), []int64{-2, -1, 0, 1}, []int64{0, 0, 1, 2}},
		{headgate.Per(2, 2*time.Second).WithBurst(4), []int64{-2, 0, 3_999_999, 4_000_000}, []int64{0, 0, 0, 1}},
	} {
		l := prepare(t, test.limit.WithName("limit"))
		owner := l.Algorithm.String()
		for i, at := range test.at {
			b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: owner, Cost: 1}, headgate.Charge{Limit: ban, Owner: owner})
			b.Now = s.epoch.Since + at
			if l.Algorithm == headgate.TokenBucket {
				b.Charges()[0].Cost = 4 // all that the bucket ever holds
			}
			for range 2 {
				if err := s.Apply(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			if n := b.Outcomes()[1].Used; n != test.want[i] {
				t.Errorf("%v, %d µs after: %d refusals are counted, want %d", l.Algorithm, at, n, test.want[i])
			}
		}
	}
}
