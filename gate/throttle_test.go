package gate_test

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

const anyPolicy = "version: 1\napplications: {a: {limits: [{name: throttle, per: subject, rate: 1/h}]}}"

// A throttle is a token bucket whose numbers come with each call.
func TestThrottleLedger(t *testing.T) {
	g := open(t, anyPolicy)
	for i, c := range []struct {
		at               time.Duration
		key              string
		count            int64
		period           time.Duration
		burst, cost      int64
		peek, allowed    bool
		limit, remaining int64
		retry            time.Duration
		why              string
	}{
		{0, "k", 5, 1500 * time.Millisecond, 0, 1, false, true, 5, 4, 0, "the burst is the count unless said"},
		{0, "k", 5, 1500 * time.Millisecond, 0, 4, true, true, 5, 4, 0, "peek charges nothing"},
		{0, "k", 5, 1500 * time.Millisecond, 0, 4, false, true, 5, 0, 0, "all of the burst"},
		{0, "k", 5, 1500 * time.Millisecond, 0, 1, false, false, 5, 0, 300 * time.Millisecond, "a token each 300 ms"},
		{0, "k", 5, 1500 * time.Millisecond, 0, 0, false, true, 5, 0, 0, "cost 0 checks"},
		{0, "j", 5, 1500 * time.Millisecond, 0, 1, false, true, 5, 4, 0, "keys are apart"},
		{299 * time.Millisecond, "k", 5, 1500 * time.Millisecond, 0, 1, false, false, 5, 0, time.Millisecond, "a millisecond early"},
		{600 * time.Millisecond, "k", 5, 1500 * time.Millisecond, 0, 1, false, true, 5, 1, 0, "two tokens came"},
		{600 * time.Millisecond, "k", 100, time.Second, 1000, 1, false, true, 1000, 0, 0, "a higher burst gives no tokens away"},
		{600 * time.Millisecond, "k", 100, time.Second, 1000, 1, false, false, 1000, 0, 10 * time.Millisecond, "the new rate counts from now on"},
		{2600 * time.Millisecond, "k", 100, time.Second, 1000, 0, true, true, 1000, 200, 0, "filled at the new rate"},
		{2600 * time.Millisecond, "k", 1, time.Hour, 3, 1, false, true, 3, 2, 0, "a lower burst cuts the level"},
		{2600 * time.Millisecond, "k", 1, time.Hour, 3, 4, false, false, 3, 2, 0, "more than the burst can never pass"},
		{2600 * time.Millisecond, "k", 1, time.Hour, 3, 2, false, true, 3, 0, 0, "all that is left"},
	} {
		var d gate.Decision
		throttle := gate.Throttle{
			Key: c.key, Count: c.count, Period: c.period, Burst: c.burst, Cost: c.cost, Peek: c.peek, Now: origin + c.at.Microseconds(),
		}
		if err := g.Throttle(t.Context(), &throttle, &d); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if d.Allowed != c.allowed || d.Limit != c.limit || d.Remaining != c.remaining || d.RetryAfter != c.retry || d.Retryable != (c.allowed || c.retry > 0) {
			t.Errorf("%d: %+v; want allowed %v, limit %d, remaining %d, retry %v: %s", i, d.Decision, c.allowed, c.limit, c.remaining, c.retry, c.why)
		}
		if d.Subject != c.key || d.Cost != c.cost || d.BoundByID() != "throttle" || len(d.Limits()) != 1 || d.Limits()[0].Unit != "requests" || d.Revision != 1 {
			t.Errorf("%d: subject %q, cost %d, bound by %q, limits %+v", i, d.Subject, d.Cost, d.BoundByID(), d.Limits())
		}
	}
	// Keys are apart from subjects of the same name.
	var d gate.Decision
	if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "k", Now: origin}, &d); err != nil || !d.Allowed {
		t.Errorf("subject k pays for key k: %+v, %v", d.Decision, err)
	}
}

