package memstore

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// Whatever a key without room is asked, the outcome says that it shares; that of
// a key with a cell of its own never does.
func TestOutcomesSayWhoShares(t *testing.T) {
	for _, limit := range []headgate.Limit{
		headgate.PerHour(10), headgate.Sliding(10, time.Hour), headgate.Log(10, time.Hour), headgate.InFlight(10, time.Hour),
	} {
		t.Run(limit.Algorithm.String(), func(t *testing.T) {
			s := New(Config{MaxBytes: minBytes, Shards: 1})
			now := s.Now()
			l, filler := mustPrepare(t, limit.WithName("limit")), mustPrepare(t, headgate.PerHour(9).WithName("filler"))
			same, less := mustPrepare(t, limit.WithName("limit")), limit
			less.Count, less.Burst = 5, 0
			other := mustPrepare(t, less.WithName("limit"))
			early := headgate.Charge{Limit: l, Owner: "early", Cost: 1}
			var b headgate.Batch
			shared := func(what string, op headgate.Op, want bool, charges ...headgate.Charge) {
				t.Helper()
				b.Reset(op)
				b.Now, b.Hold = now, 1
				for _, c := range charges {
					if _, err := b.Add(c); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Apply(t.Context(), &b); err != nil {
					t.Fatal(err)
				}
				if got := b.Outcomes()[0].Shared; got != want {
					t.Errorf("%s: shared %v, want %v", what, got, want)
				}
			}
			shared("new", headgate.Take, false, early)
			fill(t, s, filler, now)
			a, z := sharers(t, s, l)
			late := headgate.Charge{Limit: l, Owner: a, Cost: 1}
			stranger := headgate.Charge{Limit: l, Owner: z, Cost: 1}
			shared("nobody shares yet", headgate.Peek, false, late)
			for range 2 {
				shared("take", headgate.Take, true, late)
				shared("own take", headgate.Take, false, early)
			}
			for _, op := range []headgate.Op{headgate.Peek, headgate.Refund, headgate.Debit, headgate.Release, headgate.Renew, headgate.Settle} {
				shared("stand-in, "+op.String(), op, true, stranger)
				shared("own, "+op.String(), op, false, early)
			}
			shared("batch", headgate.Take, true, late, early)
			stranger.Cost = 10
			shared("refused", headgate.Take, true, stranger)
			shared("refused batch", headgate.Take, true, stranger, early)
			stranger.Limit = same
			shared("same numbers", headgate.Peek, true, stranger)
			stranger.Limit = other
			shared("other numbers", headgate.Peek, true, stranger)
			early.Limit = other
			shared("own, other numbers", headgate.Peek, false, early)
			shared("forgotten", headgate.Reset, false, stranger)
		})
	}
}
