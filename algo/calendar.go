package algo

import (
	"math"
	"time"

	"github.com/headgate/headgate"
)

// Period is one calendar period: the instants from Start up to but not
// including End, in microseconds since the Unix epoch.
type Period struct {
	// Label names the period and grows with time. It is the number of days from
	// 1970-01-01 to the period's first date; for hours it is Start in minutes
	// since the epoch. A label made of a date stays what it is when a new time
	// zone database moves the instants.
	Label      int64
	Start, End int64
}

const (
	secondMicros  = 1_000_000
	minuteSeconds = 60
	minuteMicros  = minuteSeconds * secondMicros
	hourMinutes   = 60
	hourSeconds   = hourMinutes * minuteSeconds
	daySeconds    = 24 * hourSeconds
)

// PeriodAt returns the period that holds the instant now, in microseconds
// since the epoch, within the years 1 to 9999. The calendar is one that
// [headgate.Limit.Prepare] accepts.
//
// Periods tile time: each ends where the next one starts. A period of days
// starts at the first instant whose local date is its first date or later.
// This is not midnight where a clock change skips midnight, and a clock that
// goes back across midnight does not bring the old period back. A date that
// never existed has no period. Hours start when the local clock shows a full
// hour, and also where the clock moves by anything but whole hours, so that the
// hours around such a move are shorter. An hour that the clock repeats is two
// periods. Hours start on whole minutes of UTC, also where an offset has
// seconds.
func PeriodAt(c headgate.Calendar, now int64) Period {
	loc := c.Location
	if loc == nil {
		loc = time.UTC
	}
	sec := floorDiv(now, secondMicros)
	if c.Unit == headgate.Hour {
		return hourAt(loc, sec)
	}
	_, offset := time.Unix(sec, 0).In(loc).Zone()
	n := periodNumber(c, floorDiv(sec+int64(offset), daySeconds))
	day := firstDay(c, n)
	start := firstInstant(loc, day)
	for {
		// The date at now may be one that the clock went back to, or may lie
		// before one that does not exist: go on to the period not yet over.
		n++
		next := firstDay(c, n)
		end := firstInstant(loc, next)
		if sec < end {
			return Period{Label: day, Start: start * secondMicros, End: end * secondMicros}
		}
		day, start = next, end
	}
}

// Follows reports whether p, made by [PeriodAt] for the same calendar, comes
// directly after the period called label.
func Follows(c headgate.Calendar, label int64, p Period) bool {
	return PeriodAt(c, p.Start-1).Label == label
}

// hourAt returns the hour that holds the second sec. It counts in minutes,
// because some clocks of before 1972 were seconds off and their changes would
// leave hours too short to have a label of their own.
func hourAt(loc *time.Location, sec int64) Period {
	now := floorDiv(sec, minuteSeconds)
	offset, _ := minuteAt(loc, now)
	start := now - floorMod(now+offset, hourMinutes)
	stop := start + hourMinutes
	offset, at := minuteAt(loc, start)
	for at < stop {
		next, end := minuteAt(loc, at)
		switch {
		case (next-offset)%hourMinutes == 0:
			// The minutes run on, whatever the hour is called now.
		case at <= now:
			start = at
		default:
			stop = at
		}
		offset, at = next, end
	}
	return Period{Label: start, Start: start * minuteMicros, End: stop * minuteMicros}
}

// minuteAt returns the offset from UTC in whole minutes, rounded down, at the
// end of a minute, and a later minute up to which it certainly holds.
func minuteAt(loc *time.Location, minute int64) (offset, end int64) {
	offset, end = segmentAt(loc, minute*minuteSeconds+minuteSeconds-1)
	return floorDiv(offset, minuteSeconds), floorDiv(end, minuteSeconds)
}

// periodNumber returns the consecutive number of the period of days that day,
// counted from 1970-01-01, falls in.
func periodNumber(c headgate.Calendar, day int64) int64 {
	var n int64
	switch c.Unit {
	case headgate.Week:
		return floorDiv(day-mondayOffset(c), 7)
	case headgate.Month:
		year, month, _ := time.Unix(day*daySeconds, 0).UTC().Date()
		n = int64(year)*12 + int64(month) - 1
	case headgate.Year:
		n = int64(time.Unix(day*daySeconds, 0).UTC().Year())
	default:
		return day
	}
	if day < firstDay(c, n) {
		n--
	}
	return n
}

// firstDay returns the day, counted from 1970-01-01, on which period n starts.
func firstDay(c headgate.Calendar, n int64) int64 {
	switch c.Unit {
	case headgate.Week:
		return n*7 + mondayOffset(c)
	case headgate.Month:
		return anchoredDay(0, int(n)+1, c.Anchor)
	case headgate.Year:
		return anchoredDay(int(n), max(c.Anchor/100, 1), c.Anchor%100)
	default:
		return n
	}
}

// mondayOffset returns the day on which week 0 starts. 1970-01-01 was a
// Thursday, three days after the Monday of its week.
func mondayOffset(c headgate.Calendar) int64 { return int64(max(c.Anchor, 1)) - 4 }

// anchoredDay returns the day, counted from 1970-01-01, that is the anchor'th
// of a month, or its last one where the month is shorter. Anchor 0 is the
// first; months beyond 12 reach into later years, those below 1 into earlier.
func anchoredDay(year, month, anchor int) int64 {
	last := time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC)
	return last.Unix()/daySeconds - int64(max(last.Day()-max(anchor, 1), 0))
}

// firstInstant returns the first second at which the local date is day, counted
// from 1970-01-01, or later.
func firstInstant(loc *time.Location, day int64) int64 {
	midnight := day * daySeconds
	// RFC 9636 keeps offsets below 26 h, so no clock has reached the day here.
	t := midnight - 26*hourSeconds
	for {
		offset, end := segmentAt(loc, t)
		if at := max(t, midnight-offset); at < end {
			return at
		}
		t = end
	}
}

// segmentAt returns the offset from UTC at second t and a later second up to
// which it certainly holds; the offset may be the same beyond it.
//
// Only the end of [time.Time.ZoneBounds] is of use: past the last transition
// that a zone file lists, its start may lie before a transition of the same
// year. Even the end is wrong there on 31 December of a leap year, where it
// lies at most a day before t: the offset then holds to the end of the year.
func segmentAt(loc *time.Location, t int64) (offset, end int64) {
	u := time.Unix(t, 0).In(loc)
	_, east := u.Zone()
	_, bound := u.ZoneBounds()
	if bound.IsZero() {
		return int64(east), math.MaxInt64
	}
	end = bound.Unix()
	if end <= t {
		end = t - floorMod(t, daySeconds) + daySeconds
	}
	return int64(east), end
}

// floorMod returns a modulo b within 0 and b-1.
func floorMod(a, b int64) int64 { return (a%b + b) % b }
