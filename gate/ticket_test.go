package gate

import (
	"encoding/base64"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

// largest is the largest ticket that a decision can have.
func largest() *ticket {
	long := func(n int, c string) string { return strings.Repeat(c, n) }
	t := &ticket{
		reserved: true, hold: math.MaxUint64, holdFor: headgate.MaxHold.Microseconds(), application: long(64, "a"), rule: long(64, "r"),
		subject: long(MaxSubject, "s"), plan: long(64, "p"), operation: long(MaxSubject, "o"), cost: headgate.MaxInt, n: headgate.MaxCharges,
	}
	for range maxTicketCosts {
		t.costs = append(t.costs, UnitCost{Unit: long(64, "u"), Cost: headgate.MaxInt})
	}
	for i := range t.charges {
		t.charges[i] = ticketCharge{math.MaxUint64, long(MaxSubject, "x"), long(64, "u"), headgate.MaxInt}
	}
	return t
}

func encoded(t *ticket) string { return base64.RawURLEncoding.EncodeToString(t.append(nil)) }

func TestTicketsRoundTrip(t *testing.T) {
	for _, want := range []*ticket{
		{hold: 1, application: "a"},
		{reserved: true, hold: 1 << 63, holdFor: 1000, application: "a", rule: "r", subject: "s\xff", plan: "p", operation: "o\\", cost: 3, costs: []UnitCost{{Unit: "tokens", Cost: 5}, {Unit: "b"}}, n: 2, charges: [headgate.MaxCharges]ticketCharge{
			{7, "s\xff", "requests", 3}, {8, "", "tokens", 0},
		}},
		largest(),
	} {
		s := encoded(want)
		if len(s) > MaxTicket {
			t.Errorf("%d bytes: at most %d", len(s), MaxTicket)
		}
		got, err := parseTicket(s)
		if err != nil || !reflect.DeepEqual(*got, *want) {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
	}
}

// No cut, no lengthened and no foreign ticket is read as one.
func TestTicketsRefused(t *testing.T) {
	good := &ticket{reserved: true, hold: 5, holdFor: 1000, application: "a", subject: "s", n: 1, charges: [headgate.MaxCharges]ticketCharge{{1, "s", "requests", 1}}}
	raw := good.append(nil)
	for n := range raw {
		if _, err := parseTicket(base64.RawURLEncoding.EncodeToString(raw[:n])); headgate.CodeOf(err) != headgate.InvalidRequest {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	bad := map[string]string{"long": encoded(good) + "AA", "padded": encoded(good) + "=", "spaced": " " + encoded(good), "line": encoded(good) + "\n"}
	for name, change := range map[string]func(*ticket){
		"without a hold":     func(t *ticket) { t.hold = 0 },
		"held for ever":      func(t *ticket) { t.holdFor = headgate.MaxHold.Microseconds() + 1 },
		"not held":           func(t *ticket) { t.holdFor = 0 },
		"held and no escrow": func(t *ticket) { t.reserved = false },
		"cost too large":     func(t *ticket) { t.cost = headgate.MaxInt + 1 },
		"charge too large":   func(t *ticket) { t.charges[0].cost = headgate.MaxInt + 1 },
	} {
		changed := *good
		change(&changed)
		bad[name] = encoded(&changed)
	}
	for name, s := range bad {
		if _, err := parseTicket(s); headgate.CodeOf(err) != headgate.InvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	version := slices.Clone(raw)
	version[0]++
	if _, err := parseTicket(base64.RawURLEncoding.EncodeToString(version)); headgate.CodeOf(err) != headgate.InvalidRequest {
		t.Errorf("another version: %v", err)
	}
}

// FuzzTicket: what is read as a ticket is one that could have been written, and
// nothing makes the reader fail otherwise than with an InvalidRequest.
func FuzzTicket(f *testing.F) {
	f.Add(encoded(&ticket{hold: 1, application: "a"}))
	f.Add(encoded(largest()))
	f.Add("")
	f.Add("AQAAAAAAAAAAAQ")
	f.Add(strings.Repeat("_", 200))
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTicket(s)
		if err != nil {
			if got != nil || headgate.CodeOf(err) != headgate.InvalidRequest {
				t.Fatalf("%q: %+v, %v", s, got, err)
			}
			return
		}
		if got.hold == 0 || got.holdFor < 0 || got.cost < 0 || got.n > headgate.MaxCharges || len(s) > MaxTicket {
			t.Fatalf("%q: read as %+v", s, got)
		}
		again, err := parseTicket(encoded(got))
		if err != nil || !reflect.DeepEqual(*again, *got) {
			t.Fatalf("%q: read as %+v, written and read again as %+v, %v", s, got, again, err)
		}
	})
}

// Every share of subjects is as large as it says, for any application and for
// names that are alike.
func TestPercentileIsUniform(t *testing.T) {
	for _, application := range []string{"a", "b", "email"} {
		for _, prefix := range []string{"", "user-", strings.Repeat("x", 100)} {
			const subjects = 100_000
			var places [100]int
			for i := range subjects {
				p := percentile(application, prefix+strconv.Itoa(i))
				if p < 0 || p > 99 {
					t.Fatalf("place %d", p)
				}
				places[p]++
			}
			sum := 0
			for p, n := range places {
				if sum += n; n < 850 || n > 1150 {
					t.Errorf("application %s, subjects %.8s...: %d of %d at place %d", application, prefix, n, subjects, p)
				}
				if share := float64(sum) / subjects; math.Abs(share-float64(p+1)/100) > 0.005 {
					t.Errorf("application %s, subjects %.8s...: share %v below place %d", application, prefix, share, p+1)
				}
			}
		}
	}
	// These places are a promise: other nodes and later versions must agree.
	for subject, want := range map[string]int{"alice": 24, "bob": 68, "": 44} {
		if got := percentile("email", subject); got != want {
			t.Errorf("%q is at %d, was at %d", subject, got, want)
		}
	}
}

// A line and the gate take so many that wait, and no more; who leaves makes room.
func TestLinesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lines
		deadline := time.Now().Add(time.Minute)
		join := func(key uint64) (first, waited bool) {
			first, waited, err := l.join(t.Context(), key, deadline)
			if err != nil {
				t.Error(err)
			}
			return first, waited
		}
		if first, _ := join(1); !first {
			t.Fatal("nobody stands before the first")
		}
		var all sync.WaitGroup
		passed := 0
		for range maxLine {
			all.Go(func() {
				if first, waited := join(1); first && waited {
					passed++
					l.leave(1)
				}
			})
		}
		synctest.Wait()
		if first, waited := join(1); first || waited || l.waiting != maxLine {
			t.Errorf("one more than %d: first %v, waited %v; %d wait", maxLine, first, waited, l.waiting)
		}
		if first, _ := join(2); !first {
			t.Error("another line is full too")
		}
		l.leave(1)
		all.Wait()
		if passed != maxLine {
			t.Errorf("%d passed, want %d", passed, maxLine)
		}
		for range maxWaiting {
			if !l.enter() {
				t.Fatalf("%d wait, want room for %d", l.waiting, maxWaiting)
			}
		}
		if first, waited := join(2); first || waited || l.enter() {
			t.Errorf("more than %d wait", maxWaiting)
		}
		if slept, err := l.pause(t.Context(), 2, deadline, &watch{}); slept || err != nil {
			t.Errorf("more than %d sleep: %v, %v", maxWaiting, slept, err)
		}
		for range maxWaiting {
			l.exit()
		}
		l.leave(2)
		if l.waiting != 0 || len(l.busy) != 0 {
			t.Errorf("%d wait in %d lines", l.waiting, len(l.busy))
		}
	})
}