func TestThrottleRefuses(t *testing.T) {
	g := open(t, anyPolicy)
	good := gate.Throttle{Key: "k", Count: 1, Period: time.Second, Cost: 1, Now: origin}
	for _, c := range []struct {
		field  string
		change func(*gate.Throttle)
	}{
		{"key", func(r *gate.Throttle) { r.Key = "" }},
		{"key", func(r *gate.Throttle) { r.Key = strings.Repeat("k", gate.MaxSubject+1) }},
		{"key", func(r *gate.Throttle) { r.Key = "a\nb" }},
		{"key", func(r *gate.Throttle) { r.Key = "a\x00b" }},
		{"rate", func(r *gate.Throttle) { r.Count = 0 }},
		{"rate", func(r *gate.Throttle) { r.Count = -1 }},
		{"rate", func(r *gate.Throttle) { r.Count = math.MaxInt64 }},
		{"rate", func(r *gate.Throttle) { r.Period = 0 }},
		{"rate", func(r *gate.Throttle) { r.Period = -time.Second }},
		{"rate", func(r *gate.Throttle) { r.Period = 1500 * time.Nanosecond }},
		{"rate", func(r *gate.Throttle) { r.Period = math.MaxInt64 }},
		{"burst", func(r *gate.Throttle) { r.Burst = -1 }},
		{"burst", func(r *gate.Throttle) { r.Burst = math.MaxInt64 }},
		{"burst", func(r *gate.Throttle) { r.Period, r.Burst = 99*365*24*time.Hour, 2 }},
		{"cost", func(r *gate.Throttle) { r.Cost = -1 }},
		{"cost", func(r *gate.Throttle) { r.Cost = headgate.MaxInt + 1 }},
	} {
		r := good
		c.change(&r)
		var d gate.Decision
		err := g.Throttle(t.Context(), &r, &d)
		e, ok := err.(*headgate.Error)
		if !ok || e.Code != headgate.InvalidRequest || e.Field != c.field || d.Allowed {
			t.Errorf("%+v: error %v, allowed %v; want field %q", r, err, d.Allowed, c.field)
		}
	}
	long := good
	long.Key = strings.Repeat("k", gate.MaxSubject)
	var d gate.Decision
	if err := g.Throttle(t.Context(), &long, &d); err != nil || !d.Allowed {
		t.Errorf("a key of %d bytes: %v, %v", gate.MaxSubject, d.Allowed, err)
	}
}

// A caller who keeps thousands of limits in use gets no more of them, and closes
// nothing for the policy's own.
func TestThrottlesInUseAreBounded(t *testing.T) {
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(anyPolicy), Store: memstore.New(memstore.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	var d gate.Decision
	refused := 0
	for i := range 5000 {
		r := gate.Throttle{Key: fmt.Sprint(i), Count: 1, Period: time.Hour + time.Duration(i)*time.Second, Burst: 300, Cost: 1}
		switch err := g.Throttle(t.Context(), &r, &d); {
		case headgate.CodeOf(err) == headgate.Overloaded:
			refused++
		case err != nil || !d.Allowed:
			t.Fatalf("rate %d: %v, %+v", i, err, d.Decision)
		}
	}
	if n := g.ThrottlesReadyForTest(); n > 4096 || refused != 5000-n {
		t.Errorf("%d limits are kept ready, %d refused of 5000", n, refused)
	}
	if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "s"}, &d); err != nil || !d.Allowed {
		t.Errorf("the policy's limit: %v, %+v", err, d.Decision)
	}
	// The first one goes on, and a new one of a rate in use is welcome.
	for _, key := range []string{"0", "new"} {
		r := gate.Throttle{Key: key, Count: 1, Period: time.Hour, Burst: 300, Cost: 1}
		if err := g.Throttle(t.Context(), &r, &d); err != nil || !d.Allowed {
			t.Errorf("key %s: %v, %+v", key, err, d.Decision)
		}
	}
}

// A stranger who says another rate with each call gains nothing by it, and what
// is kept ready of them stays bounded.
func TestThrottleManyRates(t *testing.T) {
	store := memstore.New(memstore.Config{Origin: origin})
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(anyPolicy), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	var d gate.Decision
	passed := 0
	for i := range 10_000 {
		r := gate.Throttle{Key: "k", Count: 10, Period: time.Hour + time.Duration(i)*time.Second, Cost: 1, Now: origin}
		if err := g.Throttle(t.Context(), &r, &d); err != nil {
			t.Fatalf("rate %d: %v", i, err)
		}
		if d.Degraded != "" {
			t.Fatalf("rate %d: degraded %q, %v", i, d.Degraded, d.Reason)
		}
		if d.Allowed {
			passed++
		}
	}
	if passed != 10 {
		t.Errorf("%d passed of 10", passed)
	}
	if keys := store.Stats().Keys; keys != 1 {
		t.Errorf("%d keys for one key", keys)
	}
	if n := g.ThrottlesReadyForTest(); n > 4096 {
		t.Errorf("%d limits kept ready", n)
	}
}

func TestThrottleRace(t *testing.T) {
	g := open(t, anyPolicy)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			var d gate.Decision
			for i := range 100 {
				// The numbers are the same, and most callers prepare them first.
				r := gate.Throttle{Key: "k", Count: 50, Period: time.Hour + time.Duration(i%5)*time.Hour, Burst: 50, Cost: 1, Now: origin}
				if err := g.Throttle(t.Context(), &r, &d); err != nil {
					t.Errorf("worker %d: %v", w, err)
					return
				}
				if d.Allowed {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := passed.Load(); n != 50 {
		t.Errorf("%d passed of 50", n)
	}
}
