package headgate

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"
	"sync/atomic"
	"time"
)

// Bounds that Prepare holds a limit to. They are those of the narrowest store,
// so that one policy has one answer on every store: integers stay below 2^53,
// where Redis' Lua and JSON are still exact.
const (
	// MaxInt is the largest count, cost and internal quantity.
	MaxInt = 1<<53 - 1
	// MaxPeriod is the longest period and the longest time to refill.
	MaxPeriod = 100 * 365 * 24 * time.Hour
	// MaxSlices is the largest number of slices of a sliding window.
	MaxSlices = 60
	// MaxLog is the largest count of a sliding log.
	MaxLog = 10_000
	// MaxInFlight is the largest count of a concurrency limit, and the largest
	// number of reservations that one budget holds at once.
	MaxInFlight = 10_000
	// MaxRemembered is the largest count of an idempotency limit.
	MaxRemembered = 64
	// MaxHold is the longest reservation.
	MaxHold = 24 * time.Hour
)

// Prepared is a limit that was checked and reduced to integers. It is made by
// [Limit.Prepare] only, never changes, and may be shared.
//
// Times are in microseconds. A bucket of N tokens per P µs, N and P divided by
// their greatest common divisor, counts in units of 1/P token: one microsecond
// refills exactly N units, one token is P units, and nothing is ever rounded.
type Prepared struct {
	// Limit is the limit as given, its defaults filled in.
	Limit
	// Label is what clients are told that the limit is called: its name, or where none was
	// given what its numbers read as, such as 60-per-minute. [New] sees to it that no two
	// such labels of a limiter are equal.
	Label string
	// ID is the identity of the budget's scope and name: 128 bits of SHA-256
	// over their length-prefixed bytes. Equal on every node.
	ID [2]uint64
	// Serial is unique to this value within the process, never 0.
	Serial uint32
	// N, P and Cap describe a bucket: units per microsecond, units per token,
	// and capacity in units. Cap+N < 2^53.
	N, P, Cap int64
	// WindowMicros is Period, SliceMicros the width of one slice, TTLMicros
	// the TTL, each in microseconds, 0 where the algorithm has none.
	WindowMicros, SliceMicros, TTLMicros int64
}

var serials atomic.Uint32

// Prepare checks the limit and reduces it to integers. The error names the
// field and the numbers; it is an *[Error] with code InvalidLimit.
func (l Limit) Prepare() (*Prepared, error) {
	p := &Prepared{Limit: l, Label: l.Name}
	if err := p.prepare(); err != nil {
		return nil, &Error{Code: InvalidLimit, Err: fmt.Errorf("limit %q: %w", p.Name, err)}
	}
	p.ID = identity(p.Scope, p.Name)
	p.Serial = serials.Add(1)
	return p, nil
}

// SameNumbers reports whether state kept under q means the same under p.
func (p *Prepared) SameNumbers(q *Prepared) bool {
	return p.Algorithm == q.Algorithm && p.Count == q.Count && p.N == q.N && p.P == q.P && p.Cap == q.Cap &&
		p.WindowMicros == q.WindowMicros && p.SliceMicros == q.SliceMicros && p.TTLMicros == q.TTLMicros &&
		p.Calendar.Unit == q.Calendar.Unit && p.Calendar.Anchor == q.Calendar.Anchor &&
		locationName(p.Calendar.Location) == locationName(q.Calendar.Location) &&
		p.Soft == q.Soft && p.Rollover == q.Rollover
}

func locationName(l *time.Location) string {
	if l == nil {
		return "UTC"
	}
	return l.String()
}

