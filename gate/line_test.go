package gate_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// line is a gate in a bubble of fake time, and the requests that wait in it.
type line struct {
	*testing.T
	gate  *gate.Gate
	began time.Time
	all   sync.WaitGroup
}

// inLine plays f, and fails if a line, a waiter or a goroutine is left behind.
func inLine(t *testing.T, policy string, f func(l *line)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(policy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
		if err != nil {
			t.Fatal(err)
		}
		l := &line{T: t, gate: g, began: time.Now()}
		f(l)
		l.all.Wait()
		if g.LinesForTest() != 0 || g.Waiting() != 0 {
			t.Errorf("%d lines and %d waiters are left", g.LinesForTest(), g.Waiting())
		}
	})
}

// at returns how long the bubble has lived.
func (l *line) at() time.Duration { return time.Since(l.began) }

// until lets everybody act up to an instant.
func (l *line) until(at time.Duration) {
	<-time.After(at - l.at())
	synctest.Wait()
}

// answer is what became of a request that may have waited.
type answer struct {
	allowed bool
	reason  headgate.Reason
	waited  time.Duration
	at      time.Duration
	err     error
}

// ask decides r in the background, and returns when it stands in line or is
// decided. The answer is there once all have ended.
func (l *line) ask(ctx context.Context, r gate.Request) *answer {
	a := new(answer)
	l.all.Go(func() {
		var d gate.Decision
		a.err = l.gate.Take(ctx, &r, &d)
		a.allowed, a.reason, a.waited, a.at = d.Allowed, d.Reason, d.Waited, l.at()
		if a.err != nil {
			a.allowed = false
		}
	})
	synctest.Wait()
	return a
}

func (l *line) used(r gate.Request) int64 {
	l.Helper()
	var d gate.Decision
	if err := l.gate.Peek(l.Context(), &r, &d); err != nil {
		l.Fatal(err)
	}
	return d.Limits()[0].Used
}

// waiting is a request of subject that may wait.
func waiting(subject string, wait time.Duration) gate.Request {
	return gate.Request{Application: "a", Operation: "x", Subject: subject, MaxWait: wait, MaxWaitSaid: true}
}

// slow is a policy with one bucket that nobody may wait for unless he says so.
func slow(rate string) string {
	return "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: " + rate + ", burst: 1}]}]}}\n"
}

func passes(at time.Duration) answer { return answer{true, headgate.OK, at, at, nil} }

// A hundred requests pass one after the other, each at the instant at which the
// bucket has its token, in the order in which they came.
func TestLineIsFIFO(t *testing.T) {
	inLine(t, slow("1/s"), func(l *line) {
		var answers []*answer
		for range 101 {
			answers = append(answers, l.ask(l.Context(), waiting("s", 5*time.Minute)))
		}
		if n := l.gate.Waiting(); n != 100 {
			t.Errorf("%d wait, want 100", n)
		}
		l.all.Wait()
		for i, a := range answers {
			if want := passes(time.Duration(i) * time.Second); *a != want {
				t.Errorf("request %d: %+v, want %+v", i, *a, want)
			}
		}
	})
}

// Subjects do not wait for each other, and who may not wait is not held up.
func TestLinesAreApart(t *testing.T) {
	inLine(t, slow("1/10s"), func(l *line) {
		l.ask(l.Context(), waiting("s", 0))
		waits := l.ask(l.Context(), waiting("s", time.Minute))
		other, not := l.ask(l.Context(), waiting("t", time.Minute)), l.ask(l.Context(), waiting("s", 0))
		if *other != passes(0) || not.allowed || not.reason != headgate.RateLimited || not.waited != 0 || not.at != 0 {
			t.Errorf("another subject %+v, one that may not wait %+v", *other, *not)
		}
		l.all.Wait()
		if *waits != passes(10*time.Second) {
			t.Errorf("the one in line %+v", *waits)
		}
	})
}

func TestLineDeadlines(t *testing.T) {
	const s = time.Second
	inLine(t, slow("1/10s"), func(l *line) {
		answers := []struct {
			got  *answer
			want answer
			why  string
		}{
			{l.ask(l.Context(), waiting("s", 0)), passes(0), "there is a token"},
			{l.ask(l.Context(), waiting("s", 9*s)), answer{reason: headgate.RateLimited}, "the next token is later than it may wait: refused at once"},
			{l.ask(l.Context(), waiting("s", 10*s)), passes(10 * s), "the token comes at its deadline"},
			{l.ask(l.Context(), waiting("s", 9*s)), answer{reason: headgate.RateLimited}, "the line cannot move before its deadline: refused at once"},
			{l.ask(l.Context(), waiting("s", 25*s)), passes(20 * s), "the next token"},
			{l.ask(l.Context(), waiting("s", 15*s)), answer{reason: headgate.WaitTimeout, waited: 15 * s, at: 15 * s}, "it never comes to be first"},
			{l.ask(l.Context(), waiting("s", 22*s)), answer{reason: headgate.WaitTimeout, waited: 20 * s, at: 20 * s}, "it is first at 20 s, and knows then that it must fail"},
			{l.ask(l.Context(), waiting("s", 31*s)), passes(30 * s), "whoever gives up is not in the way"},
		}
		l.all.Wait()
		for i, a := range answers {
			if *a.got != a.want {
				t.Errorf("request %d: %+v, want %+v: %s", i, *a.got, a.want, a.why)
			}
		}
	})
}

