package guard

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// ended lets a call end at an instant, that began then too. It reports whether
// it was made.
func (b *breaker) ended(at time.Duration, r result) bool {
	l, ok := b.allow(at, 0.5)
	if ok {
		b.done(at, l, r, 0.5)
	}
	return ok
}

// Each row is a call that ends as it begins, if the breaker lets it.
func TestBreaker(t *testing.T) {
	type row struct {
		at     time.Duration
		result result
		made   bool
		state  State // afterwards
	}
	const ok, no, gone = succeeded, failed, void
	for name, rows := range map[string][]row{
		"five in a row": {
			{0, ok, true, Closed}, {100 * ms, no, true, Closed}, {101 * ms, no, true, Closed}, {102 * ms, no, true, Closed},
			{103 * ms, no, true, Closed}, {104 * ms, no, true, Open}, {105 * ms, ok, false, Open},
		},
		"a success in between": {
			{0, ok, true, Closed}, {100 * ms, no, true, Closed}, {101 * ms, no, true, Closed}, {102 * ms, no, true, Closed},
			{103 * ms, no, true, Closed}, {104 * ms, ok, true, Closed}, {300 * ms, no, true, Closed},
		},
		"five in a row, but it just worked": {
			{50 * ms, ok, true, Closed}, {60 * ms, no, true, Closed}, {61 * ms, no, true, Closed}, {62 * ms, no, true, Closed},
			{63 * ms, no, true, Closed}, {64 * ms, no, true, Closed}, {149 * ms, no, true, Closed}, {150 * ms, no, true, Open},
		},
		"callers that went away": {
			{0, ok, true, Closed}, {200 * ms, no, true, Closed}, {201 * ms, no, true, Closed}, {202 * ms, no, true, Closed}, {203 * ms, no, true, Closed},
			{204 * ms, gone, true, Closed}, {205 * ms, gone, true, Closed}, {206 * ms, no, true, Open},
		},
		"the probe": {
			{100 * ms, no, true, Closed}, {100 * ms, no, true, Closed}, {100 * ms, no, true, Closed}, {100 * ms, no, true, Closed},
			{100 * ms, no, true, Open}, {599 * ms, ok, false, Open}, {600 * ms, no, true, Open}, {601 * ms, ok, false, Open},
			{1099 * ms, ok, false, Open}, {1100 * ms, gone, true, Open}, {1101 * ms, ok, true, Closed},
			// It starts anew: the old failures are forgotten.
			{1300 * ms, no, true, Closed}, {1301 * ms, no, true, Closed}, {1302 * ms, no, true, Closed}, {1303 * ms, no, true, Closed}, {1304 * ms, no, true, Open},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b breaker
			for i, r := range rows {
				if made := b.ended(r.at, r.result); made != r.made || b.state != r.state {
					t.Fatalf("row %d at %v: made %v, then %v; want %v, %v", i, r.at, made, b.state, r.made, r.state)
				}
			}
		})
	}
}

// Every third call fails: the breaker stays closed, however many come, as the
// calls to the rest of the store are of use. Of every second it opens.
func TestBreakerPart(t *testing.T) {
	for every, want := range map[int]State{3: Closed, 2: Open} {
		var b breaker
		random := rand.New(rand.NewPCG(1, uint64(every)))
		for i := 1; i <= 50_000 && b.state == Closed; i++ {
			r := succeeded
			if random.IntN(every) == 0 {
				r = failed
			}
			b.ended(time.Duration(i)*ms, r)
		}
		if b.state != want {
			t.Errorf("every call in %d fails: %v, want %v", every, b.state, want)
		}
	}
}

