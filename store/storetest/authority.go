package storetest

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// RunAuthority checks what an authority must do beside what a store must, each
// rule on one of its own that open returns, on the terms of [algo.DefaultTerms].
func RunAuthority(t *testing.T, open func(t *testing.T) headgate.Authority, c Capabilities) {
	run(t, func(t *testing.T) headgate.Store { return open(t) }, c, slices.Concat(grantRules(), reportRules(), outRules(), marketRules()))
}

// leased lists the algorithms of which tokens are leased.
var leased = []headgate.Algorithm{headgate.TokenBucket, headgate.FixedWindow, headgate.SlidingWindow, headgate.Quota}

// lessee is a holder of the tests: what it was told last.
type lessee struct {
	id    [2]uint64
	limit *headgate.Prepared
	owner string
	last  headgate.LeaseReply
}

func lesseeOf(n uint64, l *headgate.Prepared) *lessee {
	return &lessee{id: [2]uint64{n, ^n}, limit: l, owner: "alice"}
}

// report is its next request, cumulative but for want.
func (h *lessee) report(settled, returned, want int64) headgate.LeaseRequest {
	return headgate.LeaseRequest{
		Limit: h.limit, Owner: h.owner, Holder: h.id, Epoch: h.last.Epoch, Window: h.last.Window,
		Granted: h.last.Granted, Settled: settled, Returned: returned, Want: want, Min: 1,
	}
}

// acquire sends requests, at the instant of the next batch.
func (w *world) acquire(requests ...headgate.LeaseRequest) []headgate.LeaseReply {
	w.Helper()
	if w.now != 0 && len(requests) > 0 {
		w.do(headgate.Peek, theirs(requests[0].Owner, requests[0].Limit, 0))
	}
	replies := make([]headgate.LeaseReply, len(requests))
	if err := w.store.(headgate.Authority).Acquire(w.Context(), requests, replies); err != nil {
		w.Fatalf("acquire: %v", err)
	}
	return replies
}

// lend has the holder report and ask, expects the standing, and of one that is OK
// the cumulative grant.
func (w *world) lend(h *lessee, settled, returned, want int64, status headgate.LeaseStatus, granted int64) headgate.LeaseReply {
	w.Helper()
	got := w.acquire(h.report(settled, returned, want))[0]
	if got.Status != status || got.Granted != granted {
		w.Fatalf("%v: settled %d, returned %d, want %d of %+v:\n got %+v\nwant status %d, granted %d", h.limit.Name, settled, returned, want, h.last, got, status, granted)
	}
	if status == headgate.LeaseOK {
		h.last = got
	}
	return got
}

// stands expects what a Peek and the reply say of the holder's budget.
func (w *world) stands(h *lessee, got headgate.LeaseReply, used int64, out bool) {
	w.Helper()
	w.used(theirs(h.owner, h.limit, 0), used)
	if o := w.do(headgate.Peek, theirs(h.owner, h.limit, 0)).Outcomes()[0]; o.Leased != out {
		w.Fatalf("%s: leased %v, want %v", h.limit.Name, o.Leased, out)
	}
	capacity := h.limit.Count
	if h.limit.Algorithm == headgate.TokenBucket {
		capacity = h.limit.Burst
	}
	if o := got.State; o.Used != used || o.Leased != out || o.Limit != capacity || o.Remaining != max(0, o.Limit-used) {
		w.Fatalf("%s: the reply's state is %+v, want %d used, leased %v", h.limit.Name, o, used, out)
	}
}

// spacious returns a limit of n tokens of each algorithm, of which none comes
// back while a test runs.
func spacious(t testing.TB, a headgate.Algorithm, n int64) *headgate.Prepared {
	return slow(t, a, "spacious-"+a.String(), n)
}

