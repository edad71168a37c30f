package gate

import (
	"cmp"
	"math"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// record is what the policy, or a [Record], says of one subject. It never changes.
type record struct {
	known     bool   // it says more than banned
	plan      string // "" if it names none
	timezone  *time.Location
	anchor    int
	overrides []override
	banned    int64 // until then, in microseconds since the Unix epoch; 0 for not
	reason    string
}

type override struct {
	*policy.Override
	from, until int64 // microseconds since the Unix epoch; until is exclusive
}

func newRecord(s *policy.Subject) *record {
	r := &record{known: true, plan: s.Plan, timezone: s.Timezone, anchor: s.Anchor}
	for i := range s.Overrides {
		o := override{Override: &s.Overrides[i], from: math.MinInt64, until: math.MaxInt64}
		if !o.From.IsZero() {
			o.from = o.From.UnixMicro()
		}
		if !o.Until.IsZero() {
			o.until = o.Until.UnixMicro()
		}
		r.overrides = append(r.overrides, o)
	}
	return r
}

// override returns the one that holds for the limit at now, the last of several;
// nil if none does.
func (r *record) override(id string, now int64) *policy.Override {
	for i := len(r.overrides) - 1; i >= 0; i-- {
		if o := &r.overrides[i]; o.Limit == id && now >= o.from && now < o.until {
			return o.Override
		}
	}
	return nil
}

// adjusted keeps limits with the numbers of overrides and the zones of subjects:
// one for all subjects that have the same.
type adjusted struct {
	mu     sync.RWMutex
	limits map[adjustment]*headgate.Prepared
}

type adjustment struct {
	base                 *headgate.Limit
	zone                 string
	anchor               int
	count, period, burst int64
	unit                 headgate.CalendarUnit
}

// adjust returns base as r has it, and with the numbers of o, which may be nil. Zones
// are for quotas only, and days of the month for those of months.
func (a *adjusted) adjust(base *headgate.Limit, r *record, o *policy.Override) (*headgate.Prepared, error) {
	key := adjustment{base: base}
	zone, unit := r.timezone, base.Calendar.Unit
	if o != nil && unit == headgate.NoUnit {
		unit = o.Unit
	}
	if base.Algorithm != headgate.Quota {
		zone = nil
	} else if unit == headgate.Month {
		key.anchor = r.anchor
	}
	if zone != nil {
		key.zone = zone.String()
	}
	if o != nil {
		key.count, key.period, key.burst, key.unit = o.Count, int64(o.Period), o.Burst, o.Unit
	}
	a.mu.RLock()
	p := a.limits[key]
	a.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	l := *base
	if o != nil {
		var err error
		if l, err = o.Numbers(l); err != nil {
			return nil, err
		}
	}
	l.Calendar.Location = cmp.Or(zone, l.Calendar.Location)
	l.Calendar.Anchor = cmp.Or(key.anchor, l.Calendar.Anchor)
	p, err := l.Prepare()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if known := a.limits[key]; known != nil {
		return known, nil
	}
	if a.limits == nil {
		a.limits = make(map[adjustment]*headgate.Prepared)
	}
	a.limits[key] = p
	return p, nil
}
