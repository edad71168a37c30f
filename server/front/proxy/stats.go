package proxy

import (
	"math"
	"sync"
	"time"
)

// memory is the time after which a request counts 1/e of a new one.
const memory = 10 * time.Second

// decayed is the mean latency and the share of errors of an upstream, in which what is
// long ago counts less: each request has the weight exp(-age/memory).
type decayed struct {
	mu                      sync.Mutex
	at                      time.Time
	weight, seconds, errors float64
	inFlight                int
}

func (d *decayed) begin() {
	d.mu.Lock()
	d.inFlight++
	d.mu.Unlock()
}

func (d *decayed) end() {
	d.mu.Lock()
	d.inFlight--
	d.mu.Unlock()
}

func (d *decayed) add(now time.Time, took time.Duration, failed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if age := now.Sub(d.at); age > 0 {
		keep := math.Exp(-age.Seconds() / memory.Seconds())
		d.weight, d.seconds, d.errors = d.weight*keep, d.seconds*keep, d.errors*keep
		d.at = now
	}
	d.weight++
	d.seconds += took.Seconds()
	if failed {
		d.errors++
	}
}

// read returns the means, 0 if there was no request.
func (d *decayed) read() (latency time.Duration, errors float64, inFlight int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.weight == 0 {
		return 0, 0, d.inFlight
	}
	return time.Duration(d.seconds / d.weight * float64(time.Second)), d.errors / d.weight, d.inFlight
}