func grantRules() []rule {
	return []rule{
		{name: "grants are charged", why: "what a holder may spend is charged before it can", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				got := w.lend(h, 0, 0, 300, headgate.LeaseOK, 300)
				w.stands(h, got, 300, true)
				if bucket := a == headgate.TokenBucket; got.TTL != sec || got.Epoch == 0 || got.Holders != 1 ||
					bucket != (got.WindowLeft == 0) || bucket != (got.Count == 0) || bucket && got.Window != 0 {
					w.Errorf("%v: %+v", a, got)
				}
				w.passes(take, ours(h.limit, 4700))
				w.refuses(take, ours(h.limit, 1))
			}
		}},
		{name: "at most a fifth is out", why: "a refusal is early by what is out", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				w.lend(h, 0, 0, 900, headgate.LeaseOK, 900)
				w.lend(h, 0, 0, 900, headgate.LeaseOK, 1000)
				w.lend(h, 0, 0, 900, headgate.LeaseOK, 1000)
				w.lend(h, 400, 0, 900, headgate.LeaseOK, 1400)
			}
		}},
		{name: "nothing is leased near the limit", why: "there every request asks the authority, and a refusal is exact", check: func(w *world) {
			for _, a := range leased {
				h, other := lesseeOf(1, spacious(w, a, 5000)), lesseeOf(2, spacious(w, a, 5000))
				w.passes(take, ours(h.limit, 4300))
				w.lend(h, 0, 0, 900, headgate.LeaseOK, 100)     // half of 700 less a tenth
				w.lend(other, 0, 0, 900, headgate.LeaseOK, 25)  // and of that one of two
				w.lend(other, 25, 0, 900, headgate.LeaseOK, 43) // and so on
				r := other.report(43, 0, 900)
				r.Min = 15
				if got := w.acquire(r)[0]; got.Granted != 43 || got.Status != headgate.LeaseOK {
					w.Errorf("%v: 14 are too few: %+v", a, got)
				}
			}
		}},
		{name: "small limits are never leased", why: "a thousandth must not be hoarded", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 999))
				w.stands(h, w.lend(h, 0, 0, 1, headgate.LeaseOK, 0), 0, false)
			}
		}},
		{name: "what has an order or an end is never leased", why: "a lease of it would reorder it, or outlive it", check: func(w *world) {
			for _, l := range []headgate.Limit{
				{Name: "leaky", Algorithm: headgate.LeakyBucket, Count: 5000, Period: time.Hour},
				headgate.Sliding(5000, time.Hour).WithSlices(1).WithName("classic"), headgate.Log(5000, time.Hour).WithName("log"),
				headgate.InFlight(5000, time.Hour).WithName("slots"), {Name: "keys", Algorithm: headgate.Idempotency, Count: 64},
			} {
				h := lesseeOf(1, prepare(w, l))
				w.stands(h, w.lend(h, 0, 0, 1, headgate.LeaseOK, 0), 0, false)
				h.last.Granted = 5
				w.lend(h, 0, 0, 1, headgate.LeaseUnknownHolder, 0)
			}
		}},
		{name: "a soft quota is always leased", why: "it refuses nothing", check: func(w *world) {
			l := slow(w, headgate.Quota, "soft", 1000).Limit
			l.Soft = true
			h := lesseeOf(1, prepare(w, l))
			w.passes(take, ours(h.limit, 3000))
			got := w.lend(h, 0, 0, 9000, headgate.LeaseOK, 9000)
			w.stands(h, got, 12000, true)
		}},
		{name: "of a ban the word is leased", why: "a banned owner is refused before everything, also by leases", check: func(w *world) {
			h := lesseeOf(1, slow(w, headgate.Ban, "ban", 2))
			empty := spacious(w, headgate.FixedWindow, 1)
			got := w.lend(h, 0, 0, 70, headgate.LeaseOK, 70)
			if !got.State.Allowed || got.Holders != 1 || got.State.Leased {
				w.Errorf("not banned: %+v", got)
			}
			w.lend(h, 9, 0, 5, headgate.LeaseOK, 75)
			w.passes(take, ours(empty, 1))
			for range 2 {
				w.refuses(take, ours(empty, 1), ours(h.limit, 1))
			}
			if got = w.lend(h, 9, 0, 5, headgate.LeaseOK, 75); got.State.Allowed || got.State.RetryAfter == 0 {
				w.Errorf("banned: %+v", got)
			}
		}},
		{name: "requests of one call stand for themselves", why: "one that fails must not keep others from their tokens", check: func(w *world) {
			l := spacious(w, headgate.TokenBucket, 5000)
			a, b, c := lesseeOf(1, l), lesseeOf(2, spacious(w, headgate.Quota, 2000)), lesseeOf(3, l)
			b.owner, c.owner = "", "bob"
			b.last.Granted = 4
			got := w.acquire(a.report(0, 0, 100), b.report(0, 0, 100), c.report(0, 0, 200))
			if got[0].Granted != 100 || got[0].State.Used != 100 || got[1].Status != headgate.LeaseStale || got[2].Granted != 200 || got[2].State.Used != 200 {
				w.Errorf("%+v", got)
			}
			w.used(theirs("", b.limit, 0), 0)
			w.acquire()
		}},
	}
}

