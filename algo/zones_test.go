package algo

import (
	"archive/zip"
	"cmp"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// shippedZones returns the files of time/tzdata, by the names of their zones: read from
// the source of the package, which exports nothing.
func shippedZones(t *testing.T) map[string][]byte {
	t.Helper()
	pkg, err := build.Import("time/tzdata", "", build.FindOnly)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pkg.Dir, "zzipdata.go"), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var data string
	ast.Inspect(file, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok {
			s, err := strconv.Unquote(l.Value)
			if err != nil {
				t.Fatal(err)
			}
			data += s
		}
		return true
	})
	z, err := zip.NewReader(strings.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	zones := map[string][]byte{}
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if zones[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return zones
}

func TestZoneList(t *testing.T) {
	listed, shipped := allZones(t), slices.Sorted(maps.Keys(shippedZones(t)))
	if !slices.Equal(listed, shipped) {
		missing := slices.DeleteFunc(slices.Clone(shipped), func(name string) bool { return slices.Contains(listed, name) })
		gone := slices.DeleteFunc(slices.Clone(listed), func(name string) bool { return slices.Contains(shipped, name) })
		t.Errorf("testdata/zones.txt is not the sorted list of this Go's %d zones: add %q, take out %q", len(shipped), missing, gone)
	}
}

// shift is a second from which a clock is offset seconds ahead of UTC.
type shift struct{ at, offset int64 }

// history returns what a clock did from one second to another: the offset at the first
// and every change after it. It asks for the offset twice a day, and halves the
// steps in which it changes.
func history(loc *time.Location, from, to int64) []shift {
	offset := func(sec int64) int64 {
		_, east := time.Unix(sec, 0).In(loc).Zone()
		return int64(east)
	}
	now := shift{from, offset(from)}
	all := []shift{now}
	for at := from; at < to; {
		next := min(at+12*3600, to)
		if offset(next) == now.offset {
			at = next
			continue
		}
		for next-at > 1 {
			if middle := at + (next-at)/2; offset(middle) == now.offset {
				at = middle
			} else {
				next = middle
			}
		}
		now = shift{next, offset(next)}
		all = append(all, now)
		at = next
	}
	return all
}

// firstSeconds returns the second at which a clock first shows each date, or a later
// one, from the date after that of its first second on.
func firstSeconds(clock []shift, to int64) (first int64, at []int64) {
	first = floorDiv(clock[0].at+clock[0].offset, daySeconds) + 1
	for i, s := range clock {
		end := to
		if i+1 < len(clock) {
			end = clock[i+1].at
		}
		for {
			midnight := (first + int64(len(at))) * daySeconds
			if midnight >= end+s.offset {
				break
			}
			at = append(at, max(s.at, midnight-s.offset))
		}
	}
	return first, at
}

// scannedPeriods returns the periods of a calendar without a zone's help: the dates on
// which they start from the calendar's definition, their instants from firstSeconds. A
// period of no time, of a date that never was, is none.
func scannedPeriods(starts []int64, first int64, at []int64) []Period {
	var all []Period
	for _, day := range starts {
		if day < first || day >= first+int64(len(at)) {
			continue
		}
		p := Period{Label: day, Start: at[day-first] * secondMicros}
		if n := len(all); n > 0 {
			if all[n-1].Start == p.Start {
				all = all[:n-1]
			} else {
				all[n-1].End = p.Start
			}
		}
		all = append(all, p)
	}
	return all[:len(all)-1]
}

// clockHistory is what a clock did from scanFrom to scanTo.
type clockHistory struct {
	loc   *time.Location
	clock []shift
}

// The years that are walked, in microseconds, and, in seconds, those around them in which
// their first and last periods begin and end.
var (
	walkFrom, walkTo = instant(1970, 1, 1), instant(2038, 1, 1)
	scanFrom, scanTo = instant(1968, 12, 1) / secondMicros, instant(2039, 3, 1) / secondMicros
)

// clockHistories returns what the clocks of all zones did: of zones that did the same,
// the first by name.
func clockHistories(t *testing.T) []*clockHistory {
	t.Helper()
	zones := shippedZones(t)
	if len(zones) < 590 {
		t.Fatalf("%d zones: some are missing", len(zones))
	}
	var all []*clockHistory
	files, clocks := map[string]bool{}, map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(zones)) {
		file := string(zones[name])
		if files[file] {
			continue // another name of the same zone
		}
		files[file] = true
		loc, err := time.LoadLocationFromTZData(name, zones[name])
		if err != nil {
			t.Fatal(err)
		}
		clock := history(loc, scanFrom, scanTo)
		if key := fmt.Sprint(clock); !clocks[key] {
			clocks[key] = true
			all = append(all, &clockHistory{loc, clock})
		}
	}
	return all
}

