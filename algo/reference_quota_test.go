package algo_test

import (
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// refQuota counts in calendar periods that it finds by asking time.Time which
// local date an instant has.
type refQuota struct {
	refHolds
	l        headgate.Limit
	period   span
	n, carry int64
	found    []span
}

// span is a period, from start up to but not including end, in microseconds.
type span struct{ start, end int64 }

func (q *refQuota) noted() int64 { return q.period.start }

// roll returns the period at t, what it has used and what it may use on top.
func (q *refQuota) roll(t int64) (p span, n, carry int64) {
	if t < q.period.end {
		return q.period, q.n, q.carry
	}
	p = q.at(t)
	if q.n > 0 && p.start == q.period.end {
		carry = min(q.l.Rollover, max(0, q.l.Count+q.carry-q.n))
	}
	return p, 0, carry
}

func (q *refQuota) passes(t, cost int64) bool {
	_, n, carry := q.roll(t)
	return n+cost <= q.l.Count+carry
}

func (q *refQuota) spent(now, t int64) bool {
	p, _, _ := q.roll(now)
	return t >= p.end
}

func (q *refQuota) used(t int64) int64 {
	_, n, _ := q.roll(t)
	return n
}

func (q *refQuota) do(c algo.Call) headgate.Outcome {
	op, now, cost := c.Op, c.Now, c.Cost
	p, n, carry := q.roll(now)
	limit := q.l.Count + carry
	allowed, never := true, false
	if asks(op) && !q.l.Soft && cost > 0 && n+cost > limit {
		allowed = false
		// If not in the next period, then in none: a period in which nothing
		// is charged leaves nothing to the one after it.
		after := refQuota{l: q.l, period: p, n: n, carry: carry, found: q.found}
		never = !after.passes(p.end, cost)
		q.found = after.found
	}
	before, at := n, max(now, p.start)
	if op == headgate.Settle || op == headgate.Renew {
		n, allowed = q.settle(c, at, p.end, n)
	} else if allowed {
		n = moved(op, n, cost, q.unrefunded(op, p.end, at))
	}
	if allowed && op != headgate.Peek {
		q.period, q.n, q.carry = p, n, carry
		q.reserve(c, at, n-before, p.end)
	}
	o := counted(n, limit)
	o.Allowed, o.Never, o.ResetsAt = allowed, never, p.end
	return o
}

// at returns the period that holds t.
func (q *refQuota) at(t int64) span {
	for _, p := range q.found {
		if p.start <= t && t < p.end {
			return p
		}
	}
	if len(q.found) > 50 {
		q.found = q.found[:0]
	}
	loc := q.l.Calendar.Location
	if loc == nil {
		loc = time.UTC
	}
	p := span{start: floor(t, 1_000_000), end: floor(t, 1_000_000)}
	if q.l.Calendar.Unit == headgate.Hour {
		p = hourSpan(loc, p.start)
	} else {
		n := q.reached(loc, p.start)
		p.start = firstSecond(p.start-400*86400, p.start, func(sec int64) bool { return q.reached(loc, sec) >= n })
		p.end = firstSecond(p.end, p.end+400*86400, func(sec int64) bool { return q.reached(loc, sec) > n })
	}
	p.start, p.end = p.start*1_000_000, p.end*1_000_000
	q.found = append(q.found, p)
	return p
}

// firstSecond returns the first second in lo..hi that has come to be; once it
// has come to be, it stays so.
func firstSecond(lo, hi int64, come func(sec int64) bool) int64 {
	for lo < hi {
		if mid := lo + (hi-lo)/2; come(mid) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// hourSpan goes minute by minute: an hour starts where the clock shows a full
// one, and where the clock moves by anything but whole hours.
func hourSpan(loc *time.Location, sec int64) span {
	starts := func(minute int64) bool {
		u, before := time.Unix(minute*60, 0).In(loc), time.Unix(minute*60-60, 0).In(loc)
		return u.Minute() == 0 || u.Minute() != before.Minute()+1
	}
	start := floor(sec, 60)
	end := start + 1
	for !starts(start) {
		start--
	}
	for !starts(end) {
		end++
	}
	return span{start * 60, end * 60}
}

// reached returns the latest period, by number, that the local clock had
// reached by sec: a clock that goes back does not bring an old one back.
func (q *refQuota) reached(loc *time.Location, sec int64) int64 {
	n := q.number(time.Unix(sec, 0).In(loc))
	// A clock that went back did so within the last day; the instant before
	// it did is the latest on the old reading.
	for t := sec - 27*3600; t < sec; {
		_, bound := time.Unix(t, 0).In(loc).ZoneBounds()
		end := t + 6*3600
		if !bound.IsZero() && bound.Unix() > t && bound.Unix() < end {
			end = bound.Unix()
		}
		if end <= sec {
			n = max(n, q.number(time.Unix(end-1, 0).In(loc)))
		}
		t = end
	}
	return n
}

// number counts the periods of days.
func (q *refQuota) number(u time.Time) int64 {
	year, month, day := u.Date()
	anchor := q.l.Calendar.Anchor
	switch q.l.Calendar.Unit {
	case headgate.Month:
		n := int64(year)*12 + int64(month)
		if day < onDay(year, month, anchor) {
			n--
		}
		return n
	case headgate.Year:
		if anchor == 0 {
			return int64(year)
		}
		if from := time.Month(anchor / 100); month < from || month == from && day < onDay(year, month, anchor%100) {
			year--
		}
		return int64(year)
	}
	days := time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix() / 86400
	if q.l.Calendar.Unit == headgate.Week {
		// Day 4 after the epoch, 5 January 1970, was a Monday.
		return floor(days-4-int64(max(anchor, 1)-1), 7)
	}
	return days
}

// onDay returns the day of the month on which an anchored period starts.
func onDay(year int, month time.Month, anchor int) int {
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
	return max(1, min(anchor, last))
}