func reportRules() []rule {
	return []rule{
		{name: "an answer is given again", why: "messages are lost and repeated: a grant must reach its holder, and once", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				first := h.report(0, 0, 200)
				for range 3 {
					if got := w.acquire(first)[0]; got.Granted != 200 || got.Status != headgate.LeaseOK {
						w.Errorf("%v: the same request again: %+v", a, got)
					}
				}
				w.used(ours(h.limit, 0), 200)
				h.last = w.acquire(first)[0]
				second := h.report(150, 50, 100)
				w.lend(h, 150, 50, 100, headgate.LeaseOK, 300)
				for _, r := range []headgate.LeaseRequest{second, first, second} {
					if got := w.acquire(r)[0]; got.Granted != 300 || got.State.Used != 250 {
						w.Errorf("%v: %+v again: %+v", a, r, got)
					}
				}
			}
		}},
		{name: "what is returned is credited once", why: "and what is spent or dropped never", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				w.lend(h, 0, 0, 500, headgate.LeaseOK, 500)
				w.stands(h, w.lend(h, 100, 40, 0, headgate.LeaseOK, 500), 460, true)
				w.stands(h, w.lend(h, 100, 40, 0, headgate.LeaseOK, 500), 460, true)
				w.stands(h, w.lend(h, 90, 10, 0, headgate.LeaseOK, 500), 460, true) // late
				w.stands(h, w.lend(h, 500, 200, 0, headgate.LeaseOK, 500), 300, false)
				w.passes(take, ours(h.limit, 4700))
			}
		}},
		{name: "nobody returns more than was granted", why: "no message may mint, whoever wrote it", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				w.passes(take, ours(h.limit, 1000))
				w.lend(h, 0, 0, 100, headgate.LeaseOK, 100)
				w.stands(h, w.lend(h, 10_000, 10_000, 0, headgate.LeaseOK, 100), 1000, false)
				w.stands(h, w.lend(h, 20_000, 20_000, -5, headgate.LeaseOK, 100), 1000, false)
				w.stands(h, w.lend(h, -7, -7, 0, headgate.LeaseOK, 100), 1000, false)
			}
		}},
		{name: "an unknown holder begins anew", why: "taken at its word it would be credited what was credited before", check: func(w *world) {
			for _, a := range leased {
				h, known := lesseeOf(1, spacious(w, a, 5000)), lesseeOf(2, spacious(w, a, 5000))
				w.lend(known, 0, 0, 10, headgate.LeaseOK, 10)
				h.last = known.last
				h.last.Granted = 200
				w.stands(h, w.lend(h, 200, 200, 50, headgate.LeaseUnknownHolder, 0), 10, true)
				known.last.Granted = 11
				w.stands(h, w.lend(known, 11, 11, 50, headgate.LeaseUnknownHolder, 0), 10, true)
			}
		}},
		{name: "another epoch or window is stale", why: "what was granted there is void here", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				w.lend(h, 0, 0, 100, headgate.LeaseOK, 100)
				was := h.last
				h.last.Epoch++
				got := w.lend(h, 100, 100, 50, headgate.LeaseStale, 0)
				if w.stands(h, got, 100, true); got.Epoch != was.Epoch || got.Window != was.Window {
					w.Errorf("%v: it does not say what is current: %+v", a, got)
				}
				h.last = was
				h.last.Window--
				w.stands(h, w.lend(h, 100, 100, 50, headgate.LeaseStale, 0), 100, true)
			}
		}},
		{name: "a lease that is not renewed is lost", why: "its holder may have spent it: only the rate brings it back", travels: true, check: func(w *world) {
			h, other := lesseeOf(1, prepare(w, headgate.PerSecond(100).WithBurst(2000))), lesseeOf(2, nil)
			other.limit = h.limit
			w.lend(h, 0, 0, 400, headgate.LeaseOK, 400)
			w.at(1500*ms - us)
			if o := w.do(peek, ours(h.limit, 1601)).Outcomes()[0]; !o.Leased || o.Remaining != 1600 || o.RetryAfter != 10*ms+us {
				w.Errorf("held: %+v", o)
			}
			w.at(1500 * ms)
			if got := w.lend(other, 0, 0, 0, headgate.LeaseOK, 0); got.State.Leased || got.State.Used != 400 || got.Holders != 1 {
				w.Errorf("forgotten: %+v", got)
			}
			w.stands(h, w.lend(h, 400, 400, 0, headgate.LeaseUnknownHolder, 0), 400, false)
			w.at(3500 * ms)
			w.used(ours(h.limit, 0), 200)
		}},
		{name: "a bucket does not refill for what was out", why: "what is reported spent may have been spent just now", travels: true, check: func(w *world) {
			h := lesseeOf(1, prepare(w, headgate.PerSecond(1000).WithBurst(1000)))
			w.lend(h, 0, 0, 200, headgate.LeaseOK, 200)
			w.at(sec)
			w.stands(h, w.lend(h, 200, 0, 0, headgate.LeaseOK, 200), 200, false)
			w.at(1100 * ms)
			w.used(ours(h.limit, 0), 100)
		}},
		{name: "a lease dies with its window", why: "or what was charged to one is spent in the next", travels: true, check: func(w *world) {
			for _, k := range []struct {
				limit headgate.Limit
				end   time.Duration
			}{
				{headgate.Window(5000, 10*sec).WithName("window"), 10 * sec},
				{headgate.Sliding(5000, 100*sec).WithName("sliding"), 20 * sec},
				{headgate.QuotaPer(5000, headgate.Hour).WithName("quota"), time.Hour},
			} {
				l, end := k.limit, k.end
				h := lesseeOf(1, prepare(w, l))
				w.at(end - 500*ms)
				first := w.lend(h, 0, 0, 300, headgate.LeaseOK, 300)
				if first.WindowLeft != 500*ms || first.Count != 300 {
					w.Errorf("%s: %+v", l.Name, first)
				}
				w.at(end)
				got := w.acquire(h.report(300, 300, 10))[0]
				if got.Status != headgate.LeaseStale || got.Window <= first.Window || got.Count != 0 || got.State.Leased {
					w.Errorf("%s: in the next: %+v", l.Name, got)
				}
				used := int64(0)
				if l.Algorithm == headgate.SlidingWindow {
					used = 300
				}
				w.used(ours(h.limit, 0), used)
				next := lesseeOf(2, h.limit)
				w.lend(next, 0, 0, 10, headgate.LeaseOK, 10)
			}
		}},
	}
}

