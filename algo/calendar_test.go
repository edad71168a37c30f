package algo

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/headgate/headgate"
)

var calendarUnits = []headgate.CalendarUnit{headgate.Hour, headgate.Day, headgate.Week, headgate.Month, headgate.Year}

// walkedZones are walked over more than the years of TestEveryZone: between them they
// have every kind of clock change.
var walkedZones = []string{
	"UTC", "America/New_York", "America/St_Johns", "America/Havana", "America/Sao_Paulo", "America/Santiago",
	"America/Scoresbysund", "America/Caracas", "Europe/London", "Europe/Dublin", "Europe/Moscow", "Africa/Cairo",
	"Africa/Casablanca", "Africa/Monrovia", "Asia/Beirut", "Asia/Gaza", "Asia/Kathmandu", "Asia/Pyongyang",
	"Australia/Lord_Howe", "Antarctica/Troll", "Pacific/Apia", "Pacific/Kwajalein",
}

func location(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// allZones returns the zones of the database that Go ships.
func allZones(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/zones.txt")
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(b))
	if len(names) < 590 {
		t.Fatalf("%d zones: the list is cut short", len(names))
	}
	return names
}

func instant(year, month, day int) int64 {
	return time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).UnixMicro()
}

// civil returns the date that loc shows at a second, in days since the epoch.
func civil(loc *time.Location, sec int64) int64 {
	y, m, d := time.Unix(sec, 0).In(loc).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400
}

func date(label int64) string { return time.Unix(label*86400, 0).UTC().Format(time.DateOnly) }

// transitions returns the seconds within from and to at which the offset of loc
// changes, found without segmentAt.
func transitions(loc *time.Location, from, to int64) []int64 {
	var at []int64
	_, before := time.Unix(from, 0).In(loc).Zone()
	for t := time.Unix(from, 0).In(loc); ; {
		_, next := t.ZoneBounds()
		if next.IsZero() {
			return at
		}
		if !next.After(t) { // 31 December of a leap year
			next = time.Date(t.UTC().Year()+1, 1, 1, 0, 0, 0, 0, time.UTC).In(loc)
		}
		if t = next; t.Unix() >= to {
			return at
		}
		if _, offset := t.Zone(); offset != before {
			at, before = append(at, t.Unix()), offset
		}
	}
}

// checkTiles walks the periods from the one that holds from until one ends after to.
func checkTiles(t *testing.T, c headgate.Calendar, from, to int64) {
	t.Helper()
	last := PeriodAt(c, from)
	if from < last.Start || last.End <= from {
		t.Fatalf("%v %v: %d is not in %+v", c.Location, c.Unit, from, last)
	}
	for last.End <= to {
		p := PeriodAt(c, last.End)
		if p.Start != last.End || p.End <= p.Start || p.Label <= last.Label {
			t.Fatalf("%v %v: %+v does not follow %+v", c.Location, c.Unit, p, last)
		}
		if q := PeriodAt(c, p.End-1); q != p {
			t.Fatalf("%v %v: last microsecond of %+v is in %+v", c.Location, c.Unit, p, q)
		}
		if c.Unit != headgate.Hour {
			start := p.Start / 1_000_000
			if before, first := civil(c.Location, start-1), civil(c.Location, start); before >= p.Label || first < p.Label {
				t.Fatalf("%v %v: %s starts at a change from %s to %s", c.Location, c.Unit, date(p.Label), date(before), date(first))
			}
		}
		last = p
	}
}

func TestPeriodsTile(t *testing.T) {
	for _, name := range walkedZones {
		loc := location(t, name)
		for _, c := range []headgate.Calendar{
			{Unit: headgate.Week}, {Unit: headgate.Week, Anchor: 7}, {Unit: headgate.Month}, {Unit: headgate.Month, Anchor: 31},
			{Unit: headgate.Year}, {Unit: headgate.Year, Anchor: 229},
		} {
			c.Location = loc
			checkTiles(t, c, instant(1880, 1, 2), instant(2110, 1, 1))
		}
		checkTiles(t, headgate.Calendar{Unit: headgate.Hour, Location: loc}, instant(2026, 1, 1), instant(2027, 1, 1))
	}
	// Every second year, so that 31 December of leap years is among them.
	howe := headgate.Calendar{Unit: headgate.Hour, Location: location(t, "Australia/Lord_Howe")}
	for year := 1980; year < 2038; year += 2 {
		checkTiles(t, howe, instant(year, 1, 1), instant(year+1, 1, 3))
	}
}

