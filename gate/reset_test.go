package gate_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/store/memstore"
)

// resetGate is a gate whose store can decide at instants around at.
func resetGate(t *testing.T, text string, at time.Time) *gate.Gate {
	t.Helper()
	g, err := gate.Open(t.Context(), gate.Config{
		Policy: []byte(text), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: at.UnixMicro()}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// ask takes cost for the subject of resets at an instant.
func ask(t *testing.T, g *gate.Gate, at time.Time, cost int64) *gate.Decision {
	t.Helper()
	d := new(gate.Decision)
	r := gate.Request{
		Application: "a", Path: gatetest.ResetPath, IP: netip.MustParseAddr(gatetest.ResetSubject),
		Cost: cost, CostSaid: true, Now: at.UnixMicro(),
	}
	if err := g.Take(t.Context(), &r, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// checkRefused: a quota says that it is reset at end, and a refused request that it
// passes then, from now and up to the last instant before.
func checkRefused(t *testing.T, g *gate.Gate, now, end time.Time) {
	t.Helper()
	for _, at := range []time.Time{now, end.Add(-1500 * time.Millisecond), end.Add(-time.Millisecond), end.Add(-time.Microsecond)} {
		if at.Before(now) {
			continue
		}
		d := ask(t, g, at, 1)
		s := d.Limits()[0]
		if left := end.Sub(at); d.Allowed || d.RetryAfter != left || d.ResetAfter != left || s.RetryAfter != left || s.ResetAfter != left || s.ResetsAt != end.UnixMicro() {
			t.Errorf("%v before the reset: allowed %v, retry after %v, reset after %v, at %v", left, d.Allowed, d.RetryAfter, d.ResetAfter, time.UnixMicro(s.ResetsAt).UTC())
		}
	}
}

// TestResets: a quota that is used up refuses until the microsecond before the reset
// that it tells of, and passes at it, wherever the subject's zone and anchor stand.
func TestResets(t *testing.T) {
	for _, test := range gatetest.Resets {
		t.Run(test.Name, func(t *testing.T) {
			at, end := test.Times()
			recorded, record := test.Recorded()
			records := gate.NewRecords()
			records.Put(record)
			onRecord := resetGate(t, recorded, at)
			onRecord.SetRecords(records)
			for name, g := range map[string]*gate.Gate{"in the policy": resetGate(t, test.Policy(), at), "on record": onRecord} {
				for range 2 {
					if d := ask(t, g, at, 1); !d.Allowed || d.Limits()[0].ResetsAt != end.UnixMicro() || d.ResetAfter != end.Sub(at) {
						t.Errorf("%s: allowed %v, reset after %v, want %v", name, d.Allowed, d.ResetAfter, end.Sub(at))
					}
				}
				checkRefused(t, g, at, end)
				if d := ask(t, g, end, 1); !d.Allowed || d.Remaining != 1 || d.Limits()[0].ResetsAt <= end.UnixMicro() {
					t.Errorf("%s: at the reset: allowed %v, %d remain", name, d.Allowed, d.Remaining)
				}
			}
		})
	}
}

// TestResetAfterMove: what a quota says of its reset holds too when the subject gets
// another zone or anchor in the middle of a period, and what was used stays used.
func TestResetAfterMove(t *testing.T) {
	zone := func(name string) *time.Location {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		return loc
	}
	now := time.Date(2026, 3, 9, 20, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name  string
		limit string
		to    gate.Record
		end   time.Time
	}{
		{"to the east, where tomorrow has begun", "rate: 2/day", gate.Record{Timezone: zone("Asia/Kathmandu")}, time.Date(2026, 3, 10, 18, 15, 0, 0, time.UTC)},
		{"to the west", "rate: 2/day", gate.Record{Timezone: zone("America/Havana")}, time.Date(2026, 3, 10, 4, 0, 0, 0, time.UTC)},
		{"to an earlier end", "rate: 2/day, timezone: America/Havana", gate.Record{Timezone: time.UTC}, time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)},
		{"to a later day of the month", "rate: 2/month", gate.Record{Anchor: 31}, time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC)},
		{"to an earlier one", "rate: 2/month", gate.Record{Anchor: 10}, time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, record := gatetest.Reset{Limit: test.limit}.Recorded()
			g := resetGate(t, text, now)
			for range 2 {
				ask(t, g, now, 1)
			}
			record.Timezone, record.Anchor = test.to.Timezone, test.to.Anchor
			records := gate.NewRecords()
			records.Put(record)
			g.SetRecords(records)
			checkRefused(t, g, now, test.end)
			if d := ask(t, g, test.end, 2); !d.Allowed {
				t.Errorf("refused at the reset, for another %v", d.RetryAfter)
			}
		})
	}
}

// TestResetOfSeveral: of two quotas that refuse, the one that is reset last says when.
func TestResetOfSeveral(t *testing.T) {
	now := time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)
	g := resetGate(t, gatetest.Reset{Limit: "rate: 2/day}, {name: m, algorithm: quota, rate: 3/month, anchor: 31"}.Policy(), now)
	tomorrow, later := now.Add(12*time.Hour), time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC)
	if !ask(t, g, now, 2).Allowed {
		t.Fatal("refused")
	}
	// The month ends with the day, the 28th being the last of February.
	if d := ask(t, g, now, 2); d.Allowed || d.RetryAfter != tomorrow.Sub(now) {
		t.Errorf("allowed %v, retry after %v", d.Allowed, d.RetryAfter)
	}
	if d := ask(t, g, tomorrow, 2); !d.Allowed {
		t.Errorf("refused for %v", d.RetryAfter)
	}
	d := ask(t, g, tomorrow, 2)
	if d.Allowed || d.BoundByID() != "r/m" || d.RetryAfter != later.Sub(tomorrow) || d.Limits()[0].RetryAfter != 24*time.Hour {
		t.Errorf("%s: allowed %v, retry after %v, of the day %v", d.BoundByID(), d.Allowed, d.RetryAfter, d.Limits()[0].RetryAfter)
	}
	if d := ask(t, g, later.Add(-time.Microsecond), 2); d.Allowed || d.BoundByID() != "r/m" || d.RetryAfter != time.Microsecond {
		t.Errorf("%s: allowed %v, retry after %v", d.BoundByID(), d.Allowed, d.RetryAfter)
	}
	if !ask(t, g, later, 2).Allowed {
		t.Error("refused at the reset")
	}
}

// TestResetRollsOver: a cost that only what is left over makes possible passes at the
// reset, and one that is too much for the next period too is told so.
func TestResetRollsOver(t *testing.T) {
	at, end := gatetest.Reset{At: "2026-03-07T12:00:00-05:00", End: "2026-03-08T01:00:00-04:00"}.Times()
	g := resetGate(t, gatetest.Reset{Limit: "rate: 2/day, timezone: America/Havana, rollover: {max: 5}"}.Policy(), at)
	if !ask(t, g, at, 1).Allowed {
		t.Fatal("refused")
	}
	last := end.Add(-time.Microsecond)
	if d := ask(t, g, last, 3); d.Allowed || !d.Retryable || d.RetryAfter != time.Microsecond {
		t.Errorf("allowed %v, retryable %v after %v", d.Allowed, d.Retryable, d.RetryAfter)
	}
	if d := ask(t, g, last, 4); d.Reason != headgate.CostExceedsLimit || d.Retryable || d.ResetAfter != time.Microsecond {
		t.Errorf("%v, retryable %v, reset after %v", d.Reason, d.Retryable, d.ResetAfter)
	}
	if !ask(t, g, end, 3).Allowed {
		t.Error("refused at the reset")
	}
}
