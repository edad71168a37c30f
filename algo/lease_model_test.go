package algo_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// lessee is what a client of the test remembers.
type lessee struct {
	id                [2]uint64
	last              headgate.LeaseReply
	settled, returned int64
	floor, window     int64
}

// leasing is a budget under random requests, and its model.
type leasing struct {
	r       *rand.Rand
	impl    *authority
	model   *refAuthority
	now     int64
	ids     uint64
	lessees [4]lessee
	sent    []headgate.LeaseRequest
	lines   []string
	seen    map[string]int
}

func newLeasing(r *rand.Rand) *leasing {
	count := 1 + r.Int64N([]int64{30, 3000, 1 << 40}[r.IntN(3)])
	period := time.Duration(12*(1+r.Int64N([]int64{1000, 1_000_000, 1 << 40}[r.IntN(3)]))) * time.Microsecond
	var limit headgate.Limit
	switch r.IntN(5) {
	case 0:
		limit = headgate.Window(count, period)
	case 1:
		limit = headgate.Sliding(count, period).WithSlices([]int{2, 3, 4, 6, 12}[r.IntN(5)])
	case 2:
		limit = headgate.QuotaPer(count, headgate.Hour)
		limit.Soft = r.IntN(3) == 0
	default:
		limit = headgate.Limit{Count: count, Period: period, Burst: 1 + r.Int64N(2*count)}
	}
	l, err := limit.Prepare()
	if err != nil { // too large to be exact
		if l, err = headgate.PerMinute(1 + count%5000).WithBurst(1 + count%3000).Prepare(); err != nil {
			panic(err)
		}
	}
	s := &leasing{r: r, now: epoch + r.Int64N(1<<40), seen: map[string]int{}}
	terms := algo.Terms{
		TTL: 1 + r.Int64N(l.Period.Microseconds()+1_000_000), Grace: r.Int64N(1_000_000), Least: 1 + r.Int64N(100),
		Floor: 1 + r.Int64N(20), PerHolder: r.Int64N(10), Out: 1 + r.Int64N(6), Holders: 2 + r.IntN(4),
	}
	s.impl = &authority{l: l, e: headgate.Epoch{ID: 1 + r.Uint64N(3)}, terms: terms}
	s.model = newRefAuthority(l, terms, s.impl.e)
	s.note("%s\n%+v\nstart at %d, epoch %d", describe(l), terms, s.now, s.impl.e.ID)
	return s
}

func (s *leasing) note(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *leasing) history() string {
	return strings.Join(slices.Concat(s.lines[:1], s.lines[max(1, len(s.lines)-30):]), "\n")
}

// step moves the clock, and asks for something.
func (s *leasing) step() error {
	l, r := s.impl.l, s.r
	unit, whole := scales(l)
	switch r.IntN(20) {
	case 0:
		s.now += r.Int64N(min(1<<42, 2*whole) + 2)
	case 1:
		s.now += s.impl.terms.TTL + s.impl.terms.Grace - int64(r.IntN(3))
	case 2, 3, 4:
		s.now += r.Int64N(min(1<<40, 2*unit) + 2)
	case 5, 6:
		s.now += r.Int64N(s.impl.terms.TTL + 1)
	case 7:
		s.now -= r.Int64N(min(whole, s.impl.terms.TTL) + 1)
	case 8:
		if r.IntN(20) == 0 {
			// Not before an instant that the earlier clock has shown, or a wait may be
			// shorter than told: its record runs out where it does not go on.
			s.now = max(s.now, s.model.at, s.impl.e.Since)
			s.impl.e = headgate.Epoch{ID: s.impl.e.ID + 1, Since: s.now + r.Int64N(2*s.impl.terms.TTL)}
			s.model.epoch = s.impl.e
			s.note("%d: epoch %+v", s.now, s.impl.e)
		}
	}
	var err error
	if r.IntN(4) == 0 {
		cost := pick(r, []int64{0, 1, s.model.limit(), r.Int64N(s.model.limit() + 2)})
		s.note("%d: take %d", s.now, cost)
		retry := s.impl.call(algo.Call{Op: peek, Now: s.now, Cost: cost})
		err = s.waits(cost, retry)
		o := s.impl.call(algo.Call{Now: s.now, Cost: cost})
		if allowed := s.model.take(s.now, cost); err == nil && o.Allowed != allowed {
			err = fmt.Errorf("allowed=%v, model %v", o.Allowed, allowed)
		}
		s.seen[fmt.Sprint("take ", o.Allowed)]++
	} else {
		err = s.ask()
	}
	if err != nil {
		return err
	}
	return s.compare(s.impl.call(algo.Call{Op: peek, Now: s.now}))
}

// waits checks a wait by its definition.
func (s *leasing) waits(cost int64, o headgate.Outcome) error {
	if o.Allowed || o.Never {
		return nil
	}
	at := s.now + o.RetryAfter.Microseconds()
	if o.RetryAfter <= 0 || at > 1<<60 || s.model.passes(at-1, cost) || !s.model.passes(at, cost) {
		return fmt.Errorf("%d is to wait %v: passes then %v, before %v", cost, o.RetryAfter, s.model.passes(at, cost), s.model.passes(at-1, cost))
	}
	return nil
}

