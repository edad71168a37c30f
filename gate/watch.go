package gate

import (
	"time"

	"github.com/headgate/headgate"
)

// owned is one owner's budget of a limit.
type owned struct {
	id    [2]uint64
	owner string
}

// watch is where the first of a line learns that a budget that refused it was
// given something back: by a settlement or a release through this gate.
type watch struct {
	on   []owned
	bell chan struct{} // holds one ring
}

// slotPoll is how often a request that waits for slots looks by itself: they are
// also given back through other nodes.
const slotPoll = time.Second

// watch listens for the budgets that refuse d.
func (l *lines) watch(d *Decision) *watch {
	w := &watch{bell: make(chan struct{}, 1)}
	charges := d.batch.Charges()
	for i := range d.n {
		if s := &d.limits[i]; !s.Allowed && !s.Shadow {
			w.on = append(w.on, owned{s.Limit.ID, charges[i].Owner})
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watches == nil {
		l.watches = make(map[owned]map[*watch]struct{})
	}
	for _, o := range w.on {
		if l.watches[o] == nil {
			l.watches[o] = make(map[*watch]struct{})
		}
		l.watches[o][w] = struct{}{}
	}
	return w
}

func (l *lines) unwatch(w *watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range w.on {
		delete(l.watches[o], w)
		if len(l.watches[o]) == 0 {
			delete(l.watches, o)
		}
	}
}

// ring wakes those who wait for a budget of the batch.
func (l *lines) ring(b *headgate.Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.watches) == 0 {
		return
	}
	for _, c := range b.Charges() {
		for w := range l.watches[owned{c.Limit.ID, c.Owner}] {
			select {
			case w.bell <- struct{}{}:
			default: // it has not heard the last one yet
			}
		}
	}
}

// passes says when the refused request may pass by itself, but for the slots of
// concurrency limits, which may be released at any time: slots, if not 0, is when
// to look for one.
func (d *Decision) passes() (after, slots time.Duration) {
	for i := range d.n {
		switch s := &d.limits[i]; {
		case s.Allowed || s.Shadow:
		case s.Limit.Algorithm == headgate.Concurrency:
			slots = max(slots, min(s.RetryAfter, slotPoll))
		default:
			after = max(after, s.RetryAfter)
		}
	}
	return after, slots
}
