package policy

import (
	"errors"
	"fmt"
	"time"

	"github.com/headgate/headgate"
)

// mode reads mode and enforce_percent.
func (r *reader) mode(o object) Mode {
	m := Mode{Shadow: o.at("mode").word("enforce", "shadow") == 1}
	percent := o.at("enforce_percent")
	switch {
	case !percent.present():
	case percent.digits() == "100":
		percent.fault("100 is everybody: write mode: enforce, or leave it out")
	case percent.digits() == "0":
		percent.fault("0 is nobody: write mode: shadow")
	case m.Shadow:
		percent.fault("mode: shadow refuses nobody: leave one of the two out")
	default:
		n, _ := percent.integer(1, 99)
		m.Percent = int(n)
	}
	return m
}

// onStoreError reads what happens while the store cannot decide.
func (r *reader) onStoreError(v value) StoreErrorMode {
	if !v.present() {
		return Inherit
	}
	mode := []StoreErrorMode{Local, ClosedMode, Open}[v.word("local", "closed", "open")]
	if mode == Open {
		v.warn("open lets every request pass while the store is away: nothing is limited then")
	}
	return mode
}

// closedUnlessSaid reports whether limits with the algorithm are closed while the
// store is away, unless something is said of them.
func closedUnlessSaid(a headgate.Algorithm) bool {
	return a == headgate.Quota || a == headgate.Concurrency
}

// inheriting returns the id of the first limit with such an algorithm that takes
// its mode from where it stands, "" if there is none.
func inheriting(prefix string, limits []Limit) string {
	for i := range limits {
		if l := &limits[i]; l.OnStoreError == Inherit && closedUnlessSaid(l.Algorithm) && countLimits(limits[i:i+1]) > 0 {
			return prefix + l.Name
		}
	}
	return ""
}

// warnLocal warns at v, where mode is written, if that makes the limit with the
// id local, which would be closed without it.
func (v value) warnLocal(mode StoreErrorMode, id string) {
	if v.is("local") && mode == Local && id != "" {
		v.warn("local lets every node admit its share of %s while the store is away, beside what was used before: about 1.8 times the limit in all, more where nodes were cut off; closed never goes over", id)
	}
}

var banKeys = keys{allowed: []string{"after", "within", "for"}}

func (r *reader) ban(v value) *Ban {
	if !v.present() {
		return nil
	}
	before := r.found
	o := v.object(banKeys)
	b := &Ban{Pos: v.pos}
	b.After, _ = o.need("after", "the number of denials").integer(1, headgate.MaxInt)
	b.Within = r.longer(o.need("within", "the time in which denials are counted, such as 1m"))
	b.For = r.longer(o.need("for", "how long the subject is refused then, such as 15m"))
	if r.found > before {
		return b
	}
	l := headgate.Limit{Name: banName, Algorithm: headgate.Ban, Count: b.After, Period: b.Within, TTL: b.For}
	if _, err := l.Prepare(); err != nil {
		v.fault("%v", innermost(err))
	}
	return b
}

// longer reads a duration that is not 0.
func (r *reader) longer(v value) time.Duration {
	if !v.present() {
		return 0
	}
	before := r.found
	d := r.duration(v)
	if d == 0 && r.found == before {
		v.fault("must be longer than 0s")
	}
	return d
}

// banName is the name of a ban in ids: RULE/ban and app/ban.
const banName = "ban"

// clashWithBan refuses a limit whose id is that of the ban beside it.
func (r *reader) clashWithBan(v value, limits []Limit, b *Ban) {
	if b == nil {
		return
	}
	for i := range limits {
		if limits[i].Name == banName {
			r.fault(limits[i].Pos, fmt.Sprintf("%s[%d].name", v.path, i), "ban is the name of the ban, in line %d: choose another name", b.Pos.Line)
		}
	}
}

// innermost returns the error that others wrap.
func innermost(err error) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		err = e
	}
	return err
}
