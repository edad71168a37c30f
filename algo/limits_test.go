package algo_test

import (
	"math/rand/v2"
	"time"

	"github.com/headgate/headgate"
)

// Numbers at which arithmetic breaks, among ordinary ones.
var (
	awkwardCounts = []int64{1, 1, 2, 3, 5, 7, 10, 60, 97, 100, 1000, 999_983, 1_000_003, 1 << 31, 1<<31 - 1, 1 << 40,
		6_700_417, headgate.MaxInt / 3, headgate.MaxInt - 1, headgate.MaxInt}
	awkwardMicros = []int64{1, 1, 2, 3, 7, 10, 60, 1000, 2520, 999_983, 1_000_000, 1_000_000, 1_000_003, 60_000_000, 60_000_000,
		3_600_000_000, 86_400_000_000, 86_400_000_007, 2_592_000_000_000, headgate.MaxPeriod.Microseconds()}
	zoneNames = []string{"UTC", "America/New_York", "America/Havana", "America/Sao_Paulo", "America/St_Johns", "Europe/London",
		"Europe/Paris", "Africa/Cairo", "Africa/Casablanca", "Asia/Beirut", "Asia/Kathmandu", "Australia/Lord_Howe",
		"Antarctica/Troll", "Pacific/Apia"}
	zones = loadZones()
)

func loadZones() []*time.Location {
	var all []*time.Location
	for _, name := range zoneNames {
		loc, err := time.LoadLocation(name)
		if err != nil {
			panic(err)
		}
		all = append(all, loc)
	}
	return all
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func randomCount(r *rand.Rand, most int64) int64 {
	var n int64
	switch r.IntN(4) {
	case 0:
		n = pick(r, awkwardCounts)
	case 1:
		n = 1 + r.Int64N(int64(1)<<(1+r.IntN(52)))
	default:
		n = 1 + r.Int64N(20)
	}
	return min(n, most)
}

func randomPeriod(r *rand.Rand, most time.Duration) time.Duration {
	n := pick(r, awkwardMicros)
	if r.IntN(4) == 0 {
		n = 1 + r.Int64N(n)
	}
	return min(time.Duration(n)*time.Microsecond, most)
}

// randomLimit returns a limit of the algorithm, awkward ones included.
func randomLimit(r *rand.Rand, a headgate.Algorithm) *headgate.Prepared {
	for range 100 {
		if p, err := someLimit(r, a).Prepare(); err == nil {
			return p
		}
	}
	// The numbers of a bucket that nearly all fail are those near 2^53.
	p, err := headgate.Limit{Algorithm: a, Count: 3, Period: 7 * time.Microsecond}.Prepare()
	if err != nil {
		panic(err)
	}
	return p
}

func someLimit(r *rand.Rand, a headgate.Algorithm) headgate.Limit {
	l := headgate.Limit{Algorithm: a}
	switch a {
	case headgate.TokenBucket, headgate.LeakyBucket:
		l.Count, l.Period = randomCount(r, headgate.MaxInt), randomPeriod(r, headgate.MaxPeriod)
		l.Burst = pick(r, []int64{0, 1, 2, 10, randomCount(r, headgate.MaxInt)})
		if r.IntN(4) == 0 {
			l.Burst = 1
			if p, err := l.Prepare(); err == nil {
				// As much as the bounds of Prepare leave room for.
				full := headgate.MaxPeriod.Microseconds()
				l.Burst = (headgate.MaxInt - p.N) / p.P
				if full < l.Burst*p.P/p.N {
					l.Burst = full / (p.P/p.N + 1)
				}
				l.Burst = max(1, l.Burst-r.Int64N(2))
			}
		}
	case headgate.SlidingWindow:
		l.Count, l.Slices = randomCount(r, headgate.MaxInt), pick(r, []int{0, 1, 1, 1, 2, 3, 7, 10, 13, 59, 60})
		slices := time.Duration(max(l.Slices, 1))
		if l.Slices == 0 {
			slices = 10
		}
		l.Period = randomPeriod(r, headgate.MaxPeriod/slices) * slices
	case headgate.SlidingLog:
		l.Count, l.Period = randomCount(r, headgate.MaxLog), randomPeriod(r, headgate.MaxPeriod)
	case headgate.Quota:
		l.Count = randomCount(r, headgate.MaxInt)
		l.Soft = r.IntN(5) == 0
		if r.IntN(2) == 0 {
			l.Rollover = min(randomCount(r, headgate.MaxInt), headgate.MaxInt-l.Count)
		}
		l.Calendar = randomCalendar(r)
	case headgate.Concurrency:
		l.Count, l.TTL = randomCount(r, headgate.MaxInFlight), randomPeriod(r, 24*time.Hour)
		if r.IntN(8) == 0 {
			l.TTL = 0
		}
	default:
		l.Count, l.Period = randomCount(r, headgate.MaxInt), randomPeriod(r, headgate.MaxPeriod)
		if a == headgate.Ban {
			l.TTL = randomPeriod(r, headgate.MaxPeriod)
		}
	}
	return l
}

func randomCalendar(r *rand.Rand) headgate.Calendar {
	c := headgate.Calendar{Unit: headgate.Hour + headgate.CalendarUnit(r.IntN(5)), Location: pick(r, zones)}
	switch c.Unit {
	case headgate.Week:
		c.Anchor = r.IntN(8)
	case headgate.Month:
		c.Anchor = pick(r, []int{0, 1, 15, 28, 29, 30, 31})
	case headgate.Year:
		c.Anchor = pick(r, []int{0, 101, 229, 401, 1031, 1231})
	}
	return c
}
