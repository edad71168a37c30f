package main

import (
	"fmt"
	"slices"
	"time"
)

// clockError is how far, in microseconds, the clock of a server, which counts on from
// its start, may be from the wall clock that a test reads: within the ten seconds of
// a life, a wall clock is slewed by at most 500 parts per million.
const clockError = 5000

const day = 24 * time.Hour

// charge is what an account was charged, as its client knows it: at an instant of
// [from, to], in microseconds since the Unix epoch, at least and at most so much.
// They are the same if the answer came, and negative where something was given back.
type charge struct {
	least, most, from, to int64
	// of is from when a slot was taken, where it is given back.
	of int64
}

// glance is what a peek said of an account, at an instant of [from, to].
type glance struct{ remaining, from, to int64 }

// account is one limit of one subject, as its clients know it. Its model holds the
// bounds between which its state must be, whatever was killed.
type account struct {
	limit *crashLimit
	name  string
	// charges are those since the last glance, and passed all that were admitted
	// for sure.
	charges, passed []charge
	model           model
	// found is told what is wrong.
	found func(a *account, what string)
	// worst is the most that a kill has forfeited, in tokens.
	worst int64
}

// model bounds the state of an account.
type model interface {
	// add takes up charges.
	add(charges []charge)
	// remaining is between which numbers a glance must find what is left.
	remaining(g glance) (least, most int64)
	// saw takes up what a glance has found.
	saw(g glance)
	// law returns what charges that were all admitted have too much, "" for nothing.
	law(passed []charge) string
}

// crashLimit is a limit of the crash driver's policy.
type crashLimit struct {
	operation, name string
	text            string // in the policy
	count           int64
	period          time.Duration
	// exact is a limit of which a kill forfeits nothing.
	exact bool
	// empties is a limit that starts empty after a kill.
	empties bool
	model   func(l *crashLimit) model
}

// forfeit is what a kill may cost.
func (l *crashLimit) forfeit() int64 {
	if l.exact {
		return 0
	}
	return max(1, l.count/100)
}

func newAccount(l *crashLimit, subject string, found func(a *account, what string)) *account {
	return &account{limit: l, name: subject + " " + l.operation + "/" + l.name, model: l.model(l), found: found}
}

// charge notes a charge.
func (a *account) charge(c charge) {
	c.from -= clockError
	c.to += clockError
	c.of -= clockError
	a.charges = append(a.charges, c)
	if c.least != 0 {
		a.passed = append(a.passed, c)
	}
}

// look compares what a peek says with what must be: forfeit is what kills since the
// last look may have cost.
func (a *account) look(g glance, forfeit int64) {
	g.from -= clockError
	g.to += clockError
	a.model.add(a.charges)
	a.charges = a.charges[:0]
	least, most := a.model.remaining(g)
	a.worst = max(a.worst, least-g.remaining)
	switch {
	case g.remaining > most:
		a.found(a, fmt.Sprintf("admitted charges are gone: %d remain, and at most %d may", g.remaining, most))
	case g.remaining < max(0, least-forfeit):
		a.found(a, fmt.Sprintf("forfeited too much: %d remain, %d should, and %d may be forfeited", g.remaining, least, forfeit))
	}
	a.model.saw(g)
}

// audit looks at all that was admitted.
func (a *account) audit() {
	if what := a.model.law(a.passed); what != "" {
		a.found(a, "admitted too much: "+what)
	}
}

// bucket is the model of a token bucket, in units of 1/period of a token: it counts
// what is missing. A charge that is dated back has recovered more, and one that is
// dated later less, whatever else is charged: so least has each at its from, and most
// at its to.
type bucket struct {
	count, period, size int64
	least, most         missing
}

// missing is what a bucket lacks at an instant.
type missing struct{ units, at int64 }

func (m *missing) move(to, rate int64) {
	if to > m.at {
		m.units = max(0, m.units-min((to-m.at), 1<<62/rate)*rate)
		m.at = to
	}
}

func newBucket(l *crashLimit) model {
	p := l.period.Microseconds()
	return &bucket{count: l.count, period: p, size: l.count * p}
}

func (b *bucket) add(charges []charge) {
	charges = slices.Clone(charges)
	slices.SortFunc(charges, func(x, y charge) int { return int(x.from - y.from) })
	for _, c := range charges {
		b.least.move(c.from, b.count)
		b.least.units += c.least * b.period
	}
	slices.SortFunc(charges, func(x, y charge) int { return int(x.to - y.to) })
	for _, c := range charges {
		b.most.move(c.to, b.count)
		b.most.units += c.most * b.period
	}
}

