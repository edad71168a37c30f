package lease_test

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
)

// ttl is the life of a lease here, and lived what a holder makes of it.
const (
	ttl   = 1_024_000
	lived = ttl - 1000
)

// holding is a holder in the hands of a test, who also plays the authority.
type holding struct {
	*testing.T
	*lease.Holder
	limit *headgate.Prepared
	ids   uint64
}

func hold(t *testing.T, l headgate.Limit) *holding {
	return &holding{T: t, Holder: lease.NewHolder([2]uint64{7, 0}), limit: prepare(t, l)}
}

func (h *holding) next() [2]uint64 { h.ids++; return [2]uint64{7, h.ids} }

// report is what the holder tells at now.
func (h *holding) report(now int64) *headgate.LeaseRequest {
	r := &headgate.LeaseRequest{Limit: h.limit}
	h.Report(r, now, h.next())
	if r.Returned > r.Settled || r.Settled > r.Granted || r.Returned < 0 {
		h.Fatalf("the holder reports granted %d, settled %d, returned %d", r.Granted, r.Settled, r.Returned)
	}
	return r
}

// grant is the reply to r that grants n more.
func grant(r *headgate.LeaseRequest, n int64) *headgate.LeaseReply {
	return &headgate.LeaseReply{Epoch: 3, Granted: r.Granted + n, TTL: ttl * time.Microsecond}
}

// windowed is grant in a window that ends left after it is told.
func windowed(r *headgate.LeaseRequest, n, window int64, left time.Duration, count int64) *headgate.LeaseReply {
	p := grant(r, n)
	p.Window, p.WindowLeft, p.Count = window, left, count
	return p
}

func (h *holding) take(cost, now int64, want bool) {
	h.Helper()
	if _, got := h.Lease().Take(cost, now); got != want {
		h.Errorf("take %d at %d: %v, want %v (left %d)", cost, now, got, want, h.Lease().Left())
	}
}

func (h *holding) absorb(r *headgate.LeaseRequest, p *headgate.LeaseReply, sent, now int64, want lease.Effect) {
	h.Helper()
	if got := h.Absorb(r, p, sent, now, h.next()); got != want {
		h.Errorf("reply at %d to what was sent at %d: %+v, want %+v", now, sent, got, want)
	}
}

func (h *holding) counts(now, granted, settled, returned int64) *headgate.LeaseRequest {
	h.Helper()
	r := h.report(now)
	if r.Granted != granted || r.Settled != settled || r.Returned != returned {
		h.Errorf("the holder reports granted %d, settled %d, returned %d; want %d, %d, %d", r.Granted, r.Settled, r.Returned, granted, settled, returned)
	}
	return r
}

func bucket() headgate.Limit { return headgate.PerSecond(10_000) }

func TestNothingIsSpentThatWasNotGranted(t *testing.T) {
	h := hold(t, bucket())
	h.take(0, 1, false)
	h.take(1, 1, false)
	r := h.counts(10, 0, 0, 0)
	h.absorb(r, grant(r, 10), 10, 20, lease.Effect{Granted: 10})
	h.take(11, 20, false)
	h.take(4, 20, true)
	h.take(6, 20, true)
	h.take(1, 20, false)
	h.take(0, 20, true)
	h.counts(30, 10, 10, 0)
}

func TestDeadlineCountsFromSending(t *testing.T) {
	h := hold(t, bucket())
	r := h.report(10)
	h.absorb(r, grant(r, 10), 10, 900_000, lease.Effect{Granted: 10})
	h.take(1, 10+lived-1, true)
	h.take(1, 10+lived, false)
	h.take(0, 10+lived, false)
	// What is left is given back, not lost.
	h.counts(10+lived, 10, 10, 9)
}

func TestLateGrantIsGivenBack(t *testing.T) {
	h := hold(t, bucket())
	r := h.report(10)
	h.absorb(r, grant(r, 10), 10, 10+lived, lease.Effect{Late: 10})
	h.take(1, 10+lived, false)
	h.counts(10+lived, 10, 10, 10)
}