// Who has a deadline of his own is refused at once if he cannot pass before it.
func TestLineMindsDeadlinesOfCallers(t *testing.T) {
	inLine(t, slow("1/10s"), func(l *line) {
		within := func(d time.Duration) *answer {
			ctx, cancel := context.WithTimeout(l.Context(), d)
			l.Cleanup(cancel)
			return l.ask(ctx, waiting("s", time.Minute))
		}
		first, early := within(time.Second), within(10*time.Second)
		next, behind := within(10*time.Second+10*time.Millisecond), within(15*time.Second)
		l.all.Wait()
		refused := answer{reason: headgate.RateLimited}
		gaveUp := answer{reason: headgate.WaitTimeout, waited: 10 * time.Second, at: 10 * time.Second}
		if *first != passes(0) || *early != refused || *next != passes(10*time.Second) || *behind != gaveUp {
			t.Errorf("%+v, %+v, %+v, %+v", *first, *early, *next, *behind)
		}
	})
}

// The rule's max_wait holds for requests that do not say, the door's bound for
// all, and nothing is said beyond five minutes.
func TestWaitBounds(t *testing.T) {
	const policy = "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, max_wait: 10s, limits: [{name: w, rate: 1/10s, burst: 1}]}]}}\n"
	for _, c := range []struct {
		wait, most time.Duration
		said       bool
		passes     bool
	}{
		{0, 0, false, true},
		{0, 0, true, false},
		{9 * time.Second, 0, true, false},
		{time.Hour, 0, true, true},
		{time.Hour, 9 * time.Second, true, false},
		{0, 9 * time.Second, false, false},
		{0, 10 * time.Second, false, true},
		{-time.Second, 0, true, false},
	} {
		inLine(t, policy, func(l *line) {
			r := waiting("s", c.wait)
			r.MaxWaitSaid, r.WaitCap = c.said, c.most
			l.ask(l.Context(), r)
			a := l.ask(l.Context(), r)
			l.all.Wait()
			if a.allowed != c.passes || c.passes && a.waited != 10*time.Second {
				t.Errorf("%+v: %+v", c, *a)
			}
		})
	}
}

var errGone = errors.New("gone")

// Who hangs up has charged nothing and is not in the way, be he first or not.
func TestLineGivesUp(t *testing.T) {
	inLine(t, slow("1/10s"), func(l *line) {
		l.ask(l.Context(), waiting("s", 0))
		var cancels []context.CancelCauseFunc
		var answers []*answer
		for range 4 {
			ctx, cancel := context.WithCancelCause(l.Context())
			cancels = append(cancels, cancel)
			answers = append(answers, l.ask(ctx, waiting("s", time.Minute)))
		}
		l.until(3 * time.Second)
		cancels[0](errGone) // the first, asleep
		cancels[2](errGone) // one behind
		l.until(4 * time.Second)
		if n := l.gate.Waiting(); n != 2 {
			t.Errorf("%d wait, want 2", n)
		}
		for _, i := range []int{0, 2} {
			if a := answers[i]; !errors.Is(a.err, errGone) || a.at != 3*time.Second {
				t.Errorf("request %d hung up: %+v", i, *a)
			}
		}
		l.all.Wait()
		if *answers[1] != passes(10*time.Second) || *answers[3] != passes(20*time.Second) {
			t.Errorf("the others: %+v and %+v", *answers[1], *answers[3])
		}
		if used := l.used(waiting("s", 0)); used != 1 {
			t.Errorf("%d used, want 1", used)
		}
	})
}