// TestEveryZone walks the days, weeks, months and years of every zone from 1970 to
// 2037, and the hours around every change of a clock. Each must be what a scan of the
// zone's clock says, in which every period ends where the next one starts.
func TestEveryZone(t *testing.T) {
	type calendar struct {
		headgate.Calendar
		starts []int64 // the dates on which periods start
	}
	var calendars []calendar
	for unit, anchors := range map[headgate.CalendarUnit][]int{
		headgate.Day: {0}, headgate.Week: {1, 4, 7}, headgate.Month: {1, 28, 29, 30, 31}, headgate.Year: {101, 229, 1231},
	} {
		for _, anchor := range anchors {
			c := calendar{Calendar: headgate.Calendar{Unit: unit, Anchor: anchor}}
			for day := scanFrom / daySeconds; day < scanTo/daySeconds; day++ {
				if startsOn(c.Calendar, day) {
					c.starts = append(c.starts, day)
				}
			}
			calendars = append(calendars, c)
		}
	}
	clocks, changes := clockHistories(t), 0
	if len(clocks) < 290 {
		t.Fatalf("%d different clocks: some are missing", len(clocks))
	}
	var gone []string
	for _, h := range clocks {
		first, days := firstSeconds(h.clock, scanTo)
		changes += len(h.clock) - 1
		gone = append(gone, checkLengths(t, h, first, days)...)
		t.Run(h.loc.String(), func(t *testing.T) {
			t.Parallel()
			for _, c := range calendars {
				c.Location = h.loc
				walkPeriods(t, c.Calendar, scannedPeriods(c.starts, first, days), h.clock)
			}
			walkChanges(t, h)
		})
	}
	if changes < 15_000 {
		t.Errorf("%d changes in all zones: the scan saw too few", changes)
	}
	// Islands that moved across the date line.
	want := []string{"Kwajalein 1993-08-21", "Pacific/Apia 2011-12-30", "Pacific/Enderbury 1994-12-31", "Pacific/Fakaofo 2011-12-30", "Pacific/Kiritimati 1994-12-31"}
	if slices.Sort(gone); !slices.Equal(gone, want) {
		t.Errorf("dates that never were: %q, want %q", gone, want)
	}
}

// checkLengths holds the scan itself to what is known of days: without a change of the
// clock they have 24 hours, with some no more or less than those make. It returns the
// dates that never were.
func checkLengths(t *testing.T, h *clockHistory, first int64, days []int64) (gone []string) {
	t.Helper()
	for i, next := range days[1:] {
		var changed int64
		j, _ := slices.BinarySearchFunc(h.clock, days[i], func(s shift, at int64) int { return cmp.Compare(s.at, at) })
		for ; j < len(h.clock) && h.clock[j].at <= next; j++ {
			if j > 0 {
				changed += max(h.clock[j].offset-h.clock[j-1].offset, h.clock[j-1].offset-h.clock[j].offset)
			}
		}
		length := next - days[i]
		if length < daySeconds-changed || length > daySeconds+changed {
			t.Errorf("%v: %s has %d s, where the clock changes by %d s", h.loc, date(first+int64(i)), length, changed)
		}
		if length == 0 {
			gone = append(gone, h.loc.String()+" "+date(first+int64(i)))
		}
	}
	return gone
}

