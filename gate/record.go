package gate

import (
	"cmp"
	"math"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/policy"
)

// record is what the policy says of one subject.
type record struct {
	plan      *plan // nil if it names none
	timezone  *time.Location
	overrides []override
}

type override struct {
	*policy.Override
	from, until int64 // microseconds since the Unix epoch; until is exclusive
}

func newRecord(s *policy.Subject, p *plan) *record {
	r := &record{plan: p, timezone: s.Timezone}
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
	count, period, burst int64
	unit                 headgate.CalendarUnit
}

// adjust returns base in another zone or with the numbers of o, either of which
// may be nil. The zone is for quotas only.
func (a *adjusted) adjust(base *headgate.Limit, zone *time.Location, o *policy.Override) (*headgate.Prepared, error) {
	if base.Algorithm != headgate.Quota {
		zone = nil
	}
	key := adjustment{base: base}
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