// The label says the first date; start is in UTC, length in minutes.
func TestPeriodsWhereClocksChange(t *testing.T) {
	for _, test := range []struct {
		zone   string
		unit   headgate.CalendarUnit
		anchor int
		now    string
		label  string
		start  string
		length int64
		why    string
	}{
		{"", headgate.Day, 0, "2026-03-10T12:00:00Z", "2026-03-10", "2026-03-10T00:00:00Z", 1440, "no location is UTC"},
		{"Europe/Paris", headgate.Day, 0, "2026-03-29T12:00:00Z", "2026-03-29", "2026-03-28T23:00:00Z", 23 * 60, "clock forward"},
		{"Europe/Paris", headgate.Day, 0, "2026-10-25T12:00:00Z", "2026-10-25", "2026-10-24T22:00:00Z", 25 * 60, "clock back"},
		{"Australia/Lord_Howe", headgate.Day, 0, "2026-04-05T00:00:00Z", "2026-04-05", "2026-04-04T13:00:00Z", 24*60 + 30, "back by half an hour"},
		{"Australia/Lord_Howe", headgate.Day, 0, "2026-10-04T00:00:00Z", "2026-10-04", "2026-10-03T13:30:00Z", 23*60 + 30, "forward by half an hour"},
		{"Antarctica/Troll", headgate.Day, 0, "2026-03-29T12:00:00Z", "2026-03-29", "2026-03-29T00:00:00Z", 22 * 60, "forward by two hours"},
		{"America/Havana", headgate.Day, 0, "2026-03-08T12:00:00Z", "2026-03-08", "2026-03-08T05:00:00Z", 23 * 60, "starts at 01:00, there is no midnight"},
		{"America/Havana", headgate.Day, 0, "2026-03-08T04:59:59Z", "2026-03-07", "2026-03-07T05:00:00Z", 24 * 60, "the day before ends there"},
		{"Asia/Beirut", headgate.Day, 0, "2026-03-29T12:00:00Z", "2026-03-29", "2026-03-28T22:00:00Z", 23 * 60, "starts at 01:00"},
		{"Africa/Cairo", headgate.Day, 0, "2026-04-24T12:00:00Z", "2026-04-24", "2026-04-23T22:00:00Z", 23 * 60, "starts at 01:00"},
		{"Africa/Cairo", headgate.Month, 24, "2026-05-01T12:00:00Z", "2026-04-24", "2026-04-23T22:00:00Z", 30*1440 - 60, "a month that starts there"},
		{"Pacific/Apia", headgate.Day, 0, "2011-12-30T09:59:59Z", "2011-12-29", "2011-12-29T10:00:00Z", 1440, "the last day east of the date line"},
		{"Pacific/Apia", headgate.Day, 0, "2011-12-30T10:00:00Z", "2011-12-31", "2011-12-30T10:00:00Z", 1440, "30 December did not exist"},
		{"Pacific/Apia", headgate.Month, 30, "2011-12-30T10:00:00Z", "2011-12-30", "2011-12-30T10:00:00Z", 30 * 1440, "a period of more days may start on it"},
		{"America/Sao_Paulo", headgate.Day, 0, "2018-02-18T02:30:00Z", "2018-02-17", "2018-02-17T02:00:00Z", 25 * 60, "23:30 comes twice"},
		{"America/Sao_Paulo", headgate.Day, 0, "2018-11-04T12:00:00Z", "2018-11-04", "2018-11-04T03:00:00Z", 23 * 60, "starts at 01:00"},
		{"America/St_Johns", headgate.Day, 0, "2010-11-07T02:30:00Z", "2010-11-07", "2010-11-07T02:30:00Z", 25 * 60, "the first minute of 7 November"},
		{"America/St_Johns", headgate.Day, 0, "2010-11-07T03:00:00Z", "2010-11-07", "2010-11-07T02:30:00Z", 25 * 60, "back to 6 November 23:30, but the day had begun"},
		{"America/St_Johns", headgate.Month, 7, "2010-11-07T03:00:00Z", "2010-11-07", "2010-11-07T02:30:00Z", 30*1440 + 60, "nor does the month before come back"},
		{"America/Juneau", headgate.Day, 0, "1867-10-19T12:00:00Z", "1867-10-19", "1867-10-18T08:57:41Z", 48 * 60, "19 October began twice, as Alaska was sold"},
		{"America/Metlakatla", headgate.Year, 0, "2015-11-01T12:00:00Z", "2015-01-01", "2015-01-01T08:00:00Z", 365*1440 + 60, "standard time changed within the year"},
		{"America/New_York", headgate.Day, 0, "2048-12-31T12:00:00Z", "2048-12-31", "2048-12-31T05:00:00Z", 1440, "last day of a leap year past the listed changes"},
		{"Australia/Sydney", headgate.Year, 0, "2048-12-31T12:00:00Z", "2048-01-01", "2047-12-31T13:00:00Z", 366 * 1440, "the same in the south"},

		{"Australia/Lord_Howe", headgate.Hour, 0, "2026-04-04T14:59:59Z", "", "2026-04-04T14:00:00Z", 60, "01:00 to 02:00, the clock goes back to 01:30"},
		{"Australia/Lord_Howe", headgate.Hour, 0, "2026-04-04T15:00:00Z", "", "2026-04-04T15:00:00Z", 30, "01:30 to 02:00 once more"},
		{"Australia/Lord_Howe", headgate.Hour, 0, "2026-04-04T15:30:00Z", "", "2026-04-04T15:30:00Z", 60, "02:00 to 03:00"},
		{"Australia/Lord_Howe", headgate.Hour, 0, "2026-10-03T15:29:59Z", "", "2026-10-03T14:30:00Z", 60, "01:00 to 02:00, the clock goes on to 02:30"},
		{"Australia/Lord_Howe", headgate.Hour, 0, "2026-10-03T15:30:00Z", "", "2026-10-03T15:30:00Z", 30, "02:30 to 03:00"},
		{"Asia/Pyongyang", headgate.Hour, 0, "2018-05-04T14:45:00Z", "", "2018-05-04T14:30:00Z", 30, "23:00 to 23:30, then 24:00"},
		{"Asia/Kathmandu", headgate.Hour, 0, "2026-05-04T14:20:00Z", "", "2026-05-04T14:15:00Z", 60, "20:00 to 21:00"},
		{"America/New_York", headgate.Hour, 0, "2026-11-01T06:30:00Z", "", "2026-11-01T06:00:00Z", 60, "01:00 for the second time"},
		{"America/St_Johns", headgate.Hour, 0, "2010-11-07T02:45:00Z", "", "2010-11-07T02:30:00Z", 60, "00:00, at 00:01 back to 23:01: the minutes run on"},
		{"Africa/Monrovia", headgate.Hour, 0, "1972-01-07T00:44:59Z", "", "1972-01-07T00:44:00Z", 16, "a clock that was 44 min 30 s behind"},

		{"", headgate.Week, 0, "1970-01-01T00:00:00Z", "1969-12-29", "1969-12-29T00:00:00Z", 7 * 1440, "weeks start on Monday"},
		{"", headgate.Week, 1, "2026-03-09T00:00:00Z", "2026-03-09", "2026-03-09T00:00:00Z", 7 * 1440, "said"},
		{"", headgate.Week, 7, "2026-03-09T00:00:00Z", "2026-03-08", "2026-03-08T00:00:00Z", 7 * 1440, "Sunday"},
		{"", headgate.Week, 4, "1969-12-31T23:59:59Z", "1969-12-25", "1969-12-25T00:00:00Z", 7 * 1440, "Thursday, before 1970"},
		{"Europe/Paris", headgate.Week, 0, "2026-03-24T12:00:00Z", "2026-03-23", "2026-03-22T23:00:00Z", 7*1440 - 60, "a week with a short day"},
		{"", headgate.Month, 0, "2026-02-28T23:59:59Z", "2026-02-01", "2026-02-01T00:00:00Z", 28 * 1440, "February"},
		{"", headgate.Month, 31, "2026-02-27T23:59:59Z", "2026-01-31", "2026-01-31T00:00:00Z", 28 * 1440, "31 January to 28 February"},
		{"", headgate.Month, 31, "2026-02-28T00:00:00Z", "2026-02-28", "2026-02-28T00:00:00Z", 31 * 1440, "28 February to 31 March: the anchor is kept"},
		{"", headgate.Month, 31, "2026-04-30T00:00:00Z", "2026-04-30", "2026-04-30T00:00:00Z", 31 * 1440, "30 April to 31 May"},
		{"", headgate.Month, 30, "2024-02-29T00:00:00Z", "2024-02-29", "2024-02-29T00:00:00Z", 30 * 1440, "29 February to 30 March"},
		{"", headgate.Month, 15, "2026-01-14T00:00:00Z", "2025-12-15", "2025-12-15T00:00:00Z", 31 * 1440, "over New Year"},
		{"", headgate.Month, 15, "1969-12-31T23:59:59Z", "1969-12-15", "1969-12-15T00:00:00Z", 31 * 1440, "before 1970"},
		{"", headgate.Year, 0, "2024-12-31T23:59:59Z", "2024-01-01", "2024-01-01T00:00:00Z", 366 * 1440, "leap year"},
		{"", headgate.Year, 401, "2026-03-31T23:59:59Z", "2025-04-01", "2025-04-01T00:00:00Z", 365 * 1440, "1 April"},
		{"", headgate.Year, 229, "2026-02-28T00:00:00Z", "2026-02-28", "2026-02-28T00:00:00Z", 365 * 1440, "29 February is the 28th in common years"},
		{"", headgate.Year, 229, "2024-02-28T23:59:59Z", "2023-02-28", "2023-02-28T00:00:00Z", 366 * 1440, "and the 29th in leap years"},
		{"", headgate.Day, 0, "0001-01-01T00:00:00Z", "0001-01-01", "0001-01-01T00:00:00Z", 1440, "first year"},
		{"", headgate.Year, 0, "9999-12-31T23:59:59Z", "9999-01-01", "9999-01-01T00:00:00Z", 365 * 1440, "last year"},
		{"Europe/Paris", headgate.Month, 0, "9999-12-31T12:00:00Z", "9999-12-01", "9999-11-30T23:00:00Z", 31 * 1440, "last month"},
	} {
		now, err := time.Parse(time.RFC3339, test.now)
		if err != nil {
			t.Fatal(err)
		}
		c := headgate.Calendar{Unit: test.unit, Anchor: test.anchor}
		if test.zone != "" {
			c.Location = location(t, test.zone)
		}
		p := PeriodAt(c, now.UnixMicro())
		label := date(p.Label)
		if test.unit == headgate.Hour {
			label = ""
			if p.Label*60_000_000 != p.Start {
				t.Errorf("%s %s: label %d for start %d", test.zone, test.now, p.Label, p.Start)
			}
		}
		start, length := time.UnixMicro(p.Start).UTC().Format(time.RFC3339), (p.End-p.Start)/60_000_000
		if label != test.label || start != test.start || length != test.length {
			t.Errorf("%s %v %d at %s: %q from %s, %d min; want %q from %s, %d min: %s", test.zone, test.unit, test.anchor, test.now,
				label, start, length, test.label, test.start, test.length, test.why)
		}
	}
}

