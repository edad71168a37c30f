package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// numbers returns a limit of the driver's policy as a store is told it.
func (l *crashLimit) numbers(t *testing.T) *headgate.Prepared {
	t.Helper()
	n := headgate.Per(l.count, l.period)
	switch {
	case strings.Contains(l.text, "quota"):
		n = headgate.QuotaPer(l.count, headgate.Day)
	case strings.Contains(l.text, "fixed_window"):
		n = headgate.Window(l.count, l.period)
	case strings.Contains(l.text, "sliding_window"):
		n = headgate.Sliding(l.count, l.period)
	case strings.Contains(l.text, "concurrency"):
		n = headgate.InFlight(l.count, l.period)
	}
	p, err := n.WithName(l.operation + "-" + l.name).Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// history is what happened to one limit: a store that is told of every charge, and
// what its clients know.
type history struct {
	t       *testing.T
	limit   *headgate.Prepared
	store   *memstore.Store
	account *account
	now     int64
	faults  []string
}

func newHistory(t *testing.T, l *crashLimit) *history {
	h := &history{t: t, limit: l.numbers(t), store: memstore.New(memstore.Config{}), now: time.Date(2026, 11, 22, 12, 30, 0, 0, time.UTC).UnixMicro()}
	t.Cleanup(func() { h.store.Close() })
	h.account = newAccount(l, "alice", func(_ *account, what string) { h.faults = append(h.faults, what) })
	return h
}

// tell has the store decide, and returns what remains.
func (h *history) tell(op headgate.Op, cost int64) int64 {
	h.t.Helper()
	b := headgate.Batch{Op: op, Now: h.now, Hold: uint64(h.now)}
	if op == headgate.Peek {
		b.Hold = 0
	}
	b.Add(headgate.Charge{Limit: h.limit, Owner: "alice", Cost: cost})
	if err := h.store.Apply(h.t.Context(), &b); err != nil || !b.Allowed {
		h.t.Fatalf("%v of %d: allowed %v, %v", op, cost, b.Allowed, err)
	}
	return b.Outcomes()[0].Remaining
}

// pass is a charge of which the client heard, in time.
func (h *history) pass(cost int64) {
	h.account.charge(charge{least: cost, most: cost, from: h.now - 2000, to: h.now + 2000})
}

func (h *history) look(forfeit int64) {
	h.account.look(glance{remaining: h.tell(headgate.Peek, 0), from: h.now - 2000, to: h.now + 2000}, forfeit)
}

// TestCrashChecker shows histories to the checker of TestCrash: it says nothing of
// one in which all is well, and finds one acknowledged charge that is missing, one
// that was forfeited too many, and one that was admitted too many.
func TestCrashChecker(t *testing.T) {
	const gone, forfeited, much = "admitted charges are gone", "forfeited too much", "admitted too much"
	for _, l := range crashLimits {
		t.Run(l.operation+"-"+l.name, func(t *testing.T) {
			cost := max(1, l.count/100)
			if l.empties {
				cost = 2
			}
			for _, test := range []struct{ name, want string }{{"well", ""}, {"lost", gone}, {"forfeited", forfeited}, {"much", much}} {
				h := newHistory(t, l)
				for i := range 16 {
					h.now += 20_000
					h.pass(cost)
					if test.name != "lost" || i != 7 {
						h.tell(headgate.Take, cost)
					}
					if i%5 == 4 && test.name != "lost" {
						h.look(0)
					}
				}
				switch test.name {
				case "forfeited":
					for range l.forfeit() + 2 {
						h.now += 10
						h.tell(headgate.Take, 1)
					}
				case "much":
					for range l.count/cost + 1 {
						h.pass(cost)
					}
				}
				if test.name != "much" {
					h.look(l.forfeit())
				}
				h.account.audit()
				if fine := len(h.faults) == 0; fine != (test.want == "") || !fine && !slices.ContainsFunc(h.faults, func(s string) bool { return strings.HasPrefix(s, test.want) }) {
					t.Errorf("%s: the checker says %q, it should say %q", test.name, h.faults, test.want)
				}
			}
		})
	}
}
