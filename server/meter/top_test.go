package meter

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate/server/records"
)

// unlimited has decisions that no store has dated: they are of the present.
const unlimited = `
version: 1
plans: {free: {limits: []}}
applications: {email: {default_plan: free}, web: {default_plan: free}}
`

// Among a million of subjects that come once, those that come often are found; what is
// said of each holds; and memory stays as it is.
func TestTopFlood(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, unlimited)
	m := New(Config{Records: newLedger(t, c), Now: c.now, MaxRows: 1000})
	d := e.take(sends("x", 1))
	const flood, heavies = 1_000_000, 20
	heavy := func(i int) (name string, times int) { return fmt.Sprint("heavy", i), 2000 + 200*i }
	r := rand.New(rand.NewPCG(1, 1))
	real := make(map[string]int64)
	var left []string // of the heavy ones, in any order
	for i := range heavies {
		name, times := heavy(i)
		for range times {
			left = append(left, name)
		}
	}
	r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	var before, after runtime.MemStats
	every := flood / len(left)
	for n := range flood {
		if n == flood/2 {
			runtime.GC()
			runtime.ReadMemStats(&before)
			c.set(start.Add(topWindow)) // in two windows
		}
		d.Subject = fmt.Sprint("flood", r.Uint64())
		m.Count(d)
		if n%every == 0 && n/every < len(left) {
			d.Subject = left[n/every]
			m.Count(d)
			real[d.Subject]++
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes more", grown)
	}
	list, since := m.Top(ByRequests, "", 100)
	if !since.Equal(start) || len(list) != 100 {
		t.Errorf("since %v, %d", since, len(list))
	}
	for i, top := range list {
		times, isHeavy := real[top.Subject]
		if !isHeavy {
			times = 1
		}
		if isHeavy != (i < heavies) || top.Count-top.Over > times || top.Count < times || top.Application != "email" {
			t.Errorf("%d: %+v, %d times", i, top, times)
		}
	}
}

// What Top says of each holds for any subjects, over windows, against exact counts.
func TestTopBounds(t *testing.T) {
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 9))
		c := &clock{at: start}
		e := newEngine(t, c, unlimited)
		m := New(Config{Records: newLedger(t, c), Now: c.now, MaxRows: 1000})
		d := e.take(sends("x", 1))
		var exact [2]map[string][ranks]int64 // this window and the one before
		window := int64(-1)
		subjects := 1 << (4 + 3*seed) // 16 to 65,536
		for n := range 60_000 {
			if n%500 == 0 {
				c.set(c.now().Add(time.Duration(r.IntN(20)) * time.Second))
				if n == 30_000 {
					c.set(c.now().Add(time.Hour))
				}
			}
			now := c.now().UnixMicro() / topWindow.Microseconds()
			for ; window < now; window++ {
				if now-window > 2 {
					window = now - 2
				}
				exact[1], exact[0] = exact[0], make(map[string][ranks]int64)
			}
			d.Application = []string{"email", "web"}[r.IntN(2)]
			d.Subject = fmt.Sprint("s", int(float64(subjects)*r.Float64()*r.Float64()*r.Float64()))
			d.Allowed, d.Cost, d.Replayed = r.IntN(3) > 0, r.Int64N(50), r.IntN(10) == 0
			m.Count(d)
			k := d.Application + " " + d.Subject
			sums := exact[0][k]
			sums[ByRequests]++
			if !d.Allowed {
				sums[ByDenied]++
			} else if !d.Replayed {
				sums[ByCost] += d.Cost
			}
			exact[0][k] = sums
			if n%6_000 != 5_999 {
				continue
			}
			for by := range ranks {
				for _, application := range []string{"", "web"} {
					list, since := m.Top(by, application, 1<<20)
					if !since.Equal(time.UnixMicro((now - 1) * topWindow.Microseconds())) {
						t.Fatalf("since %v", since)
					}
					seen := make(map[string]bool)
					for i, top := range list {
						k := top.Application + " " + top.Subject
						real := exact[0][k][by] + exact[1][k][by]
						if top.Count-top.Over > real || real > top.Count || seen[k] || application != "" && top.Application != application {
							t.Fatalf("%+v, but %d", top, real)
						}
						if i > 0 && top.Count-top.Over > list[i-1].Count-list[i-1].Over {
							t.Fatalf("%+v behind %+v", top, list[i-1])
						}
						if subjects < topSlots && top.Over != 0 {
							t.Fatalf("%+v of few", top)
						}
						seen[k] = true
					}
					if few, _ := m.Top(by, application, 3); len(few) != 3 || few[2] != list[2] {
						t.Fatalf("%+v", few)
					}
				}
			}
		}
	}
	var m Meter
	m.Now = time.Now
	if list, _ := m.Top(ByRequests, "", -1); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

// Names are cut between characters.
func TestTopNames(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, simple)
	m := New(Config{Records: newLedger(t, c), Now: c.now})
	for _, name := range []string{
		strings.Repeat("x", topSubject), strings.Repeat("x", topSubject+1), strings.Repeat("é", topSubject/2+1), "x" + strings.Repeat("é", topSubject/2),
		strings.Repeat("世", 100), "x" + strings.Repeat("😀", 100), "a\xff", strings.Repeat("\x80", 300),
	} {
		m.Count(e.take(sends(name, 600_000_000)))
		list, _ := m.Top(ByCost, "email", 100)
		ratios := m.Ratios(100)
		found := func(got string) bool {
			if !utf8.ValidString(got) {
				t.Errorf("%q", got)
			}
			// At most a character is lost of what there is room for.
			if !utf8.ValidString(name) {
				return strings.ContainsRune(got, utf8.RuneError)
			}
			return strings.HasPrefix(name, got) && len(got) > min(len(name), topSubject)-utf8.UTFMax
		}
		if !slices.ContainsFunc(list, func(top Top) bool { return found(top.Subject) }) || !slices.ContainsFunc(ratios, func(r Ratio) bool { return found(r.Subject) }) {
			t.Errorf("%q is not found", name)
		}
	}
	flush(t, m)
}

// Who says nobody is not ranked, and is counted.
func TestTopNobody(t *testing.T) {
	c := &clock{at: start}
	e, l := newEngine(t, c, unlimited), newLedger(t, c)
	m := New(Config{Records: l, Now: c.now})
	m.Count(e.take(sends("", 1)))
	flush(t, m)
	if list, _ := m.Top(ByRequests, "", 10); len(list) != 0 || l.total(func(u *records.Usage) bool { return u.Subject == "" }).allowed != 1 {
		t.Errorf("%+v", list)
	}
}
