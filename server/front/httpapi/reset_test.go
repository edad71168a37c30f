package httpapi

import (
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/server/front/fronttest"
	"github.com/headgate/headgate/store/memstore"
)

// resets is a door before a quota that is used up at an instant.
type resets struct {
	holds
	gate *fronttest.Gate
}

func openResets(t *testing.T, r gatetest.Reset, at time.Time) resets {
	t.Helper()
	g := fronttest.OpenWith(t, gate.Config{
		Policy: []byte(r.Policy()), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: at.UnixMicro()}),
	})
	s, _ := serve(t, Config{Gate: g})
	o := resets{holds{t, s.URL}, g}
	for range 2 {
		if a := o.at(at); !a.Allowed {
			t.Fatalf("refused: %+v", a)
		}
	}
	return o
}

// at takes at an instant.
func (o resets) at(at time.Time) *answer {
	o.t.Helper()
	o.gate.At(at)
	return o.ask("/v1/take", `"application":"a","request":{"path":"`+gatetest.ResetPath+`","method":"GET","ip":"`+gatetest.ResetSubject+`"}`)
}

// TestResets: resets_at is the reset, to the microsecond, on the clock of the quota's
// zone; reset_after_ms and retry_after_ms are the whole milliseconds until then, rounded
// up, so that who waits for so long passes and who waits for one less does not.
func TestResets(t *testing.T) {
	for _, test := range gatetest.Resets {
		t.Run(test.Name, func(t *testing.T) {
			from, end := test.Times()
			for left, want := range map[time.Duration]int64{
				end.Sub(from): end.Sub(from).Milliseconds(), 1500 * time.Millisecond: 1500, 1000001 * time.Microsecond: 1001,
				time.Millisecond: 1, time.Millisecond - time.Microsecond: 1, time.Microsecond: 1,
			} {
				o := openResets(t, test, from)
				at := end.Add(-left)
				a := o.at(at)
				l := a.Limits[0]
				if a.Allowed || or(l.ResetsAt) != test.End || or(a.RetryAfterMS) != want || or(a.ResetAfterMS) != want || or(l.RetryAfterMS) != want || l.ResetAfterMS != want {
					t.Errorf("%v before: allowed %v, resets at %s, retry after %d ms, reset after %d ms; of the limit %d ms, %d ms",
						left, a.Allowed, or(l.ResetsAt), or(a.RetryAfterMS), or(a.ResetAfterMS), or(l.RetryAfterMS), l.ResetAfterMS)
				}
				said := at.Add(time.Duration(or(a.RetryAfterMS)) * time.Millisecond)
				if o.at(said.Add(-time.Millisecond)).Allowed || o.at(end.Add(-time.Microsecond)).Allowed {
					t.Errorf("%v before: passes before it was told", left)
				}
				if a := o.at(said); !a.Allowed || or(a.Remaining) != 1 {
					t.Errorf("%v before: waited %d ms, and is refused for %d more", left, want, or(a.RetryAfterMS))
				}
			}
			o := openResets(t, test, from)
			if a := o.at(end); !a.Allowed || or(a.Limits[0].ResetsAt) == test.End {
				t.Errorf("at the reset: %+v", a)
			}
		})
	}
}
