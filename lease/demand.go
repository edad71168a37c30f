package lease

import "math"

// demand follows what a budget's users take here.
type demand struct {
	at      int64   // when it was last measured
	spent   int64   // what was spent by then
	rate    float64 // tokens a microsecond, quick to rise
	average float64 // over about a second
	pending int64   // tokens asked of the authority, not measured yet
}

// measure notes what was spent in all by now, and what was missing since the last
// time. It waits until enough time has passed to tell a rate.
func (d *demand) measure(now, spent, missing, horizon int64) {
	d.pending += missing
	dt := float64(now - d.at)
	if now-d.at < horizon/16 {
		return
	}
	rate := float64(max(0, spent-d.spent)+d.pending) / dt
	tau := float64(3 * horizon)
	if rate > d.rate {
		tau = float64(horizon) / 2
	}
	d.rate += (rate - d.rate) * dt / (dt + tau)
	d.average += (rate - d.average) * dt / (dt + 1e6)
	d.at, d.spent, d.pending = now, spent, 0
}

// sizes returns how many tokens a lease is filled up to, and at how many it is
// filled up again, for requests of about cost tokens and an authority that takes
// so long to answer: there is enough for the horizon in between, or for some
// requests that come within five of it.
func (d *demand) sizes(cost, horizon, latency int64) (full, low int64) {
	ahead, few := d.rate*float64(horizon), float64(fewest)*float64(cost)
	reserve := ahead/2 + d.rate*float64(latency)
	full = whole(max(ahead+reserve, min(few, 5*ahead)))
	return full, whole(min(reserve, float64(full)/2))
}

// fewest is how many requests a lease should be good for.
const fewest = 16

// whole rounds up, to what no lease exceeds.
func whole(tokens float64) int64 { return int64(math.Ceil(min(tokens, 1<<52))) }
