package meter

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

const (
	// rateSeconds is how many seconds are kept apart.
	rateSeconds = 300
	// maxKinds is how many combinations of application and reason are told apart in a
	// second's place of a minute; the others count in total only.
	maxKinds = 4_096
	// kindMinutes is how many minutes of them are kept.
	kindMinutes = 5
)

// second is what was decided in a second.
type second struct{ at, allowed, denied int64 }

// kind is by what decisions are told apart.
type kind struct {
	application string
	reason      headgate.Reason
	allowed     bool
}

// minute is what was decided in a minute.
type minute struct {
	at    int64
	kinds map[kind]*tally
	last  *tally // where the last decision was counted: often that of the next, too
}

// tally is how many decisions of a kind there were.
type tally struct {
	kind
	n int64
}

// rates counts decisions of the last minutes.
type rates struct {
	seconds [rateSeconds]second
	minutes [kindMinutes + 1]minute
}

func (r *rates) count(d *gate.Decision, now int64) {
	s := &r.seconds[now%rateSeconds]
	if s.at != now {
		*s = second{at: now}
	}
	if d.Allowed {
		s.allowed++
	} else {
		s.denied++
	}
	r.minutes[now/60%int64(len(r.minutes))].add(kind{d.Application, d.Reason, d.Allowed}, now/60)
}

// add counts a decision of the minute at.
func (m *minute) add(k kind, at int64) {
	if m.at != at {
		*m = minute{at: at, kinds: m.kinds}
		clear(m.kinds)
	}
	if m.last == nil || m.last.kind != k {
		t, known := m.kinds[k]
		if !known {
			if len(m.kinds) >= maxKinds {
				return
			}
			if m.kinds == nil {
				m.kinds = make(map[kind]*tally)
			}
			k.application = strings.Clone(k.application)
			t = &tally{kind: k}
			m.kinds[k] = t
		}
		m.last = t
	}
	m.last.n++
}

// Second is what was decided in a second.
type Second struct {
	At              time.Time
	Allowed, Denied int64
}

// Kind is what was decided for an application.
type Kind struct {
	Application string
	Reason      headgate.Reason
	Allowed     bool
	Count       int64
}

// Rates is what this process has decided lately.
type Rates struct {
	// Seconds are those of the window, the oldest first; the last one has not ended.
	Seconds []Second
	// Kinds are those of the minutes in which the window is, the most frequent first.
	Kinds []Kind
	// Since is when the first of those minutes began.
	Since time.Time
}

// MaxWindow is the longest window of rates.
const MaxWindow = rateSeconds * time.Second

// Rates returns what was decided within a window of 1 s to [MaxWindow] that ends now.
func (m *Meter) Rates(window time.Duration) Rates {
	now := m.Now().Unix()
	n := int64(min(max(window/time.Second, 1), rateSeconds))
	out := Rates{Seconds: make([]Second, n)}
	first := now - n + 1
	for i := range out.Seconds {
		out.Seconds[i].At = time.Unix(first+int64(i), 0).UTC()
	}
	from := max(first/60, now/60-kindMinutes+1)
	out.Since = time.Unix(from*60, 0).UTC()
	kinds := make(map[kind]int64)
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for j := range s.rates.seconds {
			if x := &s.rates.seconds[j]; x.at >= first && x.at <= now {
				out.Seconds[x.at-first].Allowed += x.allowed
				out.Seconds[x.at-first].Denied += x.denied
			}
		}
		for j := range s.rates.minutes {
			if x := &s.rates.minutes[j]; x.at >= from && x.at <= now/60 {
				for k, t := range x.kinds {
					kinds[k] += t.n
				}
			}
		}
		s.mu.Unlock()
	}
	for k, n := range kinds {
		out.Kinds = append(out.Kinds, Kind{k.application, k.reason, k.allowed, n})
	}
	slices.SortFunc(out.Kinds, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Application, b.Application), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
