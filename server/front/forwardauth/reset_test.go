package forwardauth

import (
	"context"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/store/memstore"
)

// timed decides at an instant of the test's.
type timed struct {
	*gate.Gate
	now time.Time
}

func (g *timed) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	r.Now = g.now.UnixMicro()
	return g.Gate.Take(ctx, r, d)
}

// TestResets: t of RateLimit is the whole seconds until the reset, and Retry-After those
// until a refused request passes, rounded up and at least one: who waits for so long
// passes, and nobody does a microsecond before the reset.
func TestResets(t *testing.T) {
	for _, test := range gatetest.Resets {
		t.Run(test.Name, func(t *testing.T) {
			from, end := test.Times()
			for left, want := range map[time.Duration]int64{
				end.Sub(from): int64(end.Sub(from) / time.Second), 2 * time.Second: 2, 2*time.Second - time.Microsecond: 2,
				time.Second + time.Microsecond: 2, time.Second: 1, time.Microsecond: 1,
			} {
				g, err := gate.Open(t.Context(), gate.Config{
					Policy: []byte(test.Policy()), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: from.UnixMicro()}),
				})
				if err != nil {
					t.Fatal(err)
				}
				at := end.Add(-left)
				c := &timed{Gate: g}
				door := mount(Config{Gate: c})
				take := func(now time.Time) *httptest.ResponseRecorder {
					c.now = now
					w := httptest.NewRecorder()
					door.ServeHTTP(w, request("GET", "/v1/forward-auth/a", local, "X-Original-Method: GET", "X-Original-URI: "+gatetest.ResetPath, "X-Real-IP: "+gatetest.ResetSubject))
					return w
				}
				check := func(now time.Time, status int, remaining, wait int64, retry string) {
					t.Helper()
					w := take(now)
					limit := fmt.Sprintf(`"r/q";r=%d;t=%d`, remaining, wait)
					if w.Code != status || w.Header().Get("RateLimit") != limit || w.Header().Get("Retry-After") != retry {
						t.Errorf("%v before the reset: want %d, RateLimit %s, Retry-After %q: %s", end.Sub(now), status, limit, retry, dump(w))
					}
				}
				check(at, 204, 1, want, "")
				check(at, 204, 0, want, "")
				check(at, 429, 0, want, fmt.Sprint(want))
				if last := end.Add(-time.Microsecond); last.After(at) {
					check(last, 429, 0, 1, "1")
				}
				if w := take(at.Add(time.Duration(want) * time.Second)); w.Code != 204 {
					t.Errorf("waited %d s: %s", want, dump(w))
				}
			}
		})
	}
}
