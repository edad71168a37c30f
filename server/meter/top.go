package meter

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/gate"
)

// By is after what subjects are ranked.
type By int

// The ranks.
const (
	ByRequests By = iota
	ByDenied
	ByCost // in requests' unit, of those that were allowed
	ranks
)

const (
	// topWindow is for how long a sketch counts; the one before it is kept too.
	topWindow = 5 * time.Minute
	// topSlots is how many subjects a sketch of a shard follows.
	topSlots = 64
	// The bytes that are kept of names.
	topApplication, topSubject = 64, 192
)

// tops ranks the subjects of a shard, in this window and the one before.
type tops struct {
	window   int64            // number of the present one
	sketches [2][ranks]sketch // by the last bit of the window's number
}

func (t *tops) count(hash uint64, d *gate.Decision, now int64) {
	if d.Subject == "" {
		return
	}
	t.turn(now / topWindow.Microseconds())
	k := &t.sketches[t.window&1]
	k[ByRequests].add(hash, d, 1)
	switch {
	case !d.Allowed:
		k[ByDenied].add(hash, d, 1)
	case d.Cost > 0 && !d.Replayed:
		k[ByCost].add(hash, d, d.Cost)
	}
}

// turn begins a window, unless it has begun.
func (t *tops) turn(window int64) {
	for begun := max(t.window, window-2); begun < window; begun++ {
		for i := range ranks {
			k := &t.sketches[(begun+1)&1][i]
			k.used, k.least, k.from = 0, 0, 0
		}
	}
	t.window = max(t.window, window)
}

// sketch finds the subjects with the greatest sums among any number of them: Space-Saving
// (Metwally, Agrawal, El Abbadi 2005). One that is not followed takes the place of the
// least one, and its sum as an error.
type sketch struct {
	used int
	// least is what no sum is below, and from is the slot before which none is as low: sums
	// only grow.
	least  int64
	from   int
	hashes [topSlots]uint64
	sums   [topSlots]int64
	errors [topSlots]int64
	names  [topSlots]topName
}

// topName is a subject without pointers, so that following another one costs no memory.
type topName struct {
	application, subject uint16 // bytes of text
	text                 [topApplication + topSubject]byte
}

func (k *sketch) add(hash uint64, d *gate.Decision, by int64) {
	for i, h := range k.hashes[:k.used] {
		if h == hash {
			k.sums[i] = sum(k.sums[i], by)
			return
		}
	}
	at, least := k.used, int64(0)
	if at < topSlots {
		k.used++
	} else {
		at = k.lowest()
		least = k.sums[at]
	}
	k.hashes[at], k.sums[at], k.errors[at] = hash, sum(least, by), least
	name := &k.names[at]
	name.application = uint16(copy(name.text[:], d.Application[:cut(d.Application, topApplication)]))
	name.subject = uint16(copy(name.text[name.application:], d.Subject[:cut(d.Subject, topSubject)]))
}

// lowest returns the slot of the least sum, of a sketch that is full. Where newcomers take
// turns it looks at two slots, on the average.
func (k *sketch) lowest() int {
	for ; k.from < topSlots; k.from++ {
		if k.sums[k.from] == k.least {
			return k.from
		}
	}
	k.least = slices.Min(k.sums[:])
	k.from = slices.Index(k.sums[:], k.least)
	return k.from
}

// missed is how much a subject may have done that is not followed: no more than the least
// one that is.
func (k *sketch) missed() int64 {
	if k.used < topSlots {
		return 0
	}
	return slices.Min(k.sums[:])
}

// Top is a subject among the first.
type Top struct {
	// Subject is at most 192 bytes of its name.
	Application, Subject string
	// Count is what it did, or more: at most so much too high is it as Over says, which is
	// 0 as long as there are few others.
	Count, Over int64
}

// Top returns the first n subjects of an application, "" for all, by what they did for
// certain since an instant, which is 5 to 10 minutes ago.
func (m *Meter) Top(by By, application string, n int) (list []Top, since time.Time) {
	window := m.Now().UnixMicro() / topWindow.Microseconds()
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		s.tops.turn(window)
		list = s.tops.list(list, by, application)
		s.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b Top) int {
		return cmp.Or(cmp.Compare(b.Count-b.Over, a.Count-a.Over), cmp.Compare(b.Count, a.Count),
			strings.Compare(a.Application, b.Application), strings.Compare(a.Subject, b.Subject))
	})
	return list[:min(max(n, 0), len(list))], time.UnixMicro((window - 1) * topWindow.Microseconds()).UTC()
}

// list appends the subjects of an application, "" for all, of both windows together.
func (t *tops) list(list []Top, by By, application string) []Top {
	now, before := &t.sketches[t.window&1][by], &t.sketches[(t.window+1)&1][by]
	put := func(k *sketch, slot int, count, over int64) {
		name := &k.names[slot]
		end := name.application + name.subject
		if a := string(name.text[:name.application]); application == "" || a == application {
			subject := strings.ToValidUTF8(string(name.text[name.application:end]), "\uFFFD")
			list = append(list, Top{a, subject, sum(k.sums[slot], count), sum(k.errors[slot], over)})
		}
	}
	for slot, hash := range now.hashes[:now.used] {
		if i := slices.Index(before.hashes[:before.used], hash); i >= 0 {
			put(now, slot, before.sums[i], before.errors[i])
		} else {
			put(now, slot, before.missed(), before.missed())
		}
	}
	for slot, hash := range before.hashes[:before.used] {
		if !slices.Contains(now.hashes[:now.used], hash) {
			put(before, slot, now.missed(), now.missed())
		}
	}
	return list
}
