package guard

import "time"

// State is what a breaker does with calls.
type State uint8

// The states.
const (
	// Closed lets calls through.
	Closed State = iota
	// HalfOpen waits for the answer to one call, the probe, and fails others.
	HalfOpen
	// Open fails calls.
	Open
)

var stateNames = [...]string{"closed", "half-open", "open"}

// String returns the state's name.
func (s State) String() string { return stateNames[s] }

// When a breaker opens and closes.
const (
	breakRun    = 5                      // failures in a row that open it, if there was
	breakQuiet  = 100 * time.Millisecond // no success for so long
	breakCalls  = 20                     // calls of which half must not fail, within
	breakSlots  = 10                     // slots of
	breakSlot   = time.Second            // each
	probeEvery  = 500 * time.Millisecond // between probes,
	probeSpread = 100 * time.Millisecond // sooner or later by so much at most
	slowFloor   = 50 * time.Millisecond  // an answer that takes longer is a failure
	rampFirst   = 8                      // calls in flight after it has closed,
	rampDouble  = 100 * time.Millisecond // and twice as many every so often
)

// result is how a call ended.
type result uint8

const (
	succeeded result = iota
	failed
	void // says nothing of the store
)

// leave is that to make a call, and is handed in with its result.
type leave struct {
	era   uint32
	probe bool
}

// breaker says whether to call the store. It reads no clock and takes no lock:
// instants are arguments, as time since some start, and so is what it takes from
// chance, a number from 0 to 1. The zero value is closed.
type breaker struct {
	state State
	// era changes with every opening and closing: results of another do not
	// count.
	era uint32
	run int // failures in a row
	// lastOK is the last success; closed is when it closed after it was open, 0
	// for never.
	lastOK, closed time.Duration
	slots          [breakSlots]tally
	newest         int64         // number of the slot that is counted in
	next           time.Duration // when a probe may go, unless it is closed
}

// tally counts the calls that ended in one slot of time.
type tally struct{ calls, failures int }

// allow reports whether a call may be made at now. Of a breaker that is not
// closed it lets through one when it is time for a probe.
func (b *breaker) allow(now time.Duration, chance float64) (leave, bool) {
	switch {
	case b.state == Closed:
		return leave{era: b.era}, true
	case now < b.next:
		return leave{}, false
	default:
		b.state = HalfOpen
		b.pause(now, chance)
		return leave{era: b.era, probe: true}, true
	}
}

// pause puts the next probe off. Chance spreads those of several nodes, so that
// they do not meet at a store that comes back.
func (b *breaker) pause(now time.Duration, chance float64) {
	b.next = now + probeEvery - probeSpread + time.Duration(chance*float64(2*probeSpread))
}

// done takes the result of a call that ended at now. It reports whether the
// breaker has opened or closed by it.
func (b *breaker) done(now time.Duration, l leave, r result, chance float64) bool {
	switch {
	case l.era != b.era:
		return false
	case l.probe && r == succeeded:
		*b = breaker{era: b.era + 1, lastOK: now, closed: now, newest: int64(now / breakSlot)}
		return true
	case l.probe:
		b.state = Open
		if r == void {
			b.next = now // it has told nothing: another may ask at once
		}
		return false
	case r == void:
		return false
	}
	b.count(now, r)
	if r == succeeded {
		b.run, b.lastOK = 0, now
		return false
	}
	b.run++
	// Where only a part of the store is away, successes come in between.
	if (b.run < breakRun || now-b.lastOK < breakQuiet) && !b.tooMany() {
		return false
	}
	b.state = Open
	b.era++
	b.pause(now, chance)
	return true
}

// count counts a call in the slot of its end.
func (b *breaker) count(now time.Duration, r result) {
	slot := int64(now / breakSlot)
	if slot-b.newest >= breakSlots {
		b.slots, b.newest = [breakSlots]tally{}, slot
	}
	for b.newest < slot {
		b.newest++
		b.slots[b.newest%breakSlots] = tally{}
	}
	t := &b.slots[b.newest%breakSlots]
	t.calls++
	if r == failed {
		t.failures++
	}
}

// tooMany reports whether half of enough calls have failed.
func (b *breaker) tooMany() bool {
	var sum tally
	for _, t := range b.slots {
		sum.calls += t.calls
		sum.failures += t.failures
	}
	return sum.calls >= breakCalls && 2*sum.failures >= sum.calls
}

// room is how many calls may be in flight at now: most, and fewer for a while
// after it has closed.
func (b *breaker) room(now time.Duration, most int) int {
	if b.closed == 0 {
		return most
	}
	if doubled := (now - b.closed) / rampDouble; doubled < 32 {
		return min(most, rampFirst<<max(0, doubled))
	}
	b.closed = 0
	return most
}

// slow reports whether an answer took so long that it counts as a failure:
// longer than half of what the caller was ready to wait, if that is much.
func slow(took, patience time.Duration) bool { return took > max(slowFloor, patience/2) }