func outRules() []rule {
	return []rule{
		{name: "no call can name what is out", why: "names of holds come from clients", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				w.lend(h, 0, 0, 200, headgate.LeaseOK, 200)
				for _, op := range []headgate.Op{headgate.Settle, headgate.Release, headgate.Renew, take} {
					b := w.batch(op, ours(h.limit, 0))
					b.Hold, b.HoldFor = algo.LeaseHold, micros(sec)
					w.apply(b)
				}
				w.do(headgate.Refund, ours(h.limit, 5000))
				w.stands(h, w.lend(h, 150, 100, 0, headgate.LeaseOK, 200), 100, true)
			}
		}},
		{name: "reservations and leases do not meet", why: "both are escrow of one budget", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				b := w.batch(take, ours(h.limit, 1000))
				b.Hold, b.HoldFor = 9, micros(time.Hour)
				w.apply(b)
				w.lend(h, 0, 0, 300, headgate.LeaseOK, 300)
				w.stands(h, w.lend(h, 100, 0, 0, headgate.LeaseOK, 300), 1300, true)
				w.held(headgate.Settle, 9, ours(h.limit, 400))
				w.stands(h, w.lend(h, 300, 200, 0, headgate.LeaseOK, 300), 500, false)
			}
		}},
		{name: "a reset leaves what is out held", why: "or it could be spent twice at once", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				w.passes(take, ours(h.limit, 2000))
				w.lend(h, 0, 0, 300, headgate.LeaseOK, 300)
				b := w.do(headgate.Reset, ours(h.limit, 0))
				if o := b.Outcomes()[0]; !b.Allowed || o.Used != 300 || !o.Leased {
					w.Errorf("%v: reset: %+v", a, o)
				}
				w.stands(h, w.lend(h, 300, 300, 0, headgate.LeaseOK, 300), 0, false)
				w.do(headgate.Reset, ours(h.limit, 0))
				w.used(ours(h.limit, 0), 0)
			}
		}},
		{name: "what is out stays held under other numbers", why: "and can be returned where it still means the same", check: func(w *world) {
			for _, a := range leased {
				h := lesseeOf(1, spacious(w, a, 5000))
				w.lend(h, 0, 0, 900, headgate.LeaseOK, 900)
				h.limit = spacious(w, a, 2000)
				w.used(ours(h.limit, 0), 900)
				w.stands(h, w.lend(h, 900, 600, 0, headgate.LeaseOK, 900), 300, false)
			}
		}},
		{name: "leases of other windows are void", why: "they were charged to one that no longer counts", check: func(w *world) {
			wide := headgate.Limit{Name: "w", Algorithm: headgate.FixedWindow, Count: 5000, Period: headgate.MaxPeriod}
			h := lesseeOf(1, prepare(w, wide))
			w.lend(h, 0, 0, 900, headgate.LeaseOK, 900)
			wide.Period /= 2
			h.limit = prepare(w, wide)
			w.used(ours(h.limit, 0), 900)
			if o := w.do(peek, ours(h.limit, 0)).Outcomes()[0]; o.Leased {
				w.Errorf("%+v", o)
			}
			h.last.Window = w.acquire(h.report(900, 900, 0))[0].Window
			w.stands(h, w.lend(h, 900, 900, 0, headgate.LeaseUnknownHolder, 0), 900, false)
		}},
	}
}