func TestRepeatedAndLateRepliesGrantOnce(t *testing.T) {
	h := hold(t, bucket())
	first := h.report(10)
	h.absorb(first, grant(first, 10), 10, 20, lease.Effect{Granted: 10})
	h.absorb(first, grant(first, 10), 10, 21, lease.Effect{})
	second := h.report(30)
	third := h.report(40)
	h.absorb(third, grant(third, 5), 40, 50, lease.Effect{Granted: 5})
	h.absorb(second, grant(second, 5), 30, 60, lease.Effect{})
	h.counts(70, 15, 0, 0)
	h.take(1, 40+lived-1, true)
	h.take(1, 40+lived, false)
}

func TestReplyWithoutGrantProlongs(t *testing.T) {
	h := hold(t, bucket())
	r := h.report(10)
	h.absorb(r, grant(r, 10), 10, 20, lease.Effect{Granted: 10})
	r = h.report(500_000)
	h.absorb(r, grant(r, 0), 500_000, 500_100, lease.Effect{})
	h.take(1, 10+lived, true)
	h.take(1, 500_000+lived, false)
}

func TestReturnsAreTakenOutFirst(t *testing.T) {
	h := hold(t, bucket())
	r := h.report(10)
	h.absorb(r, grant(r, 10), 10, 20, lease.Effect{Granted: 10})
	h.take(3, 20, true)
	h.Lease().Keep(5)
	h.take(6, 20, false)
	h.counts(30, 10, 5, 2)
	h.Lease().Keep(5)
	h.Lease().Revoke()
	h.take(1, 30, false)
	r = h.counts(40, 10, 10, 7)
	if h.Settled() {
		t.Error("the authority has not heard of it yet")
	}
	h.absorb(r, grant(r, 0), 40, 50, lease.Effect{})
	if !h.Settled() {
		t.Error("the authority knows all")
	}
	if n := h.Spent(); n != 3 {
		t.Errorf("spent %d, want 3", n)
	}
}

func TestStaleOrUnknownHolderBeginsAnew(t *testing.T) {
	for _, status := range []headgate.LeaseStatus{headgate.LeaseStale, headgate.LeaseUnknownHolder} {
		h := hold(t, bucket())
		r := h.report(10)
		h.absorb(r, grant(r, 10), 10, 20, lease.Effect{Granted: 10})
		h.take(2, 20, true)
		old := h.Lease()
		old.Keep(7)
		r = h.report(25)
		h.absorb(r, &headgate.LeaseReply{Status: status, Epoch: 4}, 25, 30, lease.Effect{Void: 8, Anew: true}) // 7 that were left, and 1 on its way back
		h.take(1, 30, false)
		if _, ok := old.Take(1, 30); ok {
			t.Errorf("%v: a lease that is void was spent", status)
		}
		old.Undo(1) // comes to nothing
		fresh := h.counts(40, 0, 0, 0)
		if fresh.Holder == r.Holder || fresh.Epoch != 0 || fresh.Window != 0 {
			t.Errorf("%v: the holder goes on as %v in epoch %d", status, fresh.Holder, fresh.Epoch)
		}
		if n := h.Spent(); n != 2 {
			t.Errorf("%v: spent %d, want 2", status, n)
		}
		// The old id's replies are nothing to the new one.
		h.absorb(r, grant(r, 10), 25, 45, lease.Effect{})
		h.absorb(r, &headgate.LeaseReply{Status: status, Epoch: 4}, 25, 46, lease.Effect{})
		p := grant(fresh, 5)
		p.Epoch = 4
		h.absorb(fresh, p, 40, 50, lease.Effect{Granted: 5})
		h.take(5, 50, true)
	}
}

