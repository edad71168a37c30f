package redisstore

import (
	"math/rand/v2"
	"time"

	"github.com/headgate/headgate"
)

// Numbers at which arithmetic breaks, among ordinary ones.
var (
	walkCounts = []int64{1, 1, 2, 3, 5, 7, 10, 60, 97, 100, 1000, 999_983, 1_000_003, 1 << 31, 1<<31 - 1, 1 << 40,
		6_700_417, headgate.MaxInt / 3, headgate.MaxInt - 1, headgate.MaxInt}
	walkMicros = []int64{1, 1, 2, 3, 7, 10, 60, 1000, 2520, 999_983, 1_000_000, 1_000_000, 1_000_003, 60_000_000, 60_000_000,
		3_600_000_000, 86_400_000_000, 86_400_000_007, 2_592_000_000_000, headgate.MaxPeriod.Microseconds()}
	walkZones = []string{"UTC", "America/New_York", "America/Havana", "America/St_Johns", "Europe/Paris", "Africa/Casablanca",
		"Asia/Kathmandu", "Australia/Lord_Howe", "Antarctica/Troll", "Pacific/Apia"}
)

// walkLimit returns a limit of the kind, awkward ones included.
func walkLimit(r *rand.Rand, kind string, a headgate.Algorithm) *headgate.Prepared {
	for {
		if kind == "mixed" {
			any := moduleKinds[r.IntN(6)]
			return walkLimit(r, any.name, any.a)
		}
		l := headgate.Limit{Algorithm: a}
		switch kind {
		case "fixed":
			l.Count, l.Period = walkCount(r, headgate.MaxInt), walkPeriod(r, headgate.MaxPeriod)
		case "classic", "sliding":
			l.Slices = 1
			if kind == "sliding" && r.IntN(8) > 0 { // now and then a classic one, for changes of numbers
				l.Slices = pickOf(r, []int{2, 3, 7, 10, 13, 59, 60})
			}
			slices := time.Duration(l.Slices)
			l.Count, l.Period = walkCount(r, headgate.MaxInt), walkPeriod(r, headgate.MaxPeriod/slices)*slices
		case "log":
			l.Count, l.Period = walkCount(r, headgate.MaxLog), walkPeriod(r, headgate.MaxPeriod)
		case "quota":
			l.Count, l.Soft = walkCount(r, headgate.MaxInt), r.IntN(5) == 0
			if r.IntN(2) == 0 {
				l.Rollover = min(walkCount(r, headgate.MaxInt), headgate.MaxInt-l.Count)
			}
			l.Calendar = walkCalendar(r)
		case "concurrency":
			l.Count, l.TTL = walkCount(r, headgate.MaxInFlight), walkPeriod(r, headgate.MaxHold)
		case "ban":
			l.Count, l.Period, l.TTL = walkCount(r, headgate.MaxInt), walkPeriod(r, headgate.MaxPeriod), walkPeriod(r, headgate.MaxPeriod)
		case "idempotency":
			l.Count, l.TTL = walkCount(r, headgate.MaxRemembered), walkPeriod(r, headgate.MaxHold)
		}
		if p, err := l.Prepare(); err == nil {
			return p
		}
	}
}

func walkCount(r *rand.Rand, most int64) int64 {
	n := 1 + r.Int64N(20)
	switch r.IntN(4) {
	case 0:
		n = pickOf(r, walkCounts)
	case 1:
		n = 1 + r.Int64N(int64(1)<<(1+r.IntN(52)))
	}
	return min(n, most)
}

func walkPeriod(r *rand.Rand, most time.Duration) time.Duration {
	n := pickOf(r, walkMicros)
	if r.IntN(4) == 0 {
		n = 1 + r.Int64N(n)
	}
	return min(time.Duration(n)*time.Microsecond, most)
}

func walkCalendar(r *rand.Rand) headgate.Calendar {
	zone, err := time.LoadLocation(pickOf(r, walkZones))
	if err != nil {
		panic(err) // linked in
	}
	c := headgate.Calendar{Unit: headgate.Hour + headgate.CalendarUnit(r.IntN(5)), Location: zone}
	switch c.Unit {
	case headgate.Week:
		c.Anchor = r.IntN(8)
	case headgate.Month:
		c.Anchor = pickOf(r, []int{0, 1, 15, 28, 29, 30, 31})
	case headgate.Year:
		c.Anchor = pickOf(r, []int{0, 101, 229, 401, 1031, 1231})
	}
	return c
}
