package algo_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// TestNeedAsksForRoomOnlyWhenFull: a log or a set of holds grows by doubling
// when all its entries count, and not while one of them has run out or shares
// an instant with the next.
func TestNeedAsksForRoomOnlyWhenFull(t *testing.T) {
	for _, limit := range []headgate.Limit{headgate.Log(100, 10*sec), headgate.InFlight(100, 10*sec)} {
		l := prepare(t, limit)
		t.Run(l.Name, func(t *testing.T) {
			b := newBudget(l, epoch, false)
			words := len(b.st)
			steps := []struct {
				at     time.Duration
				before bool // whether Need asks for more before the take
			}{
				{0, false}, {1 * sec, false}, // two entries
				{2 * sec, true}, {3 * sec, false}, // four
				{10 * sec, false}, // one has run out: its place is taken
				{10500 * ms, true},
			}
			for i, s := range steps {
				now := epoch + micros(s.at)
				if more := algo.Need(&algo.Call{Now: now, Cost: 1}, l, b.st) > len(b.st); more != s.before {
					t.Fatalf("take %d: Need asks for more: %v, want %v", i, more, s.before)
				}
				if !b.apply(headgate.Take, now, 1, uint64(i+1)).Allowed {
					t.Fatalf("take %d was refused", i)
				}
			}
			if len(b.st) <= words {
				t.Fatalf("%d words did not grow", words)
			}
		})
	}
	l := prepare(t, headgate.Log(100, 10*sec))
	b := newBudget(l, epoch, false)
	words := len(b.st)
	for range 100 {
		b.apply(headgate.Take, epoch, 1, 0)
	}
	if len(b.st) != words {
		t.Errorf("100 charges of one instant took %d words, want %d", len(b.st), words)
	}
}

// TestPackable: the word of a packed bucket must hold ten years of its rate.
func TestPackable(t *testing.T) {
	const tenYears = 10 * 365 * 24 * 3600 * 1_000_000
	for _, at := range []int64{0, tenYears, -tenYears} {
		if !algo.PackedRange(at) {
			t.Errorf("%d is out of range", at)
		}
	}
	for _, at := range []int64{tenYears + 1, -tenYears - 1} {
		if algo.PackedRange(at) {
			t.Errorf("%d is in range", at)
		}
	}
	fastest := int64(1<<62) / tenYears
	for _, tt := range []struct {
		l    headgate.Limit
		want bool
	}{
		{headgate.Per(fastest, time.Microsecond), true},
		{headgate.Per(fastest+1, time.Microsecond), false},
		{headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second}, false},
		{headgate.Window(1, time.Second), false},
	} {
		if got := algo.Packable(prepare(t, tt.l)); got != tt.want {
			t.Errorf("%v of %d: packable %v, want %v", tt.l.Algorithm, tt.l.Count, got, tt.want)
		}
	}
	// At the edge of both, a drained bucket with all its debt still counts.
	l := prepare(t, headgate.Per(fastest, time.Microsecond).WithBurst(headgate.MaxInt-fastest))
	var o headgate.Outcome
	x := algo.PackedApply(headgate.Debit, l, algo.Pack(l, l.Cap, tenYears), tenYears, headgate.MaxInt, &o)
	if got, want := algo.PackedLevel(l, x, tenYears), l.Cap-headgate.MaxInt; got != want || o.Overage != -want {
		t.Errorf("level %d, want %d: %s", got, want, show(o))
	}
}