func TestReplyOfAnotherEpochOrWindowIsIgnored(t *testing.T) {
	h := hold(t, headgate.Window(10_000, time.Minute))
	r := h.report(10)
	again := h.report(11)
	h.absorb(r, windowed(r, 10, 5, time.Second, 10), 10, 20, lease.Effect{Granted: 10})
	h.absorb(again, windowed(again, 20, 6, time.Minute, 20), 11, 30, lease.Effect{})
	r = h.report(40)
	p := windowed(r, 10, 5, time.Second, 20)
	p.Epoch = 9
	h.absorb(r, p, 40, 50, lease.Effect{})
	h.take(11, 60, false)
	h.take(10, 60, true)
}

func TestReplyThatSaysNothing(t *testing.T) {
	h := hold(t, bucket())
	r := h.report(10)
	h.absorb(r, grant(r, 10), 10, 20, lease.Effect{Granted: 10})
	r = h.report(30)
	h.absorb(r, &headgate.LeaseReply{Status: headgate.LeaseUnknownHolder + 1, Granted: 100}, 30, 40, lease.Effect{})
	h.take(10, 10+lived-1, true)
}

func TestWindowEndsTheLease(t *testing.T) {
	h := hold(t, headgate.Window(10_000, time.Minute))
	r := h.report(10)
	h.absorb(r, windowed(r, 10, 5, 102_400*time.Microsecond, 10), 10, 20, lease.Effect{Granted: 10})
	ends := int64(10 + 102_400 - 100)
	h.take(1, ends-1, true)
	h.take(1, ends, false)
	old := r.Holder
	r = new(headgate.LeaseRequest)
	if back, void := h.Report(r, ends, h.next()); back != 0 || void != 9 {
		t.Errorf("the window's end gave %d back and made %d void, want 0 and 9", back, void)
	}
	if r.Holder == old || r.Granted != 0 || r.Window != 0 {
		t.Errorf("the holder goes on as %+v", r)
	}
}

// A later word of when the window ends rules, also if it is earlier.
func TestWindowEndIsTheLatestWord(t *testing.T) {
	h := hold(t, headgate.Window(10_000, time.Minute))
	r := h.report(10)
	h.absorb(r, windowed(r, 10, 5, 30*time.Minute, 10), 10, 20, lease.Effect{Granted: 10}) // the authority's clock was set back
	r = h.report(30)
	h.absorb(r, windowed(r, 10, 5, 1024*time.Microsecond, 20), 30, 40, lease.Effect{Granted: 10})
	h.take(1, 30+1023-1, true)
	h.take(1, 30+1023, false)
}

func TestFloorIsTheHighestCountOfAWindow(t *testing.T) {
	h := hold(t, headgate.Window(10_000, time.Minute))
	floor := func(count, window int64) {
		t.Helper()
		if r := h.report(50); r.Floor != count || r.FloorWindow != window {
			t.Errorf("floor %d in window %d, want %d in %d", r.Floor, r.FloorWindow, count, window)
		}
	}
	floor(0, 0)
	h.Lease().Saw(70, 15) // of no known window
	r := h.report(10)
	h.absorb(r, windowed(r, 10, 5, time.Second, 30), 10, 20, lease.Effect{Granted: 10})
	floor(30, 5)
	h.Lease().Saw(20, 30)
	floor(30, 5)
	h.Lease().Saw(40, 30)
	floor(40, 5)
	h.Lease().Saw(50, 10+1_000_000) // may be another window's
	floor(40, 5)
	// A new epoch knows less: the floor stays.
	r = h.report(50)
	h.absorb(r, &headgate.LeaseReply{Status: headgate.LeaseStale, Epoch: 4, Window: 5, WindowLeft: time.Second, Count: 12}, 50, 60, lease.Effect{Void: 10, Anew: true})
	floor(40, 5)
	r = h.report(50)
	h.absorb(r, &headgate.LeaseReply{Status: headgate.LeaseStale, Epoch: 4, Window: 6, WindowLeft: time.Second, Count: 12}, 50, 60, lease.Effect{Anew: true})
	floor(12, 6)
	h.absorb(r, windowed(r, 0, 5, time.Second, 99), 50, 60, lease.Effect{})
	floor(12, 6)
}

