package lease_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/lease"
)

// Nodes whose machines' clocks are set to and fro while they spend leases admit
// together, over any interval, no more than burst and rate; and the instants of what
// they decide are the authority's, whose clock is another one still.
func TestWallClockSteps(t *testing.T) {
	const burst, rate = 5000, 2000 // tokens, and tokens a second
	for name, steps := range map[string][]time.Duration{
		"right":  {0},
		"1 s":    {time.Second, -time.Second},
		"30 min": {30 * time.Minute, -30 * time.Minute, time.Second, -time.Second},
		"small":  {300 * time.Millisecond, -200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newBank()
				k.skew = 7 * time.Minute
				random := rand.New(rand.NewPCG(1, 2))
				var nodes [4]*lease.Store
				var wrong [len(nodes)]atomic.Int64
				for i := range nodes {
					nodes[i] = lease.New(k, lease.Config{WallClockForTest: func() int64 { return time.Now().UnixMicro() + wrong[i].Load() }})
				}
				defer func() {
					for _, n := range nodes {
						n.Close()
					}
				}()
				charge := headgate.Charge{Limit: prepare(t, headgate.PerSecond(rate).WithBurst(burst)), Owner: "alice", Cost: 1}
				// above is by how much the most that any interval so far admitted was
				// above its rate x time, in tokens.
				began, last, above, highest := time.Now(), time.Now(), 0.0, 0.0
				admitted := 0
				for ms := range 10_000 {
					for i, n := range nodes {
						if random.IntN(300) == 0 {
							wrong[i].Add(steps[random.IntN(len(steps))].Microseconds())
						}
						b := ask(t, n, charge)
						if off := b.At - k.now(); off < -1 || off > 1 {
							t.Fatalf("node %d after %d ms: decided %d µs off the authority's clock", i, ms, off)
						}
						if !b.Allowed {
							continue
						}
						admitted++
						above = max(0, above-rate*time.Since(last).Seconds()) + 1
						last, highest = time.Now(), max(highest, above)
					}
					<-time.After(time.Millisecond)
				}
				if highest > burst {
					t.Errorf("%.0f tokens admitted above the rate, want at most the burst of %d", highest, burst)
				}
				if least := int(rate * time.Since(began).Seconds()); admitted < least {
					t.Errorf("%d admitted in %v, less than the rate", admitted, time.Since(began))
				}
				for i, n := range nodes {
					if st := n.Stats(); st.Local < 1000 {
						t.Errorf("node %d hardly leases: %+v", i, st)
					}
				}
			})
		})
	}
}
