package redisstore

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// calendarName identifies a calendar as [headgate.Prepared.SameNumbers] does: by
// unit, anchor and the zone's name.
func calendarName(c headgate.Calendar) string {
	zone := "UTC"
	if c.Location != nil {
		zone = c.Location.String()
	}
	return fmt.Sprintf("%d/%d/%.200s", c.Unit, c.Anchor, zone)
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
	present := algo.PeriodAt(c, at)
	next := algo.PeriodAt(c, present.End)
	buf := make([]byte, 0, 4*3*8)
	for _, p := range [...]algo.Period{algo.PeriodAt(c, present.Start-1), present, next, algo.PeriodAt(c, next.End)} {
		for _, n := range [...]int64{p.Label, p.Start, p.End} {
			buf = binary.LittleEndian.AppendUint64(buf, math.Float64bits(float64(n)))
		}
	}
	known = stretch{present.Start, present.End, string(buf)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known) >= maxCalendars {
		s.known = make(map[headgate.Calendar]stretch)
	}
	s.known[c] = known
	return known.text
}