func TestBanIsAWordWithoutTokens(t *testing.T) {
	h := hold(t, headgate.Limit{Algorithm: headgate.Ban, Count: 3, Period: time.Minute, TTL: time.Minute})
	h.take(0, 5, false)
	r := h.report(10)
	r.Want = 1
	h.absorb(r, grant(r, 1), 10, 20, lease.Effect{})
	h.take(0, 20, true)
	h.take(1, 20, false)
	h.take(0, 10+lived, false)
	r = h.counts(500_000, 0, 0, 0)
	r.Want = 1
	h.absorb(r, grant(r, 0), 500_000, 500_010, lease.Effect{})
	h.take(0, 500_010, false)
}

func TestBatchTakesFromAllLeasesOrNone(t *testing.T) {
	a, b := hold(t, bucket()), hold(t, bucket())
	for _, h := range []*holding{a, b} {
		r := h.report(10)
		h.absorb(r, grant(r, 10), 10, 20, lease.Effect{Granted: 10})
	}
	claims := func(x, y int64) []lease.Claim {
		return []lease.Claim{{Lease: a.Lease(), Cost: x}, {Lease: b.Lease(), Cost: y}}
	}
	for _, row := range []struct {
		x, y, now int64
		ok        bool
	}{{4, 11, 20, false}, {11, 4, 20, false}, {4, 5, 20, true}, {6, 5, 10 + lived, false}, {6, 5, 20, true}, {0, 0, 20, true}, {0, 1, 20, false}} {
		c := claims(row.x, row.y)
		if got := lease.TakeAll(c, row.now); got != row.ok {
			t.Errorf("%+v: %v", row, got)
		}
		if row.ok && (c[0].Left != a.Lease().Left() || c[1].Left != b.Lease().Left()) {
			t.Errorf("%+v: left %d and %d", row, c[0].Left, c[1].Left)
		}
	}
	a.counts(30, 10, 10, 0)
	b.counts(30, 10, 10, 0)
}

// What a batch took before another lease refused, which it had found to have
// enough, goes back to the authority. Here it is the batch itself that was faster.
func TestBatchThatFailsHalfwayGivesBack(t *testing.T) {
	h := hold(t, bucket())
	r := h.report(10)
	h.absorb(r, grant(r, 10), 10, 20, lease.Effect{Granted: 10})
	l := h.Lease()
	if lease.TakeAll([]lease.Claim{{Lease: l, Cost: 3}, {Lease: l, Cost: 3}, {Lease: l, Cost: 6}}, 20) {
		t.Error("12 of 10 tokens were taken")
	}
	h.counts(30, 10, 6, 6)
	h.take(5, 30, false)
	h.take(4, 30, true)
}

// What is undone goes back to the authority, so that settled never falls.
func TestUndoNeverUnsettles(t *testing.T) {
	h := hold(t, bucket())
	r := h.report(10)
	h.absorb(r, grant(r, 10), 10, 20, lease.Effect{Granted: 10})
	h.take(4, 20, true)
	h.counts(30, 10, 4, 0)
	h.Lease().Undo(4)
	h.counts(40, 10, 4, 4)
	h.take(7, 40, false)
	h.take(6, 40, true)
	h.counts(50, 10, 10, 4)
}

func TestHolderThatIsForgottenTwice(t *testing.T) {
	h := hold(t, bucket())
	seen := map[[2]uint64]bool{}
	for range 3 {
		r := h.report(10)
		if seen[r.Holder] {
			t.Fatalf("the id %v came again", r.Holder)
		}
		seen[r.Holder] = true
		h.absorb(r, &headgate.LeaseReply{Status: headgate.LeaseUnknownHolder}, 10, 20, lease.Effect{Anew: true})
	}
}