// walkPeriods compares PeriodAt, from the period that holds walkFrom to the one that
// holds walkTo, with what it must be: at the first and last instant of each, and where
// the clock changes, perhaps to a date that is over.
func walkPeriods(t *testing.T, c headgate.Calendar, want []Period, clock []shift) {
	t.Helper()
	check := func(now int64, w Period) {
		if p := PeriodAt(c, now); p != w {
			t.Fatalf("%v %v %d at %d: %+v, want %+v", c.Location, c.Unit, c.Anchor, now, p, w)
		}
	}
	i, _ := slices.BinarySearchFunc(want, walkFrom, func(p Period, now int64) int { return cmp.Compare(p.End, now+1) })
	j, _ := slices.BinarySearchFunc(clock, want[i].Start, func(s shift, now int64) int { return cmp.Compare(s.at*secondMicros, now) })
	for end := walkFrom; end <= walkTo; i++ {
		w := want[i]
		check(w.Start, w)
		for end = w.End; j < len(clock) && clock[j].at*secondMicros < end; j++ {
			check(clock[j].at*secondMicros, w)
		}
		check(w.End-1, w)
	}
}

// walkChanges walks the hours around every change of a clock, and compares the one that
// follows it with a scan over the minutes.
func walkChanges(t *testing.T, h *clockHistory) {
	t.Helper()
	var seen []int64
	c := headgate.Calendar{Unit: headgate.Hour, Location: h.loc}
	for _, s := range h.clock[1:] {
		seen = append(seen, s.at)
		at := s.at * secondMicros
		checkTiles(t, c, at-2*hourSeconds*secondMicros, at+2*hourSeconds*secondMicros)
		checkPeriod(t, c, at-1)
		checkPeriod(t, c, at)
	}
	if known := transitions(h.loc, scanFrom, scanTo); !slices.Equal(seen, known) {
		t.Errorf("the scan sees changes at %v, the zone's file has them at %v", seen, known)
	}
}

// TestOddDays has what is known of days on which clocks did what they seldom do.
func TestOddDays(t *testing.T) {
	for _, test := range []struct {
		zone, date string
		length     string
		why        string
	}{
		{"Asia/Kathmandu", "1986-01-01", "23h45m", "from 5:30 to 5:45 ahead"},
		{"Africa/Monrovia", "1972-01-07", "23h15m30s", "from 44:30 behind to Greenwich's"},
		{"America/Guyana", "1975-08-01", "23h15m", "from 3:45 to 3:00 behind"},
		{"Pacific/Kiritimati", "1979-10-01", "23h20m", "from 10:40 to 10:00 behind"},
		{"America/Montevideo", "1974-01-13", "22h30m", "summer time of an hour and a half"},
		{"America/Caracas", "2007-12-09", "24h30m", "from 4:00 to 4:30 behind"},
		{"America/Caracas", "2016-05-01", "23h30m", "and back"},
		{"Asia/Pyongyang", "2015-08-14", "24h30m", "from 9:00 to 8:30 ahead, at midnight"},
		{"Asia/Pyongyang", "2018-05-04", "23h30m", "and back"},
		{"Australia/Lord_Howe", "2026-04-05", "24h30m", "summer time of half an hour"},
		{"Antarctica/Casey", "2020-03-08", "27h", "from 11:00 to 8:00 ahead"},
		{"Antarctica/Casey", "2020-10-04", "21h", "and back"},
		{"Antarctica/Vostok", "1994-01-31", "31h", "from 7:00 ahead to Greenwich's"},
		{"Antarctica/Vostok", "1994-11-01", "17h", "and back"},
		{"Pacific/Kwajalein", "1993-08-20", "24h", "the day before the date line moved"},
		{"Pacific/Kwajalein", "1993-08-22", "24h", "and the next one"},
		{"Pacific/Kiritimati", "1994-12-30", "24h", "likewise"},
		{"Pacific/Kiritimati", "1995-01-01", "24h", "likewise"},
		{"Europe/Lisbon", "1992-09-27", "24h", "from summer time to Central European Time: the clock stands as it did"},
	} {
		day, err := time.Parse(time.DateOnly, test.date)
		if err != nil {
			t.Fatal(err)
		}
		label := day.Unix() / daySeconds
		c := headgate.Calendar{Unit: headgate.Day, Location: location(t, test.zone)}
		p := PeriodAt(c, day.UnixMicro())
		for p.Label < label {
			p = PeriodAt(c, p.End)
		}
		for p.Label > label {
			p = PeriodAt(c, p.Start-1)
		}
		length := time.Duration(p.End-p.Start) * time.Microsecond
		if want, err := time.ParseDuration(test.length); err != nil || p.Label != label || length != want {
			t.Errorf("%s: %s has %v, want %s: %s (%v)", test.zone, date(p.Label), length, test.length, test.why, err)
		}
	}
}