// left is how many tokens there are where so much is missing.
func (b *bucket) left(units int64) int64 { return max(0, b.size-units) / b.period }

func (b *bucket) remaining(g glance) (least, most int64) {
	l, m := b.least, b.most
	l.move(g.to, b.count)
	m.move(g.from, b.count)
	return b.left(m.units), b.left(l.units)
}

func (b *bucket) saw(g glance) {
	b.least.move(g.to, b.count)
	b.least.units = max(b.least.units, b.size-(g.remaining+1)*b.period+1-(g.to-g.from)*b.count)
	b.most.move(g.from, b.count)
	b.most.at = g.to
	if at := b.size - g.remaining*b.period; g.remaining > 0 {
		b.most.units = at
		b.least.units = min(b.least.units, at-(g.to-g.from)*b.count) // what was found to be wrong is found once
	} else {
		b.most.units = max(b.most.units, at)
	}
}

// empty says that the bucket was empty at an instant of the interval, for sure or
// perhaps.
func (b *bucket) empty(from, to int64, sure bool) {
	if sure {
		b.least.move(from-clockError, b.count)
		b.least.units = b.size
	}
	b.most.move(to+clockError, b.count)
	b.most.units = b.size
}

// law: in no interval more than a bucket and what it refills meanwhile.
func (b *bucket) law(passed []charge) string {
	passed = slices.Clone(passed)
	slices.SortFunc(passed, func(x, y charge) int { return int(x.to - y.to) })
	for i := range passed {
		since, sum := passed[i].from, int64(0)
		for _, c := range passed {
			if c.from < since {
				continue
			}
			sum += c.least
			if most := b.size + (c.to-since)*b.count; sum*b.period > most {
				return fmt.Sprintf("%d in %v, at most %d", sum, time.Duration(c.to-since)*time.Microsecond, most/b.period)
			}
		}
	}
	return ""
}

// counter is the model of a fixed window and of a quota: periods that begin where the
// clock is a multiple of their length.
type counter struct {
	count, width int64
	now          tally
	known        []charge // those that may lie in a later period than that of now
}

// tally is what a period has counted.
type tally struct{ label, least, most int64 }

func newCounter(l *crashLimit) model {
	return &counter{count: l.count, width: l.period.Microseconds()}
}

func (c *counter) add(charges []charge) { c.known = append(c.known, charges...) }

// at counts what is known of the period of a glance. A glance at the turn of a
// period is nothing to go by: the later one is meant.
func (c *counter) at(label int64) tally {
	s := tally{label: label}
	if c.now.label == label {
		s = c.now
	}
	for _, x := range c.known {
		if x.from/c.width == label && x.to/c.width == label {
			s.least += x.least
			s.most += x.most
		} else if x.from/c.width <= label && label <= x.to/c.width {
			s.least += min(0, x.least)
			s.most += max(0, x.most)
		}
	}
	return s
}

// turns reports whether a period begins within the interval.
func (c *counter) turns(g glance) bool { return g.from/c.width != g.to/c.width }

func (c *counter) remaining(g glance) (least, most int64) {
	s := c.at(g.to / c.width)
	if c.turns(g) {
		s = tally{most: c.count}
	}
	return c.count - min(c.count, s.most), c.count - max(0, s.least)
}

func (c *counter) saw(g glance) {
	if c.turns(g) {
		return
	}
	s := c.at(g.to / c.width)
	if used := c.count - g.remaining; g.remaining > 0 {
		s.least, s.most = used, used
	} else {
		s.least, s.most = max(s.least, used), max(s.most, used)
	}
	c.now, c.known = s, c.known[:0]
}

// law: in no period more than its count.
func (c *counter) law(passed []charge) string {
	sums := make(map[int64]int64)
	for _, x := range passed {
		if x.from/c.width == x.to/c.width {
			sums[x.from/c.width] += x.least
		}
	}
	for _, n := range sums {
		if n > c.count {
			return fmt.Sprintf("%d in a period, at most %d", n, c.count)
		}
	}
	return ""
}

// slider is the model of a sliding window of ten slices and the current one.
type slider struct {
	count, width, slice int64
	known               []charge
}

const slices10 = 10

func newSlider(l *crashLimit) model {
	w := l.period.Microseconds()
	return &slider{count: l.count, width: w, slice: w / slices10}
}

func (s *slider) add(charges []charge) { s.known = append(s.known, charges...) }