// A leaky bucket lets requests leave at its rate, in order; one that cannot
// leave in time is refused at once and takes no place.
func TestLeakyLine(t *testing.T) {
	const s = time.Second
	const policy = "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, algorithm: leaky_bucket, rate: 1/s, burst: 3}]}]}}\n"
	inLine(t, policy, func(l *line) {
		answers := []struct {
			got  *answer
			want answer
			why  string
		}{
			{l.ask(l.Context(), waiting("s", 10*s)), answer{true, headgate.OK, 0, 0, nil}, "the queue is empty"},
			{l.ask(l.Context(), waiting("s", 10*s)), answer{true, headgate.OK, s, s, nil}, "one is before it"},
			{l.ask(l.Context(), waiting("s", 1500*time.Millisecond)), answer{reason: headgate.RateLimited}, "two are before it, and it may wait for less"},
			{l.ask(l.Context(), waiting("s", 2*s)), answer{true, headgate.OK, 2 * s, 2 * s, nil}, "two are before it"},
			{l.ask(l.Context(), waiting("s", 2500*time.Millisecond)), answer{reason: headgate.RateLimited}, "there is room in a second, and its place is at 3 s"},
			{l.ask(l.Context(), waiting("s", 3*s)), answer{true, headgate.OK, 3 * s, 3 * s, nil}, "a second in line, two in the queue"},
			{l.ask(l.Context(), waiting("s", 10*s)), answer{true, headgate.OK, 4 * s, 4 * s, nil}, "the order stays"},
		}
		l.all.Wait()
		for i, a := range answers {
			if *a.got != a.want {
				t.Errorf("request %d: %+v, want %+v: %s", i, *a.got, a.want, a.why)
			}
		}
	})
}

// What a request waits in line and what a leaky bucket delays it count together,
// also where others came before it through another rule.
func TestLineAndDelayTogether(t *testing.T) {
	const s = time.Second
	const policy = `
version: 1
applications:
  a:
    limits: [{name: w, per: subject, algorithm: leaky_bucket, rate: 1/s, burst: 10}]
    rules: [{name: r, match: {operation: x}, limits: [{name: w, rate: 1/5s, burst: 1}]}, {name: q, match: {operation: y}}]
`
	inLine(t, policy, func(l *line) {
		l.ask(l.Context(), waiting("s", 0))
		late := l.ask(l.Context(), waiting("s", 6*s))
		l.until(4500 * time.Millisecond)
		r := waiting("s", 10*s)
		r.Operation, r.Cost, r.CostSaid = "y", 5, true
		other := l.ask(l.Context(), r)
		l.all.Wait()
		if !other.allowed || other.waited != 0 {
			t.Errorf("the other %+v", *other)
		}
		if want := (answer{reason: headgate.WaitTimeout, waited: 5 * s, at: 5 * s}); *late != want {
			t.Errorf("%+v, want %+v: 4.5 s of delay after 5 s in line are more than 6 s", *late, want)
		}
	})
}

// What shapes without a max_wait is bounded by the door.
func TestLeakyDoorBound(t *testing.T) {
	const policy = "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, algorithm: leaky_bucket, rate: 1/10s, burst: 3}]}]}}\n"
	inLine(t, policy, func(l *line) {
		r := gate.Request{Application: "a", Operation: "x", Subject: "s", WaitCap: 15 * time.Second}
		first, second, third := l.ask(l.Context(), r), l.ask(l.Context(), r), l.ask(l.Context(), r)
		l.all.Wait()
		if !first.allowed || !second.allowed || second.waited != 10*time.Second || third.allowed || third.at != 0 {
			t.Errorf("%+v, %+v, %+v", *first, *second, *third)
		}
	})
}

// A request that hangs up while a leaky bucket delays it leaves its slot and its
// reservation to others at once.
func TestDelayedGivesUp(t *testing.T) {
	const policy = `
version: 1
applications:
  a: {rules: [{name: r, match: {operation: x}, limits: [{name: slots, algorithm: concurrency, max: 2, ttl: 1h}, {name: daily, algorithm: quota, rate: 5/day}, {name: w, algorithm: leaky_bucket, rate: 1/10s, burst: 3}]}]}
`
	for _, reserve := range []bool{false, true} {
		inLine(t, policy, func(l *line) {
			var d gate.Decision
			decide := func(ctx context.Context) error {
				r := waiting("s", time.Minute)
				r.Releases = true
				if reserve {
					return l.gate.Reserve(ctx, &r, time.Hour, &d)
				}
				return l.gate.Take(ctx, &r, &d)
			}
			if err := decide(l.Context()); err != nil || !d.Allowed {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(l.Context())
			time.AfterFunc(5*time.Second, func() { cancel(errGone) })
			if err := decide(ctx); !errors.Is(err, errGone) || l.at() != 5*time.Second {
				t.Errorf("%v at %v", err, l.at())
			}
			r := waiting("s", 0)
			if err := l.gate.Peek(l.Context(), &r, &d); err != nil {
				t.Fatal(err)
			}
			daily := int64(2)
			if reserve {
				daily = 1
			}
			if s := d.Limits(); s[0].Used != 1 || s[1].Used != daily || s[2].Used != 2 {
				t.Errorf("reserve %v: %d slots, %d of the day, %d in the queue; want 1, %d, 2", reserve, s[0].Used, s[1].Used, s[2].Used, daily)
			}
		})
	}
}

// Who brings an instant waits by his own clock: he is told the delay.
func TestNowDoesNotWait(t *testing.T) {
	g := open(t, "version: 1\napplications: {a: {rules: [{name: r, match: {operation: x}, max_wait: 2s, limits: [{name: w, algorithm: leaky_bucket, rate: 1/s, burst: 5}]}]}}\n")
	for i := range 4 {
		var d gate.Decision
		if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "s", Now: origin}, &d); err != nil {
			t.Fatal(err)
		}
		if i < 3 && (!d.Allowed || d.Delay != time.Duration(i)*time.Second || d.Waited != 0) || i == 3 && (d.Allowed || d.RetryAfter != time.Second || d.Delay != 0) {
			t.Errorf("request %d: %+v waited %v", i, d.Decision, d.Waited)
		}
	}
}