// Half of 20 calls in 10 s open it, of 19 or of older ones they do not.
func TestBreakerHalf(t *testing.T) {
	for _, c := range []struct {
		calls int
		apart time.Duration
		want  State
	}{{20, 10 * ms, Open}, {19, 10 * ms, Closed}, {20, 470 * ms, Open}, {200, 600 * ms, Closed}} {
		var b breaker
		for i := range c.calls {
			r := succeeded
			if i%2 == 1 {
				r = failed
			}
			b.ended(time.Duration(i)*c.apart, r)
		}
		if b.state != c.want {
			t.Errorf("%+v: %v", c, b.state)
		}
	}
}

// What calls tell that were made before it opened or closed does not count.
func TestBreakerLate(t *testing.T) {
	var b breaker
	early, _ := b.allow(0, 0.5)
	for range breakRun {
		b.ended(100*ms, failed)
	}
	if b.done(150*ms, early, succeeded, 0.5) || b.state != Open {
		t.Errorf("a call from before it opened has made it %v", b.state)
	}
	probe, ok := b.allow(time.Second, 0.5)
	if !ok || !probe.probe || b.state != HalfOpen {
		t.Fatalf("no probe: %+v, %v", probe, b.state)
	}
	second, ok := b.allow(2*time.Second, 0.5) // the first may never end
	if !ok || !b.done(2*time.Second, second, succeeded, 0.5) || b.state != Closed {
		t.Fatalf("%v after the second probe", b.state)
	}
	for range 100 {
		b.done(3*time.Second, probe, failed, 0.5)
		b.done(3*time.Second, early, failed, 0.5)
	}
	if b.state != Closed || b.run != 0 {
		t.Errorf("%v, %d in a row, by calls from before it closed", b.state, b.run)
	}
}

// Whatever happens, no two probes are closer than 400 ms unless the one before
// told nothing, and none is later than 600 ms after it could be.
func TestBreakerProbes(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var b breaker
	var now, last time.Duration
	for probes := 0; probes < 10_000; {
		now += time.Duration(random.Int64N(int64(20 * ms)))
		was := b
		l, ok := b.allow(now, random.Float64())
		if !ok {
			if now-last > probeEvery+probeSpread {
				t.Fatalf("no probe for %v: %+v", now-last, b)
			}
			continue
		}
		r := failed
		switch {
		case l.probe:
			if probes++; now-last < probeEvery-probeSpread {
				t.Fatalf("probes at %v and %v: %+v", last, now, was)
			}
			last = now
			r = []result{failed, failed, failed, succeeded}[random.IntN(4)]
		case random.IntN(10) == 0:
			r = succeeded
		}
		if b.done(now, l, r, random.Float64()) {
			last = now // when it opened, nothing could be probed
		}
	}
}

func TestBreakerRoom(t *testing.T) {
	var b breaker
	if n := b.room(0, 1024); n != 1024 {
		t.Errorf("%d may be in flight at the start", n)
	}
	for range breakRun {
		b.ended(100*ms, failed)
	}
	b.ended(time.Second, succeeded)
	var got []int
	for at := time.Second; at < 2*time.Second; at += 100 * ms {
		got = append(got, b.room(at, 1024))
		b.ended(at, succeeded)
	}
	if want := []int{8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024}; !slices.Equal(got, want) {
		t.Errorf("in flight each 100 ms after it closed: %v, want %v", got, want)
	}
	for _, at := range []time.Duration{5 * time.Second, 500 * time.Hour} {
		if n := b.room(at, 1024); n != 1024 {
			t.Errorf("%d in flight at %v", n, at)
		}
	}
}

func TestSlow(t *testing.T) {
	for _, c := range []struct {
		took, patience time.Duration
		want           bool
	}{
		{50 * ms, 0, false}, {51 * ms, 0, true}, {51 * ms, 25 * ms, true}, {51 * ms, 60 * ms, true},
		{125 * ms, 250 * ms, false}, {126 * ms, 250 * ms, true},
	} {
		if got := slow(c.took, c.patience); got != c.want {
			t.Errorf("%v of %v: slow %v", c.took, c.patience, got)
		}
	}
}