func (s *slider) used(g glance) (least, most int64) {
	for _, c := range s.known {
		if c.from/s.slice >= g.to/s.slice-slices10 {
			least += c.least
		}
		if c.to/s.slice >= g.from/s.slice-slices10 {
			most += c.most
		}
	}
	return least, most
}

func (s *slider) remaining(g glance) (least, most int64) {
	l, m := s.used(g)
	return max(0, s.count-m), max(0, s.count-l)
}

func (s *slider) saw(g glance) {
	_, most := s.used(g)
	if f := s.count - g.remaining - most; f > 0 { // forfeited, and no more
		s.known = append(s.known, charge{most: f, from: g.from, to: g.to})
	}
	s.known = slices.DeleteFunc(s.known, func(c charge) bool { return c.to/s.slice < g.from/s.slice-slices10 })
}

// law: in no interval of the period more than the count.
func (s *slider) law(passed []charge) string {
	for i := range passed {
		since, sum := passed[i].from, int64(0)
		for _, c := range passed {
			if c.from >= since && c.to <= since+s.width {
				sum += c.least
			}
		}
		if sum > s.count {
			return fmt.Sprintf("%d within %v, at most %d", sum, time.Duration(s.width)*time.Microsecond, s.count)
		}
	}
	return ""
}

// slots is the model of a concurrency limit: charges are slots, and those given back
// are negative ones, which may be forgotten until the slot ends by itself.
type slots struct {
	count, ttl int64
	known      []charge
}

func newSlots(l *crashLimit) model { return &slots{count: l.count, ttl: l.period.Microseconds()} }

func (s *slots) add(charges []charge) { s.known = append(s.known, charges...) }

func (s *slots) remaining(g glance) (least, most int64) {
	l, m := int64(0), int64(0)
	for _, c := range s.known {
		if c.taken()+s.ttl > g.to {
			l += c.least
		}
		if c.most > 0 && c.to+s.ttl > g.from {
			m += c.most
		}
	}
	return max(0, s.count-m), s.count - max(0, l)
}

// taken is from when a slot was taken that c takes or gives back.
func (c *charge) taken() int64 {
	if c.least < 0 {
		return c.of
	}
	return c.from
}

func (s *slots) saw(g glance) {
	s.known = slices.DeleteFunc(s.known, func(c charge) bool { return max(c.to, c.of)+s.ttl < g.from })
}

// law: the slots that are held for sure at one instant.
func (s *slots) law(passed []charge) string {
	for i := range passed {
		at, held := passed[i].to, int64(0)
		for _, c := range passed {
			if since := c.to; c.taken()+s.ttl > at {
				if c.least < 0 {
					since = c.from
				}
				if since <= at {
					held += c.least
				}
			}
		}
		if held > s.count {
			return fmt.Sprintf("%d slots are held, at most %d", held, s.count)
		}
	}
	return ""
}

// crashLimits are the limits of the driver's policy.
var crashLimits = []*crashLimit{
	{operation: "small", name: "a", text: "rate: 100/h", count: 100, period: time.Hour, model: newBucket},
	{operation: "hour", name: "a", text: "rate: 1000/h", count: 1000, period: time.Hour, model: newBucket},
	{operation: "million", name: "a", text: "rate: 1000000/d", count: 1_000_000, period: day, model: newBucket},
	{operation: "daily", name: "a", text: "algorithm: quota, rate: 1000/day", count: 1000, period: day, model: newCounter},
	{operation: "fixed", name: "a", text: "algorithm: fixed_window, rate: 500/h", count: 500, period: time.Hour, model: newCounter},
	{operation: "sliding", name: "a", text: "algorithm: sliding_window, rate: 300/min", count: 300, period: time.Minute, model: newSlider},
	{operation: "slots", name: "a", text: "algorithm: concurrency, max: 20, ttl: 20s", count: 20, period: 20 * time.Second, model: newSlots},
	{operation: "hold", name: "a", text: "algorithm: quota, rate: 1000/day", count: 1000, period: day, model: newCounter},
	{operation: "once", name: "a", text: "algorithm: quota, rate: 190/day", count: 190, period: day, exact: true, model: newCounter},
	{operation: "both", name: "a", text: "rate: 1000/h", count: 1000, period: time.Hour, model: newBucket},
	{operation: "both", name: "b", text: "algorithm: quota, rate: 100/day", count: 100, period: day, model: newCounter},
	{operation: "fast", name: "a", text: "rate: 50/s, burst: 50", count: 50, period: time.Second, empties: true, model: newBucket},
}
