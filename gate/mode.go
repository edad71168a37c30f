package gate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// Mode overrules the modes of a policy for a time: the switch for a bad night.
type Mode struct {
	// Application and Rule are whose requests it is for; empty for all. A Rule
	// needs its Application.
	Application, Rule string
	// Shadow stops all limits from refusing, while they go on counting; false
	// makes all of them refuse, also those that the policy has in shadow.
	Shadow bool
	// Until is when it ends by itself, by [Gate.Now]; a time that is past ends it
	// at once.
	Until time.Time
}

// modes are the overrides in force. A set never changes.
type modes []modeOverride

type modeOverride struct {
	Mode
	until int64 // microseconds since the Unix epoch
}

// find returns the narrowest override for a rule's requests that holds at now;
// nil if none does.
func (m modes) find(application, rule string, now int64) *modeOverride {
	for i := range m {
		o := &m[i]
		if (o.Application == "" || o.Application == application) && (o.Rule == "" || o.Rule == rule) && now < o.until {
			return o
		}
	}
	return nil
}

// SetMode puts m in force, in place of one with the same application and rule.
// Overrides are kept in memory only. The error is an *headgate.Error: NotFound
// for an application or rule that the policy does not have.
func (g *Gate) SetMode(m Mode) error {
	if err := g.current.Load().checkMode(&m); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.Now()
	next := slices.DeleteFunc(slices.Clone(g.modesAt(now)), func(o modeOverride) bool {
		return o.Application == m.Application && o.Rule == m.Rule
	})
	if until := m.Until.UnixMicro(); until > now {
		next = append(next, modeOverride{m, until})
	}
	slices.SortFunc(next, narrowestFirst)
	g.modes.Store(&next)
	return nil
}

func narrowestFirst(a, b modeOverride) int {
	if (a.Rule == "") != (b.Rule == "") {
		return strings.Compare(b.Rule, a.Rule)
	}
	if (a.Application == "") != (b.Application == "") {
		return strings.Compare(b.Application, a.Application)
	}
	return strings.Compare(a.Application+"/"+a.Rule, b.Application+"/"+b.Rule)
}

func (s *snapshot) checkMode(m *Mode) error {
	if m.Application == "" {
		if m.Rule != "" {
			return &headgate.Error{Code: headgate.InvalidRequest, Field: "application", Err: errors.New("is required with a rule")}
		}
		return nil
	}
	a := s.applications[m.Application]
	if a == nil {
		return &headgate.Error{Code: headgate.NotFound, Field: "application", Err: fmt.Errorf("%.64q is not in the policy", m.Application)}
	}
	if m.Rule != "" && !slices.ContainsFunc(a.rules, func(r *rule) bool { return r.name == m.Rule }) {
		return &headgate.Error{Code: headgate.NotFound, Field: "rule", Err: fmt.Errorf("%.64q is not a rule of application %s", m.Rule, a.name)}
	}
	return nil
}

// Modes returns the overrides in force, the narrowest first.
func (g *Gate) Modes() []Mode {
	var out []Mode
	for _, o := range g.modesAt(g.Now()) {
		out = append(out, o.Mode)
	}
	return out
}

// modesAt returns the overrides that hold at now.
func (g *Gate) modesAt(now int64) modes {
	m := g.modes.Load()
	if m == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(*m), func(o modeOverride) bool { return now >= o.until })
}

// percentile places a subject among all of an application's: 0 to 99, always the
// same one, on every node. FNV-1a over both names, mixed as in MurmurHash3's
// finalizer, as FNV alone spreads short names badly in its high bits.
func percentile(application, subject string) int {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := 0; i < len(application); i++ {
		h = (h ^ uint64(application[i])) * prime
	}
	h = (h ^ '/') * prime
	for i := 0; i < len(subject); i++ {
		h = (h ^ uint64(subject[i])) * prime
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return int((h >> 32) * 100 >> 32)
}
