package meter

import (
	"cmp"
	"hash/maphash"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

// rowKey is by what usage is told apart.
type rowKey struct {
	application, subject, operation, plan, unit string
	zone                                        string // IANA name
	anchor                                      int
	hour                                        int64 // when it begins, in microseconds since the Unix epoch
}

// count is what was used.
type count struct{ allowed, denied, cost, overage int64 }

func (c *count) add(by count) {
	c.allowed, c.denied = c.allowed+by.allowed, c.denied+by.denied
	c.cost, c.overage = sum(c.cost, by.cost), sum(c.overage, by.overage)
}

// sum is a + b, or as near to it as the counters of records reach.
func sum(a, b int64) int64 { return max(min(a+b, headgate.MaxInt), -headgate.MaxInt) }

// row is what was used under a key. Rows of one hash are a chain, the newest first: they
// differ by unit, anchor and hour, so there are few.
type row struct {
	rowKey
	count
	next *row
}

// rows are those of a shard, by a hash of their names.
type rows map[uint64]*row

// find returns the row of a key; nil for none.
func (r rows) find(hash uint64, key *rowKey) *row {
	for x := r[hash]; x != nil; x = x.next {
		if x.rowKey == *key {
			return x
		}
	}
	return nil
}

// use counts what a decision used.
func (m *Meter) use(s *shard, o owner, d *gate.Decision, now int64) {
	used := func(unit string, cost int64) count {
		if !d.Allowed {
			return count{denied: 1}
		}
		return count{allowed: 1, cost: cost, overage: overage(d, unit, cost)}
	}
	key, hash := m.key(s, o, d, now)
	key.unit = policy.Requests
	if m.add(s, hash, &key, used(key.unit, d.Cost)) {
		m.nobody.Add(1)
	}
	for _, c := range d.Costs() {
		key.unit = c.Unit
		m.add(s, hash, &key, used(c.Unit, c.Cost))
	}
}

// correct counts what a settlement changed.
func (m *Meter) correct(s *shard, o owner, d *gate.Decision, now int64) {
	key, hash := m.key(s, o, d, now)
	change := func(unit string, by int64) {
		if by != 0 {
			key.unit = unit
			m.add(s, hash, &key, count{cost: by, overage: overage(d, unit, by)})
		}
	}
	change(policy.Requests, d.Cost-d.Reserved)
	for _, c := range d.Costs() {
		change(c.Unit, c.Cost-c.Reserved)
	}
}

// overage is how much of what was charged in a unit went beyond a quota; negative for what
// a settlement gave back of it. Of several quotas it is that which was exceeded most. One
// in shadow counts as others do, as what it was charged is settled as theirs is; but not
// what this node's share of a quota, or one that owners without room have in common, says.
func overage(d *gate.Decision, unit string, by int64) (over int64) {
	if d.Degraded != "" {
		return 0
	}
	limits := d.Limits()
	for i := range limits {
		l := &limits[i]
		if l.Limit.Algorithm != headgate.Quota || l.Unit != unit || !l.Allowed || l.Shared {
			continue
		}
		charged := by
		if !d.Corrects {
			charged = l.Cost // more than by where several scopes have the same budget
		}
		beyond := l.Used - l.Later - l.Outcome.Limit
		if change := max(0, beyond) - max(0, beyond-charged); abs(change) > abs(over) {
			over = change
		}
	}
	return over
}

func abs(n int64) int64 { return max(n, -n) }

// key says where a decision counts, but for the unit, and by what hash it is found.
func (m *Meter) key(s *shard, o owner, d *gate.Decision, now int64) (rowKey, uint64) {
	k := rowKey{
		application: d.Application, subject: d.Subject, operation: cmp.Or(d.Operation, d.Rule), plan: d.Plan,
		zone: "UTC", anchor: max(d.Anchor, 1),
	}
	if d.Zone != nil {
		k.zone = d.Zone.String()
	}
	if h := &s.hour; h.zone == d.Zone && now >= h.Start && now < h.End {
		k.hour = h.Start
	} else {
		h.zone, h.Period = d.Zone, m.hour(k.zone, d.Zone, now)
		k.hour = h.Start
	}
	return k, m.hash(o, &k)
}

// hash is that of the names of a key, o being that of its owner.
func (m *Meter) hash(o owner, k *rowKey) uint64 {
	h := mix(o.hash, maphash.String(m.seed, k.operation))
	return mix(mix(h, maphash.String(m.seed, k.plan)), maphash.String(m.seed, k.zone))
}

// hour returns the hour in which an instant falls.
func (m *Meter) hour(zone string, loc *time.Location, now int64) algo.Period {
	if p, ok := m.hours.Load(zone); ok && now >= p.Start && now < p.End {
		return p
	}
	p := algo.PeriodAt(headgate.Calendar{Unit: headgate.Hour, Location: loc}, now)
	zone = strings.Clone(zone)
	m.zones.Store(zone, cmp.Or(loc, time.UTC)) // before there is a row of it
	m.hours.Store(zone, p)
	return p
}

// add counts for a key, and reports whether it counts for nobody, as there is no room.
func (m *Meter) add(s *shard, hash uint64, key *rowKey, by count) (nobody bool) {
	r := s.rows.find(hash, key)
	if r == nil {
		r, nobody = m.newRow(s, *key)
	}
	r.count.add(by)
	return nobody
}

// newRow makes a row, or finds the one that counts for it where there is no room or its
// names are not as records take them. Shards may have rows of the same key then.
func (m *Meter) newRow(s *shard, k rowKey) (r *row, nobody bool) {
	k.subject, k.operation, k.plan = clean(k.subject, gate.MaxSubject), clean(k.operation, gate.MaxSubject), clean(k.plan, gate.MaxSubject)
	if m.rows.Load() >= int64(m.MaxRows) {
		// Of whatever hour it is put on record in: or there would be rows of each hour for as
		// long as records are away.
		k.subject, k.operation, k.plan, k.hour = "", "", "", 0
		nobody = true
	} else if !m.operations.know(k.application, k.operation, k.hour) {
		k.operation = other
	}
	hash := m.hash(m.ownerOf(k.application, k.subject), &k)
	if r := s.rows.find(hash, &k); r != nil {
		return r, nobody
	}
	// What the key points to belongs to the request, or to the policy.
	all := strings.Join([]string{k.application, k.subject, k.operation, k.plan, k.unit, k.zone}, "")
	for _, part := range []*string{&k.application, &k.subject, &k.operation, &k.plan, &k.unit, &k.zone} {
		n := len(*part)
		*part, all = all[:n], all[n:]
	}
	r = &row{rowKey: k, next: s.rows[hash]}
	s.rows[hash] = r
	if n := m.rows.Add(1); n >= int64(m.MaxRows)/2 {
		select {
		case m.full <- struct{}{}:
		default:
		}
	}
	return r, nobody
}

// clean is a name as records take it: valid UTF-8 without NUL, of so many bytes at most. A
// request has no other ones, but a ticket that was altered has.
func clean(name string, most int) string {
	if !utf8.ValidString(name) || strings.IndexByte(name, 0) >= 0 {
		name = strings.ReplaceAll(strings.ToValidUTF8(name, "\uFFFD"), "\x00", "\uFFFD")
	}
	return name[:cut(name, most)]
}

// cut is how many of the first bytes of a string there are without a part of a character.
func cut(s string, most int) int {
	if len(s) <= most {
		return len(s)
	}
	for n := most; n > most-utf8.UTFMax; n-- {
		if utf8.RuneStart(s[n]) {
			return n
		}
	}
	return most // it is no UTF-8
}

// maxOperations is how many operations of an application are told apart in an hour:
// callers name them, and each is a row of every subject. The others count as one.
const maxOperations = 1_000

// other stands for all operations beyond that.
const other = "other"

// operations knows the operations of each application that were seen in an hour.
type operations struct {
	mu   sync.Mutex
	hour int64 // since the Unix epoch
	seen map[string]map[string]struct{}
}

// know reports whether an operation is counted by its name in the hour that begins so
// many microseconds after the Unix epoch.
func (o *operations) know(application, operation string, begins int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if hour := begins / time.Hour.Microseconds(); hour > o.hour || o.seen == nil {
		o.hour, o.seen = hour, make(map[string]map[string]struct{})
	}
	names := o.seen[application]
	if _, ok := names[operation]; ok {
		return true
	}
	if len(names) >= maxOperations {
		return false
	}
	if names == nil {
		names = make(map[string]struct{})
		o.seen[strings.Clone(application)] = names
	}
	names[strings.Clone(operation)] = struct{}{}
	return true
}
