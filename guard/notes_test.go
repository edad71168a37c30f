package guard

import (
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// level returns what is noted of a key.
func (n *notes) level(l *headgate.Prepared, owner string) (note, bool) {
	s, tag := n.set(l, owner)
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.find(tag); w != nil {
		return *w, true
	}
	return note{}, false
}

// Only levels below the share are noted, and bans that hold.
func TestNotes(t *testing.T) {
	n := newNotes()
	bucket := prepare(t, headgate.PerSecond(10))
	window := prepare(t, headgate.Window(10, time.Minute))
	slots := prepare(t, headgate.InFlight(10, time.Minute))
	ban := prepare(t, headgate.Limit{Algorithm: headgate.Ban, Count: 3, Period: time.Minute, TTL: time.Hour})
	soft := headgate.QuotaPer(10, headgate.Day)
	soft.Soft = true
	const at = 1_000_000
	for _, c := range []struct {
		name  string
		limit *headgate.Prepared
		o     headgate.Outcome
		noted bool
		until int64
	}{
		{"below the share of 4", bucket, headgate.Outcome{Limit: 10, Remaining: 3, ResetAfter: time.Second}, true, at + 1_000_000},
		{"lower still", bucket, headgate.Outcome{Limit: 10, Remaining: 0, ResetAfter: time.Second}, true, at + 1_000_000},
		{"the share", bucket, headgate.Outcome{Limit: 10, Remaining: 4, ResetAfter: time.Second}, false, 0},
		{"window", window, headgate.Outcome{Limit: 10, Remaining: 3, ResetAfter: time.Minute}, true, at + 60_000_000},
		{"window that ends now", window, headgate.Outcome{Limit: 10, Remaining: 3}, false, 0},
		{"slots", slots, headgate.Outcome{Limit: 10, ResetAfter: time.Second}, false, 0},
		{"soft", prepare(t, soft), headgate.Outcome{Limit: 10, ResetAfter: time.Second}, false, 0},
		{"banned", ban, headgate.Outcome{Limit: 3, RetryAfter: time.Hour, ResetAfter: time.Hour}, true, at + 3600_000_000},
		{"no longer banned", ban, headgate.Outcome{Limit: 3, Allowed: true, Remaining: 0, ResetAfter: time.Hour}, false, 0},
	} {
		n.see(c.limit, "a", &c.o, at, 2)
		w, noted := n.level(c.limit, "a")
		if noted != c.noted || noted && (w.level != c.o.Remaining || w.at != at || w.until != c.until) {
			t.Errorf("%s: noted %v, %+v", c.name, noted, w)
		}
		if _, noted := n.level(c.limit, "b"); noted {
			t.Errorf("%s: noted of another", c.name)
		}
	}
}

// A million keys leave as many notes as there is room for, and those that are of
// use for longest.
func TestNotesAreBounded(t *testing.T) {
	n := newNotes()
	l := prepare(t, headgate.PerSecond(10))
	const keys, lasting = 200_000, 1_000
	for i := range keys {
		o := headgate.Outcome{Limit: 10, ResetAfter: time.Second}
		if i < lasting {
			o.ResetAfter = time.Hour
		}
		n.see(l, fmt.Sprint(i), &o, 1, 1)
	}
	var all, last int
	for i := range n.sets {
		for _, w := range n.sets[i].ways {
			if w.until != 0 {
				all++
			}
		}
	}
	for i := range lasting {
		if _, noted := n.level(l, fmt.Sprint(i)); noted {
			last++
		}
	}
	if most := noteSets * noteWays; all > most || all < most*99/100 || last != lasting {
		t.Errorf("%d of %d are noted, %d of %d that last", all, keys, last, lasting)
	}
}