// A hundred streams share twenty slots: never more are in flight, each ends, and
// nothing leaks.
func TestStreams(t *testing.T) {
	const policy = `
version: 1
applications:
  a:
    rules: [{name: r, match: {operation: x}, limits: [{name: slots, per: application, algorithm: concurrency, max: 20, ttl: 10s}, {name: tokens, unit: tokens, per: application, algorithm: quota, rate: 100000/day}]}]
`
	inLine(t, policy, func(l *line) {
		var flying, most, passed, refused atomic.Int64
		for i := range 100 {
			l.all.Go(func() {
				var d gate.Decision
				for round := range 5 {
					r := waiting("s", time.Minute)
					r.Costs = map[string]int64{"tokens": 100}
					if err := l.gate.Reserve(l.Context(), &r, 10*time.Second, &d); err != nil {
						t.Error(err)
						return
					}
					if !d.Allowed {
						refused.Add(1)
						continue
					}
					passed.Add(1)
					ticket := string(d.AppendTicket(nil))
					n := flying.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					<-time.After(time.Duration(1+(i+round)%7) * time.Second)
					flying.Add(-1)
					c := gate.Claim{Ticket: ticket, Costs: map[string]int64{"tokens": 10}}
					if err := l.gate.Settle(l.Context(), &c, &d); err != nil || !d.Held {
						t.Errorf("settle: held %v, %v", d.Held, err)
					}
				}
			})
		}
		l.all.Wait()
		if most.Load() != 20 || passed.Load()+refused.Load() != 500 || passed.Load() < 100 {
			t.Errorf("at most %d were in flight, want 20; %d passed and %d were refused", most.Load(), passed.Load(), refused.Load())
		}
		var d gate.Decision
		r := waiting("s", 0)
		r.Costs = map[string]int64{"tokens": 1}
		if err := l.gate.Peek(l.Context(), &r, &d); err != nil {
			t.Fatal(err)
		}
		if s := d.Limits(); s[0].Used != 0 || s[1].Used != 10*passed.Load() {
			t.Errorf("after all: %d slots and %d tokens used of %d streams", s[0].Used, s[1].Used, passed.Load())
		}
	})
}

// What a client that crashed held is free when its time is over, and the charge
// stays.
func TestCrashedStreams(t *testing.T) {
	const policy = `
version: 1
applications:
  a: {rules: [{name: r, match: {operation: x}, limits: [{name: slots, algorithm: concurrency, max: 2, ttl: 1h}, {name: daily, algorithm: quota, rate: 5/day}]}]}
`
	inLine(t, policy, func(l *line) {
		var d gate.Decision
		for range 2 {
			r := waiting("s", 0)
			if err := l.gate.Reserve(l.Context(), &r, 10*time.Second, &d); err != nil || !d.Allowed {
				t.Fatal(err)
			}
		}
		ticket := string(d.AppendTicket(nil))
		waits := l.ask(l.Context(), func() gate.Request {
			r := waiting("s", time.Minute)
			r.Releases = true
			return r
		}())
		l.all.Wait()
		if *waits != passes(10*time.Second) {
			t.Errorf("the next %+v", *waits)
		}
		if err := l.gate.Settle(l.Context(), &gate.Claim{Ticket: ticket, CostSaid: true}, &d); err != nil || d.Held {
			t.Errorf("settled late: held %v, %v", d.Held, err)
		}
		if s := d.Limits(); s[0].Used != 1 || s[1].Used != 3 {
			t.Errorf("%d slots and %d of the day used, want 1 and 3", s[0].Used, s[1].Used)
		}
	})
}