func marketRules() []rule {
	return []rule{
		{name: "many holders and takes", why: "whoever asks whom, what passes is what the limit has", check: func(w *world) {
			for _, a := range leased {
				market(w, spacious(w, a, 5000))
			}
		}},
		{name: "a closed authority grants nothing", why: "whoever closes it may have taken its state elsewhere", check: func(w *world) {
			h := lesseeOf(1, spacious(w, headgate.TokenBucket, 5000))
			w.lend(h, 0, 0, 100, headgate.LeaseOK, 100)
			if err := w.store.Close(); err != nil {
				w.Fatal(err)
			}
			var reply [1]headgate.LeaseReply
			err := w.store.(headgate.Authority).Acquire(w.Context(), []headgate.LeaseRequest{h.report(0, 0, 100)}, reply[:])
			if headgate.CodeOf(err) != headgate.Closed {
				w.Errorf("error %v, replies %+v", err, reply)
			}
		}},
	}
}

// market has several holders and others spend a limit to the last token, at once.
func market(w *world, l *headgate.Prepared) {
	const holders, others = 6, 4
	var spent atomic.Int64
	var all sync.WaitGroup
	authority := w.store.(headgate.Authority)
	w.do(headgate.Peek, ours(l, 0)) // a manual clock is told before anybody asks for leases
	takeOne := func() bool {
		b := w.batch(take, ours(l, 1))
		if err := w.store.Apply(w.Context(), b); err != nil {
			w.Error(err)
			return false
		}
		if b.Allowed {
			spent.Add(1)
		}
		return b.Allowed
	}
	for n := range uint64(holders) {
		all.Go(func() {
			h := lesseeOf(n+1, l)
			settled := int64(0)
			for {
				// It spends all but a tenth, and returns that.
				left := h.last.Granted - settled
				returned := h.last.Granted / 10
				spent.Add(left - (returned - settled/10))
				settled = h.last.Granted
				var reply [1]headgate.LeaseReply
				r := h.report(settled, returned, 100)
				r.Min = 5
				if err := authority.Acquire(w.Context(), []headgate.LeaseRequest{r}, reply[:]); err != nil {
					w.Error(err)
					return
				}
				if reply[0].Status != headgate.LeaseOK {
					w.Errorf("%v: %+v", l.Name, reply[0])
					return
				}
				more := reply[0].Granted - settled
				if h.last = reply[0]; more == 0 {
					break
				}
			}
			for takeOne() {
			}
		})
	}
	for range others {
		all.Go(func() {
			for takeOne() {
			}
		})
	}
	all.Wait()
	if n := spent.Load(); n > l.Count {
		w.Errorf("%v: %d spent of %d", l.Algorithm, n, l.Count)
	}
	// What came back late is there for whoever asks last.
	for takeOne() {
	}
	if n := spent.Load(); n != l.Count && !w.Failed() {
		w.Errorf("%v: %d spent of %d when nobody wanted more", l.Algorithm, n, l.Count)
	}
}

func micros(d time.Duration) int64 { return d.Microseconds() }