func (p *Prepared) prepare() error {
	if p.Count < 1 || p.Count > MaxInt {
		return fmt.Errorf("count %d: must be 1 to %d", p.Count, int64(MaxInt))
	}
	if len(p.Scope) > 512 {
		return fmt.Errorf("scope of %d bytes: at most 512", len(p.Scope))
	}
	if p.Burst != 0 && p.Algorithm != TokenBucket && p.Algorithm != LeakyBucket {
		return fmt.Errorf("burst %d: only buckets have one, not %v", p.Burst, p.Algorithm)
	}
	if p.Slices != 0 && p.Algorithm != SlidingWindow {
		return fmt.Errorf("slices %d: only sliding_window has them, not %v", p.Slices, p.Algorithm)
	}
	if (p.Soft || p.Rollover != 0 || p.Calendar != Calendar{}) && p.Algorithm != Quota {
		return fmt.Errorf("calendar, soft and rollover: only a quota has them, not %v", p.Algorithm)
	}
	if p.TTL != 0 && p.Algorithm < Concurrency {
		return fmt.Errorf("ttl %v: only concurrency, ban and idempotency have one, not %v", p.TTL, p.Algorithm)
	}
	var err error
	switch p.Algorithm {
	case TokenBucket, LeakyBucket:
		err = p.prepareBucket()
	case FixedWindow:
		p.WindowMicros, err = micros("period", p.Period, MaxPeriod)
	case SlidingWindow:
		err = p.prepareSliding()
	case SlidingLog:
		if p.Count > MaxLog {
			return fmt.Errorf("count %d: a sliding log keeps at most %d charges; use sliding_window", p.Count, MaxLog)
		}
		p.WindowMicros, err = micros("period", p.Period, MaxPeriod)
	case Quota:
		err = p.prepareQuota()
	case Concurrency:
		err = p.prepareConcurrency()
	case Ban:
		if p.WindowMicros, err = micros("period", p.Period, MaxPeriod); err != nil {
			return err
		}
		p.SliceMicros = (p.WindowMicros + BanSlices - 1) / BanSlices
		p.TTLMicros, err = micros("ttl", p.TTL, MaxPeriod)
	case Idempotency:
		err = p.prepareIdempotency()
	default:
		return fmt.Errorf("unknown %v", p.Algorithm)
	}
	if err != nil {
		return err
	}
	if p.Name == "" {
		p.Name, p.Label = p.defaultName(), p.reads()
	}
	return CheckName(p.Name)
}

// BanSlices is the number of slices in which a ban counts denials.
const BanSlices = 6

func (p *Prepared) prepareBucket() error {
	if p.Burst == 0 {
		p.Burst = p.Count
	}
	if p.Burst < 1 || p.Burst > MaxInt {
		return fmt.Errorf("burst %d: must be 1 to %d", p.Burst, int64(MaxInt))
	}
	window, err := micros("period", p.Period, MaxPeriod)
	if err != nil {
		return err
	}
	g := gcd(p.Count, window)
	p.N, p.P = p.Count/g, window/g
	if p.N >= MaxInt || p.Burst > (MaxInt-p.N)/p.P {
		capacity := new(big.Int).Mul(big.NewInt(p.Burst), big.NewInt(p.P))
		return fmt.Errorf("burst %d at %d per %v needs %v units of 1/%d token plus %d a microsecond: must stay below 2^53 = %d; use a smaller burst or a rounder rate",
			p.Burst, p.Count, p.Period, capacity, p.P, p.N, int64(MaxInt)+1)
	}
	p.Cap = p.Burst * p.P
	if full := p.Cap / p.N; full > MaxPeriod.Microseconds() {
		return fmt.Errorf("burst %d at %d per %v takes %d days to refill: at most %d", p.Burst, p.Count, p.Period,
			full/(24*time.Hour).Microseconds(), MaxPeriod/(24*time.Hour))
	}
	return nil
}

func (p *Prepared) prepareSliding() error {
	if p.Slices == 0 {
		p.Slices = 10
	}
	if p.Slices < 1 || p.Slices > MaxSlices {
		return fmt.Errorf("slices %d: must be 1 to %d", p.Slices, MaxSlices)
	}
	window, err := micros("period", p.Period, MaxPeriod)
	if err != nil {
		return err
	}
	if window%int64(p.Slices) != 0 {
		return fmt.Errorf("period %v cut into %d slices: a slice must be whole microseconds", p.Period, p.Slices)
	}
	p.WindowMicros, p.SliceMicros = window, window/int64(p.Slices)
	return nil
}

func (p *Prepared) prepareQuota() error {
	if p.Period != 0 {
		return fmt.Errorf("period %v: a quota's period is its calendar", p.Period)
	}
	if p.Rollover < 0 || p.Rollover > MaxInt-p.Count {
		return fmt.Errorf("rollover %d: with count %d must stay within 0 and %d", p.Rollover, p.Count, int64(MaxInt))
	}
	a, hi := p.Calendar.Anchor, 0
	switch p.Calendar.Unit {
	case Hour, Day:
	case Week:
		hi = 7
	case Month:
		hi = 31
	case Year:
		if a != 0 {
			month, day := a/100, a%100
			if month < 1 || month > 12 || day < 1 || day > daysIn[month-1] {
				return fmt.Errorf("anchor %d: a year starts at month*100+day, such as 401", a)
			}
		}
		return nil
	default:
		return fmt.Errorf("a quota needs a calendar unit: hour, day, week, month or year")
	}
	if hi == 0 && a != 0 {
		return fmt.Errorf("anchor %d: only weeks, months and years have one, not a quota per %v", a, p.Calendar.Unit)
	}
	if a < 0 || a > hi {
		return fmt.Errorf("anchor %d: for a %v must be 1 to %d, or 0 for the first", a, p.Calendar.Unit, hi)
	}
	return nil
}

