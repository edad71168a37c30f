package headgate

import (
	"fmt"
	"time"
)

// Algorithm says how a limit counts. The zero value is TokenBucket.
type Algorithm uint8

// The algorithms. Names in policies are those of [Algorithm.String].
const (
	// TokenBucket refills continuously at Count per Period up to Burst.
	TokenBucket Algorithm = iota
	// LeakyBucket has the numbers of a token bucket but shapes: an allowed
	// charge carries the delay after which it may start, so that work leaves
	// at Count per Period; what would overfill the queue of Burst is refused.
	LeakyBucket
	// FixedWindow counts in windows of Period aligned to the Unix epoch.
	// Twice Count may pass around a boundary.
	FixedWindow
	// SlidingWindow counts in Slices sub-windows plus the current one, and so
	// never passes more than Count in any interval of Period. With Slices 1 it
	// is the classic two-counter estimate, which bounds aligned windows only.
	SlidingWindow
	// SlidingLog remembers every charge and is exact. Count is at most MaxLog.
	SlidingLog
	// Quota counts in calendar periods of a time zone.
	Quota
	// Concurrency counts work in flight. A slot that is neither released nor
	// renewed frees itself after TTL. Count is at most MaxInFlight.
	Concurrency
	// Ban refuses everything for TTL after Count counted denials within Period.
	Ban
	// Idempotency refuses nothing: it remembers for TTL which requests were
	// allowed, at most Count of them at once, so that a retry is not charged
	// again. See [RequestKey].
	Idempotency
)

var algorithmNames = [...]string{
	"token_bucket", "leaky_bucket", "fixed_window", "sliding_window",
	"sliding_log", "quota", "concurrency", "ban", "idempotency",
}

// String returns the algorithm's name as policies write it.
func (a Algorithm) String() string {
	if int(a) < len(algorithmNames) {
		return algorithmNames[a]
	}
	return fmt.Sprintf("algorithm(%d)", uint8(a))
}

// ParseAlgorithm returns the algorithm that policies call name.
func ParseAlgorithm(name string) (Algorithm, bool) {
	for i, n := range algorithmNames {
		if n == name {
			return Algorithm(i), true
		}
	}
	return 0, false
}

// CalendarUnit is the length of a quota's period.
type CalendarUnit uint8

// The calendar units. The zero value is no unit, which only limits that are
// not quotas may have.
const (
	NoUnit CalendarUnit = iota
	Hour
	Day
	Week
	Month
	Year
)

var unitNames = [...]string{"", "hour", "day", "week", "month", "year"}

// String returns the unit's name as policies write it.
func (u CalendarUnit) String() string {
	if int(u) < len(unitNames) {
		return unitNames[u]
	}
	return fmt.Sprintf("unit(%d)", uint8(u))
}

// Calendar divides time into the periods of a quota.
type Calendar struct {
	Unit CalendarUnit
	// Location is the time zone of the boundaries; nil means UTC.
	Location *time.Location
	// Anchor moves the boundary. Month: the day 1 to 31 on which a period
	// starts, or the month's last day where it is shorter. Week: the ISO
	// weekday, 1 Monday to 7 Sunday. Year: month*100+day, such as 401 for
	// 1 April. 0 means the first of the unit; hours and days take only 0.
	Anchor int
}

// Limit is one algorithm with its numbers. The zero value is not usable: Count
// is required. Limits are plain values; [Limit.Prepare] checks one.
type Limit struct {
	// Scope and Name identify the budget among all that share a store: equal
	// Scope, Name and owner mean the same budget. Name is 1 to 64 characters
	// of a-z, A-Z, 0-9, '_', '.' and '-'; Prepare fills an empty one from the
	// numbers. Scope is any string of at most 512 bytes.
	Scope, Name string

	Algorithm Algorithm

	// Count is the number of tokens per Period: the rate of a bucket, the
	// content of a window or quota, the slots of a concurrency limit, the
	// denials of a ban, the requests remembered. 1 to 2^53-1.
	Count int64
	// Period is the time that Count refers to: whole microseconds, at most 100
	// years. Unused by Quota, Concurrency and Idempotency.
	Period time.Duration
	// Burst is the capacity of a bucket in tokens; 0 means Count. Buckets only.
	Burst int64
	// Slices divides a sliding window: 1 to MaxSlices, 0 means 10. Period must
	// be a whole number of microseconds per slice.
	Slices int
	// TTL is how long a concurrency slot holds without renewal, how long a ban
	// lasts, or how long a request is remembered. 0 means 30 s for Concurrency
	// and 60 s for Idempotency; Ban requires it. At most 24 h, 100 years for
	// Ban.
	TTL time.Duration
	// Calendar divides time for a Quota.
	Calendar Calendar
	// Soft lets a Quota be exceeded: everything is allowed, the excess is
	// reported as overage.
	Soft bool
	// Rollover is how much of what a Quota left unused in the period directly
	// before may be used on top of Count. A period without any charge leaves
	// nothing. 0 means none.
	Rollover int64
}

// Per returns a token bucket of count tokens per period with a burst of count.
func Per(count int64, period time.Duration) Limit { return Limit{Count: count, Period: period} }

// PerSecond returns a token bucket of count tokens per second.
func PerSecond(count int64) Limit { return Per(count, time.Second) }

// PerMinute returns a token bucket of count tokens per minute.
func PerMinute(count int64) Limit { return Per(count, time.Minute) }

// PerHour returns a token bucket of count tokens per hour.
func PerHour(count int64) Limit { return Per(count, time.Hour) }

// Window returns a fixed window of count tokens in each period since the epoch.
func Window(count int64, period time.Duration) Limit {
	return Limit{Algorithm: FixedWindow, Count: count, Period: period}
}

// Sliding returns a sliding window that passes at most count tokens in any
// period.
func Sliding(count int64, period time.Duration) Limit {
	return Limit{Algorithm: SlidingWindow, Count: count, Period: period}
}

// Log returns an exact sliding log of count tokens in any period.
func Log(count int64, period time.Duration) Limit {
	return Limit{Algorithm: SlidingLog, Count: count, Period: period}
}

// QuotaPer returns a quota of count tokens per calendar unit in UTC.
func QuotaPer(count int64, unit CalendarUnit) Limit {
	return Limit{Algorithm: Quota, Count: count, Calendar: Calendar{Unit: unit}}
}

// InFlight returns a concurrency limit of max slots that free themselves after
// ttl.
func InFlight(max int64, ttl time.Duration) Limit {
	return Limit{Algorithm: Concurrency, Count: max, TTL: ttl}
}

// WithName returns the limit with another name.
func (l Limit) WithName(name string) Limit { l.Name = name; return l }

// WithScope returns the limit in another scope.
func (l Limit) WithScope(scope string) Limit { l.Scope = scope; return l }

// WithBurst returns the limit with a capacity of burst tokens.
func (l Limit) WithBurst(burst int64) Limit { l.Burst = burst; return l }

// WithSlices returns the limit with its window cut into n slices.
func (l Limit) WithSlices(n int) Limit { l.Slices = n; return l }

// In returns the limit with its calendar in the given time zone.
func (l Limit) In(loc *time.Location) Limit { l.Calendar.Location = loc; return l }

// AnchoredAt returns the limit with its calendar anchored as [Calendar] says.
func (l Limit) AnchoredAt(anchor int) Limit { l.Calendar.Anchor = anchor; return l }