func TestFollows(t *testing.T) {
	day := func(d int) int64 { return instant(2011, 12, d) / 86_400_000_000 }
	apia := headgate.Calendar{Unit: headgate.Day, Location: location(t, "Pacific/Apia")}
	p := PeriodAt(apia, instant(2011, 12, 31))
	for label, want := range map[int64]bool{day(28): false, day(29): true, day(30): false, day(31): false, day(32): false} {
		if Follows(apia, label, p) != want {
			t.Errorf("%s follows %s: got %v", date(p.Label), date(label), !want)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	zones := allZones(t)
	for range 300 {
		c := randomCalendar(t, rng, zones)
		p := PeriodAt(c, instant(1960, 1, 1)+rng.Int64N(instant(2100, 1, 1)-instant(1960, 1, 1)))
		q := PeriodAt(c, p.End)
		r := PeriodAt(c, q.End)
		if !Follows(c, p.Label, q) || !Follows(c, q.Label, r) || Follows(c, p.Label, r) || Follows(c, q.Label, p) || Follows(c, p.Label, p) {
			t.Errorf("%v %v %d: order of %+v, %+v, %+v", c.Location, c.Unit, c.Anchor, p, q, r)
		}
	}
}

func randomCalendar(t testing.TB, rng *rand.Rand, zones []string) headgate.Calendar {
	c := headgate.Calendar{Unit: calendarUnits[rng.IntN(len(calendarUnits))], Location: location(t, zones[rng.IntN(len(zones))])}
	switch c.Unit {
	case headgate.Week:
		c.Anchor = rng.IntN(8)
	case headgate.Month:
		c.Anchor = rng.IntN(32)
	case headgate.Year:
		c.Anchor = []int{0, 101, 228, 229, 401, 1231}[rng.IntN(6)]
	}
	return c
}

// reached is the latest date that loc has shown up to and including sec: a scan
// over the minutes of the 27 hours before, as no clock ever went back further.
func reached(loc *time.Location, sec int64) int64 {
	latest := civil(loc, sec)
	for at := sec - 27*3600; at < sec; at += 60 {
		latest = max(latest, civil(loc, at))
	}
	return latest
}

// startsOn says from the calendar's definition whether a period starts on day.
func startsOn(c headgate.Calendar, day int64) bool {
	at := time.Unix(day*86400, 0).UTC()
	lastOfMonth := at.AddDate(0, 0, 1).Day() == 1
	switch c.Unit {
	case headgate.Week:
		return int(at.Weekday()) == max(c.Anchor, 1)%7
	case headgate.Month:
		return at.Day() == max(c.Anchor, 1) || lastOfMonth && at.Day() < c.Anchor
	case headgate.Year:
		anchor := max(c.Anchor, 101)
		return int(at.Month()) == anchor/100 && (at.Day() == anchor%100 || lastOfMonth && at.Day() < anchor%100)
	}
	return true
}

func firstDate(c headgate.Calendar, day int64) int64 {
	for !startsOn(c, day) {
		day--
	}
	return day
}

// hourCut says whether an hour starts at minute: the local clock, had it its
// offset already throughout the minute, shows a full hour, or has not just
// moved on by one minute.
func hourCut(loc *time.Location, minute int64) bool {
	local := func(minute int64) int {
		_, east := time.Unix(minute*60+59, 0).In(loc).Zone()
		return time.Unix(minute*60, 0).UTC().Add(time.Duration(east) * time.Second).Minute()
	}
	shown := local(minute)
	return shown == 0 || shown != local(minute-1)+1
}

// checkPeriod compares PeriodAt with the oracles above.
func checkPeriod(t *testing.T, c headgate.Calendar, now int64) {
	t.Helper()
	p := PeriodAt(c, now)
	if now < p.Start || p.End <= now {
		t.Fatalf("%v %v %d: %d is not in %+v", c.Location, c.Unit, c.Anchor, now, p)
	}
	if c.Unit == headgate.Hour {
		minute := time.UnixMicro(now).Unix()
		minute = (minute - (minute%60+60)%60) / 60
		start, stop := minute, minute+1
		for !hourCut(c.Location, start) {
			start--
		}
		for !hourCut(c.Location, stop) {
			stop++
		}
		if want := (Period{Label: start, Start: start * 60_000_000, End: stop * 60_000_000}); p != want {
			t.Fatalf("%v hour at %d: %+v, want %+v", c.Location, now, p, want)
		}
		return
	}
	start, end := time.UnixMicro(p.Start).Unix(), time.UnixMicro(p.End).Unix()
	if p.Start%1_000_000 != 0 || p.End%1_000_000 != 0 {
		t.Fatalf("%v: %+v is not whole seconds", c.Location, p)
	}
	for _, edge := range []struct {
		sec int64
		in  bool
	}{{start - 1, false}, {start, true}, {time.UnixMicro(now).Unix(), true}, {end - 1, true}, {end, false}} {
		if got := firstDate(c, reached(c.Location, edge.sec)); (got == p.Label) != edge.in {
			t.Fatalf("%v %v %d at %d: %+v, but %d is in the period of %s", c.Location, c.Unit, c.Anchor, now, p, edge.sec, date(got))
		}
	}
}

func TestPeriodAtAgainstScan(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	zones := allZones(t)
	from, to := instant(1840, 1, 1), instant(2110, 1, 1)
	for range 400 {
		c := randomCalendar(t, rng, zones)
		now := from + rng.Int64N(to-from)
		// Every second instant lies close to a change of the clock.
		if at := transitions(c.Location, from/1_000_000, to/1_000_000); len(at) > 0 && rng.IntN(2) == 0 {
			const day = 86_400_000_000
			now = at[rng.IntN(len(at))]*1_000_000 + rng.Int64N(2*day) - day
		}
		checkPeriod(t, c, now)
	}
}

func FuzzPeriodAt(f *testing.F) {
	zones := allZones(f)
	f.Add(uint16(0), uint8(1), uint16(0), int64(0))
	f.Add(uint16(100), uint8(3), uint16(31), instant(2026, 2, 28))
	f.Add(uint16(500), uint8(4), uint16(229), instant(1867, 10, 18))
	f.Add(uint16(300), uint8(0), uint16(0), instant(9999, 12, 31))
	f.Fuzz(func(t *testing.T, zone uint16, unit uint8, anchor uint16, now int64) {
		c := headgate.Calendar{Unit: calendarUnits[int(unit)%len(calendarUnits)], Location: location(t, zones[int(zone)%len(zones)])}
		switch c.Unit {
		case headgate.Week:
			c.Anchor = int(anchor) % 8
		case headgate.Month:
			c.Anchor = int(anchor) % 32
		case headgate.Year:
			c.Anchor = 100*(1+int(anchor)%12) + 1 + int(anchor/12)%28
		}
		first, last := instant(1, 1, 2), instant(9999, 12, 31)
		checkPeriod(t, c, first+int64(uint64(now)%uint64(last-first)))
	})
}

func TestPeriodAtDoesNotAllocate(t *testing.T) {
	loc := location(t, "Australia/Lord_Howe")
	for _, unit := range calendarUnits {
		c := headgate.Calendar{Unit: unit, Location: loc}
		p := PeriodAt(c, instant(2026, 4, 5))
		if n := testing.AllocsPerRun(100, func() {
			if q := PeriodAt(c, p.Start); q != p || Follows(c, p.Label, q) {
				t.Fatalf("%v: %+v, then %+v", unit, p, q)
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations", unit, n)
		}
	}
}

func BenchmarkPeriodAt(b *testing.B) {
	for _, zone := range []string{"UTC", "Europe/Paris", "America/New_York"} {
		loc := location(b, zone)
		for _, unit := range calendarUnits {
			b.Run(zone+"/"+unit.String(), func(b *testing.B) {
				b.ReportAllocs()
				c := headgate.Calendar{Unit: unit, Location: loc}
				from := time.Now().UnixMicro()
				now, labels, last := from, 0, Period{}
				for b.Loop() {
					p := PeriodAt(c, now)
					if now < p.Start || p.End <= now {
						b.Fatalf("%d is not in %+v", now, p)
					}
					if p.Label != last.Label {
						labels++
					}
					last = p
					if now += 600_000_000; now > from+86_400_000_000 {
						now = from
					}
				}
				if b.N > 300 && (unit == headgate.Hour) != (labels > b.N/10) {
					b.Fatalf("%d changes of period in %d calls", labels, b.N)
				}
			})
		}
	}
}