// ask sends a request of one of the holders, or an old or false one.
func (s *leasing) ask() error {
	r, n := s.r, s.r.IntN(len(s.lessees))
	h := &s.lessees[n]
	if h.id == [2]uint64{} || r.IntN(30) == 0 {
		s.ids++
		*h = lessee{id: holder(s.ids)}
	}
	h.settled += r.Int64N(h.last.Granted - h.settled + 1)
	if r.IntN(3) == 0 {
		d := r.Int64N(h.last.Granted - h.settled + 1)
		h.settled, h.returned = h.settled+d, h.returned+d
	}
	req := report(h.id, h.last, h.settled, h.returned, r.Int64N(pick(r, []int64{1, 10, 2*s.model.limit() + 1})))
	req.Min, req.Floor, req.FloorWindow = r.Int64N(req.Want+2), h.floor, h.window
	honest := true
	switch r.IntN(8) {
	case 0:
		if len(s.sent) > 0 {
			req, honest = s.sent[max(0, len(s.sent)-1-r.IntN(20))], false
		}
	case 1:
		honest = false
		for _, p := range []*int64{&req.Granted, &req.Settled, &req.Returned, &req.Want, &req.Floor, &req.Window} {
			if r.IntN(3) == 0 {
				*p += r.Int64N(2*s.model.limit()+2) - s.model.limit()
			}
		}
	default:
		s.sent = append(s.sent, req)
	}
	s.note("%d: %+v", s.now, req)
	was := s.model.clone()
	want, changed := s.model.acquire(&req, s.now)
	// The wait in the reply is that of the model as it stands after the request.
	req.Limit = s.impl.l
	b := s.impl.b.Clone()
	var got headgate.LeaseReply
	if moved := b.Acquire(&req, s.now, s.impl.e, &s.impl.terms, &got); moved != changed {
		return fmt.Errorf("changed=%v, model %v", moved, changed)
	}
	o := got.State
	got.State = headgate.Outcome{}
	if got != want {
		return fmt.Errorf("got %+v\nwant %+v", got, want)
	}
	cost := max(0, req.Min)
	s.seen[fmt.Sprint("status ", want.Status)]++
	if want.Granted > req.Granted {
		s.seen["granted"]++
	}
	if honest && r.IntN(6) > 0 { // else the reply is lost
		if want.Status != headgate.LeaseOK {
			s.ids++
			*h = lessee{id: holder(s.ids)}
		}
		h.last, h.floor, h.window = want, want.Count, want.Window
		h.last.Granted = max(h.settled, want.Granted)
	}
	if o.Allowed != s.model.passes(s.now, cost) {
		return fmt.Errorf("of %d, state %s", cost, show(o))
	}
	if err := s.waits(cost, o); err != nil {
		return err
	}
	if err := s.compare(o); err != nil {
		return err
	}
	if changed {
		s.impl.b = b
	} else {
		s.model = was
	}
	return nil
}

// compare holds an outcome against the model as it stands.
func (s *leasing) compare(o headgate.Outcome) error {
	m := s.model.clone()
	m.touch(s.now)
	want := counted(m.used(), m.limit())
	if o.Limit != want.Limit || o.Used != want.Used || o.Remaining != want.Remaining || o.Overage != want.Overage {
		return fmt.Errorf("%s, model %s", show(o), show(want))
	}
	if leased := m.out > 0; o.Leased != leased {
		return fmt.Errorf("leased=%v, model %v", o.Leased, leased)
	}
	if o.Leased {
		s.seen["leased"]++
	}
	return nil
}

const leasingSteps = 300

// TestAcquireModel runs random requests, honest, repeated, late and false ones,
// and takes beside them, through a Budget and through the model.
func TestAcquireModel(t *testing.T) {
	seen := map[string]int{}
	for i := range uint64(600) {
		s := newLeasing(rand.New(rand.NewPCG(41, i)))
		for range leasingSteps {
			if err := s.step(); err != nil {
				t.Fatalf("session %d: %v\n%s", i, err, s.history())
			}
		}
		for k, n := range s.seen {
			seen[k] += n
		}
	}
	t.Log(seen)
	for what, least := range map[string]int{
		"take true": 20_000, "take false": 8000, "status 0": 50_000, "status 1": 10_000, "status 2": 3000, "granted": 10_000, "leased": 50_000,
	} {
		if seen[what] < least {
			t.Errorf("%s: only %d", what, seen[what])
		}
	}
}

// FuzzAcquire reads terms, a limit and requests out of bytes.
func FuzzAcquire(f *testing.F) {
	r := rand.New(rand.NewPCG(4, 5))
	for range 12 {
		data := make([]byte, 600)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		source := &bytesSource{data: data}
		s := newLeasing(rand.New(source))
		for n := 0; len(source.data) > 0 && n < leasingSteps; n++ {
			if err := s.step(); err != nil {
				t.Fatalf("%v\n%s", err, s.history())
			}
		}
	})
}
