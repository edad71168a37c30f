package envoyrls

import "github.com/headgate/headgate/gate"

// Counts are the hits of one descriptor, told apart as envoyproxy/ratelimit tells them.
type Counts struct {
	// Total is all of them.
	Total int64
	// WithinLimit passed their limit, OverLimit did not. Of hits of which some would have
	// passed, those are neither, unless they were taken after the fact: then they are within.
	WithinLimit, OverLimit int64
	// NearLimit are those above nearPercent of the limit and not above it.
	NearLimit int64
	// Shadow are those over a limit that refuses nobody.
	Shadow int64
}

// nearPercent is the share of a limit above which hits are near it.
const nearPercent = 80

// count tells the hits of a descriptor that a rule decided. They are told of the limit that
// the response names, whether or not another descriptor refuses the call.
func (it *item) count(counted func(application, label string, c Counts)) {
	d := &it.d
	if d.Label == "" || d.Replaced || d.Cost == 0 {
		return
	}
	c := Counts{Total: d.Cost}
	l := it.binding()
	switch {
	case l == nil && d.Allowed:
		c.WithinLimit = d.Cost
	case l == nil:
	default:
		c.add(it.before(l), d.Cost, l.Outcome.Limit, l.Allowed)
		c.WithinLimit += it.drained
		if l.Shadow {
			c.Shadow = c.OverLimit
		}
	}
	counted(d.Application, d.Label, c)
}

// before returns what of a limit was used when the descriptor's hits came.
func (it *item) before(l *gate.LimitState) int64 {
	if it.d.Allowed && l.Allowed {
		return max(0, l.Used-it.d.Cost)
	}
	return l.Used
}

// add tells apart the hits that meet a limit at which so many were before.
func (c *Counts) add(before, hits, limit int64, allowed bool) {
	near, after := limit*nearPercent/100, before+hits
	switch {
	case !allowed && before >= limit:
		c.OverLimit = hits
	case !allowed:
		c.OverLimit = max(0, after-limit)
		c.NearLimit = limit - max(near, before)
	default:
		c.WithinLimit = hits
		c.NearLimit = max(0, after-max(near, before))
	}
}
