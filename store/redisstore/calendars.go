package redisstore

import (
	"cmp"
	"slices"
	"strconv"
	"sync"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// appendCalendar appends, as MessagePack, what identifies a calendar as
// [headgate.Prepared.SameNumbers] does: unit, anchor and the zone's name.
func appendCalendar(buf []byte, c headgate.Calendar) []byte {
	var space [64]byte
	name := strconv.AppendUint(space[:0], uint64(c.Unit), 10)
	name = strconv.AppendInt(append(name, '/'), int64(c.Anchor), 10)
	name = append(name, '/')
	if c.Location == nil {
		name = append(name, "UTC"...)
	} else {
		name = append(name, c.Location.String()...)
	}
	return appendString(buf, name)
}

// calendars remembers the periods around the present, which the script cannot
// compute. The zero value is ready.
type calendars struct {
	mu    sync.RWMutex
	known map[headgate.Calendar]stretch
}

// stretch is a few periods that follow each other.
type stretch struct {
	// from and till bound the period that is present.
	from, till int64
	text       string
}

// maxCalendars bounds what is remembered: every zone that is loaded anew is another.
const maxCalendars = 1024

// around returns the periods around the instant, as the script reads them: that
// before it, its own, and the next two.
func (s *calendars) around(c headgate.Calendar, at int64) string {
	s.mu.RLock()
	known, ok := s.known[c]
	s.mu.RUnlock()
	if ok && known.from <= at && at < known.till {
		return known.text
	}
	all := stretchAt(c, at)
	known = stretch{all[1].Start, all[1].End, encodePeriods(all)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known) >= maxCalendars {
		s.known = make(map[headgate.Calendar]stretch)
	}
	s.known[c] = known
	return known.text
}

// across returns the periods around all of the instants.
func (s *calendars) across(c headgate.Calendar, instants []int64) string {
	if len(instants) == 1 {
		return s.around(c, instants[0])
	}
	var all []algo.Period
	for _, at := range instants {
		all = append(all, stretchAt(c, at)...)
	}
	// The script takes the period that stands after another for its next one.
	slices.SortFunc(all, func(a, b algo.Period) int { return cmp.Compare(a.Start, b.Start) })
	return encodePeriods(slices.CompactFunc(all, func(a, b algo.Period) bool { return a.Start == b.Start }))
}

// stretchAt returns the period before the instant, its own, and the next two.
func stretchAt(c headgate.Calendar, at int64) []algo.Period {
	present := algo.PeriodAt(c, at)
	next := algo.PeriodAt(c, present.End)
	return []algo.Period{algo.PeriodAt(c, present.Start-1), present, next, algo.PeriodAt(c, next.End)}
}

func encodePeriods(all []algo.Period) string {
	buf := make([]byte, 0, len(all)*3*8)
	for _, p := range all {
		buf = appendNumber(appendNumber(appendNumber(buf, p.Label), p.Start), p.End)
	}
	return string(buf)
}