var daysIn = [12]int{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

func (p *Prepared) prepareConcurrency() error {
	if p.Count > MaxInFlight {
		return fmt.Errorf("count %d: a concurrency limit holds at most %d slots", p.Count, MaxInFlight)
	}
	if p.Period != 0 {
		return fmt.Errorf("period %v: a concurrency limit has a ttl, no period", p.Period)
	}
	if p.TTL == 0 {
		p.TTL = 30 * time.Second
	}
	var err error
	p.TTLMicros, err = micros("ttl", p.TTL, 24*time.Hour)
	return err
}

func (p *Prepared) prepareIdempotency() error {
	if p.Count > MaxRemembered {
		return fmt.Errorf("count %d: at most %d requests are remembered", p.Count, MaxRemembered)
	}
	if p.Period != 0 {
		return fmt.Errorf("period %v: an idempotency limit has a ttl, no period", p.Period)
	}
	if p.TTL == 0 {
		p.TTL = time.Minute
	}
	var err error
	p.TTLMicros, err = micros("ttl", p.TTL, 24*time.Hour)
	return err
}

// defaultName names a limit by its numbers, so that it is the same on every
// node. State is kept under it: it must not change.
func (p *Prepared) defaultName() string {
	switch p.Algorithm {
	case Quota:
		return fmt.Sprintf("quota-%d-%v", p.Count, p.Calendar.Unit)
	case Concurrency:
		return fmt.Sprintf("concurrency-%d", p.Count)
	case TokenBucket, LeakyBucket:
		return fmt.Sprintf("%v-%d-%dus-%d", p.Algorithm, p.Count, p.Period.Microseconds(), p.Burst)
	default:
		return fmt.Sprintf("%v-%d-%dus", p.Algorithm, p.Count, p.Period.Microseconds())
	}
}

// reads is what the numbers read as.
func (p *Prepared) reads() string {
	switch p.Algorithm {
	case Quota:
		return fmt.Sprintf("%d-per-%v", p.Count, p.Calendar.Unit)
	case Concurrency:
		return fmt.Sprintf("%d-at-once", p.Count)
	case Ban, Idempotency:
		return p.Algorithm.String()
	}
	for _, unit := range [...]struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}, {time.Millisecond, "millisecond"}} {
		switch {
		case p.Period == unit.length:
			return fmt.Sprintf("%d-per-%s", p.Count, unit.name)
		case p.Period%unit.length == 0:
			return fmt.Sprintf("%d-per-%d-%ss", p.Count, p.Period/unit.length, unit.name)
		}
	}
	return fmt.Sprintf("%d-per-%d-microseconds", p.Count, p.Period.Microseconds())
}

// CheckName returns an error unless name is 1 to 64 characters of a-z, A-Z,
// 0-9, '_', '.' and '-'. Names appear in header fields, metrics and ids.
func CheckName(name string) error {
	if len(name) < 1 || len(name) > 64 {
		return fmt.Errorf("name of %d bytes: must be 1 to 64", len(name))
	}
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
		default:
			return fmt.Errorf("name %q: %q is not one of a-z, A-Z, 0-9, '_', '.', '-'", name, r)
		}
	}
	return nil
}

func micros(field string, d, most time.Duration) (int64, error) {
	switch {
	case d <= 0:
		return 0, fmt.Errorf("%s %v: must be positive", field, d)
	case d%time.Microsecond != 0:
		return 0, fmt.Errorf("%s %v: must be whole microseconds", field, d)
	case d > most:
		return 0, fmt.Errorf("%s %v: at most %v", field, d, most)
	}
	return d.Microseconds(), nil
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// identity hashes length-prefixed parts, so that no choice of strings can make
// two identities meet.
func identity(scope, name string) [2]uint64 {
	buf := make([]byte, 0, 16+len(scope)+len(name))
	buf = binary.BigEndian.AppendUint64(buf, uint64(len(scope)))
	buf = append(buf, scope...)
	buf = append(buf, name...)
	sum := sha256.Sum256(buf)
	return [2]uint64{binary.BigEndian.Uint64(sum[:8]), binary.BigEndian.Uint64(sum[8:16])}
}
