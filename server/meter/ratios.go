package meter

import (
	"cmp"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// maxRatios is how many quotas of subjects a shard follows.
const maxRatios = 32

// kinds name quotas by their periods.
var kinds = [...]string{headgate.Hour: "hourly", headgate.Day: "daily", headgate.Week: "weekly", headgate.Month: "monthly", headgate.Year: "yearly"}

// ratios follows the quotas of which the most is used.
type ratios struct {
	budgets [maxRatios]uint64 // hashes
	used    [maxRatios]float64
	until   [maxRatios]int64 // when the period ends, in microseconds since the Unix epoch
	names   [maxRatios]struct {
		kind    string // of a fixed set
		subject uint8  // bytes of text
		text    [topSubject]byte
	}
}

// put takes note of how much was used of a limit. One that is not followed takes the
// place of that of which the least is used, where that is less.
func (r *ratios) put(budget uint64, subject string, l *gate.LimitState, now int64) {
	used := float64(l.Used) / float64(l.Outcome.Limit)
	at := slices.Index(r.budgets[:], budget)
	if at < 0 {
		at = 0
		for i := range r.used {
			if r.until[i] <= now {
				at = i
				break
			}
			if r.used[i] < r.used[at] {
				at = i
			}
		}
		if r.until[at] > now && r.used[at] >= used {
			return
		}
		name := &r.names[at]
		r.budgets[at], name.kind = budget, kinds[l.Limit.Calendar.Unit]
		name.subject = uint8(copy(name.text[:], subject[:cut(subject, topSubject)]))
	}
	r.used[at], r.until[at] = used, l.ResetsAt
}

// Ratio is how much of a quota a subject has used: 1 is all of it.
type Ratio struct {
	// Subject is at most 192 bytes of its name.
	Subject string
	// Kind is hourly, daily, weekly, monthly or yearly.
	Kind string
	Used float64
}

// Ratios returns the n greatest among those that this process has decided by, one for
// each subject and kind.
func (m *Meter) Ratios(n int) []Ratio {
	now := m.Now().UnixMicro()
	type who struct{ subject, kind string }
	greatest := make(map[who]float64)
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		r := &s.ratios
		for j := range r.until {
			if r.until[j] > now {
				w := who{strings.ToValidUTF8(string(r.names[j].text[:r.names[j].subject]), "\uFFFD"), r.names[j].kind}
				greatest[w] = max(greatest[w], r.used[j])
			}
		}
		s.mu.Unlock()
	}
	list := make([]Ratio, 0, len(greatest))
	for w, used := range greatest {
		list = append(list, Ratio{w.subject, w.kind, used})
	}
	slices.SortFunc(list, func(a, b Ratio) int {
		return cmp.Or(cmp.Compare(b.Used, a.Used), strings.Compare(a.Subject, b.Subject), strings.Compare(a.Kind, b.Kind))
	})
	return list[:min(max(n, 0), len(list))]
}
