// Package ratefield writes the response fields that tell a client of its
// limits: RateLimit and RateLimit-Policy of
// draft-ietf-httpapi-ratelimit-headers-11, Retry-After, and the older fields
// that clients still read.
//
// One [Item] stands for one limit, [From] fills it from a decision. Items are
// put in order by [Tightest], and written by [Setter.Set] into an http.Header
// or by the Append functions anywhere else.
//
// Every time is rounded up to whole seconds: a client that comes back when it
// was told passes, as far as it alone decides that.
package ratefield

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

// MaxItems is the largest number of limits that one response names.
const MaxItems = 4

// maxInteger is the largest Integer of structured fields (RFC 9651 3.3.1).
const maxInteger = 999_999_999_999_999

// Item is what one limit says to its client. An item whose Name is empty or
// holds anything but printable ASCII is never written.
type Item struct {
	Name string
	// Limit is the capacity, Remaining what is left of it: both in tokens,
	// negative ones count as 0.
	Limit, Remaining int64
	// Window is the seconds to which Limit refers; 0 leaves it out.
	Window int64
	// Concurrent says that requests at the same time are counted.
	Concurrent bool
	// Refused says that this limit refused the request, Never that it can
	// never let its cost pass.
	Refused, Never bool
	// Wait is for how long no more than Remaining can be used, Reset when the
	// limit is as if never used. At least 1 s is written for either.
	Wait, Reset time.Duration
}

// From describes the limit p after o, under a name that may be longer than its
// own: plan/daily. Bans and soft quotas give the zero Item, which is not
// written: a ban is no budget, and a soft quota that says 0 would stop clients
// whom it lets pass.
//
// An outcome does not tell when a sliding window or log gives back its first
// token, nor when a request ends; Wait is then when the last comes back, for
// slots when the last has run out. Where Remaining is 0 Wait is never too short
// for a client that is alone.
func From(name string, p *headgate.Prepared, o *headgate.Outcome) Item {
	if p.Algorithm == headgate.Ban || p.Soft {
		return Item{}
	}
	it := Item{
		Name: name, Limit: o.Limit, Remaining: o.Remaining, Window: window(p),
		Concurrent: p.Algorithm == headgate.Concurrency,
		Refused:    !o.Allowed, Never: o.Never,
		Reset: o.ResetAfter,
	}
	if it.Refused && !it.Never {
		it.Remaining, it.Wait = 0, o.RetryAfter
		return it
	}
	switch p.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		it.Wait = bucketWait(p, o)
	case headgate.Concurrency:
		it.Wait = o.ResetAfter // a slot may come free before, but need not
	default:
		it.Wait = o.ResetAfter
		if it.Wait == 0 { // not begun: its end is at most one window away
			it.Wait = time.Duration(it.Window) * time.Second
		}
	}
	return it
}

// bucketWait is the time in which the bucket refills what remains, so that
// Remaining per Wait is the limit's own rate, or one token if nothing remains.
func bucketWait(p *headgate.Prepared, o *headgate.Outcome) time.Duration {
	if o.Remaining > 0 {
		units := min(o.Remaining, p.Burst) * p.P
		return micros(ceilDiv(units, p.N))
	}
	// ResetAfter is the time to the last token, the rest of the burst takes
	// (Cap-P)/N µs of it, or more where reservations stop the refill.
	return o.ResetAfter - micros((p.Cap-p.P)/p.N)
}

// window returns the seconds to which the limit's capacity refers, 0 for none.
func window(p *headgate.Prepared) int64 {
	switch p.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		return ceilDiv(ceilDiv(p.Cap, p.N), 1_000_000)
	case headgate.Concurrency:
		return 0
	case headgate.Quota:
		switch p.Calendar.Unit {
		case headgate.Hour:
			return 3600
		case headgate.Day:
			return 86400
		case headgate.Week:
			return 7 * 86400
		}
		return 0 // months and years differ in length
	default:
		return ceilDiv(p.WindowMicros, 1_000_000)
	}
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

// seconds rounds up, to at least 1.
func seconds(d time.Duration) int64 {
	if d <= time.Second {
		return 1
	}
	s := int64(d / time.Second)
	if d%time.Second != 0 {
		s++
	}
	return s
}

// Tightest sorts items in place and returns the first of them that can be
// written, at most MaxItems: those that refuse by the longest wait, then the
// others by the fewest remaining.
func Tightest(items []Item) []Item {
	items = slices.DeleteFunc(items, func(it Item) bool { return !quotable(it.Name) })
	slices.SortStableFunc(items, compare)
	return items[:min(len(items), MaxItems)]
}

func compare(a, b Item) int {
	if a.Refused != b.Refused {
		return first(a.Refused)
	}
	if !a.Refused {
		return cmp.Compare(a.Remaining, b.Remaining)
	}
	if a.Never != b.Never {
		return first(a.Never)
	}
	return cmp.Compare(b.Wait, a.Wait)
}

func first(yes bool) int {
	if yes {
		return -1
	}
	return 1
}

// AppendPolicy appends the value of RateLimit-Policy, such as
// "burst";q=100;w=60, "inflight";q=20;qu="concurrent-requests". It appends
// nothing for no items: the field must then be left out.
func AppendPolicy(dst []byte, items []Item) []byte {
	start := len(dst)
	for i := range items {
		it := &items[i]
		if !quotable(it.Name) {
			continue
		}
		dst = appendName(dst, start, it.Name)
		dst = appendParameter(dst, ";q=", it.Limit)
		if it.Concurrent {
			dst = append(dst, `;qu="concurrent-requests"`...)
		}
		if it.Window > 0 {
			dst = appendParameter(dst, ";w=", it.Window)
		}
	}
	return dst
}

// AppendLimit appends the value of RateLimit, such as "burst";r=50;t=30. It
// appends nothing for no items: the field must then be left out.
func AppendLimit(dst []byte, items []Item) []byte {
	start := len(dst)
	for i := range items {
		it := &items[i]
		if !quotable(it.Name) {
			continue
		}
		dst = appendName(dst, start, it.Name)
		dst = appendParameter(dst, ";r=", it.Remaining)
		dst = appendParameter(dst, ";t=", seconds(it.Wait))
	}
	return dst
}

// quotable reports whether name can be an sf-string (RFC 9651 3.3.3).
func quotable(name string) bool {
	for i := range len(name) {
		if name[i]-' ' > '~'-' ' { // wraps around below ' '
			return false
		}
	}
	return name != ""
}

func appendName(dst []byte, start int, name string) []byte {
	if len(dst) > start {
		dst = append(dst, ", "...)
	}
	dst = append(dst, '"')
	if strings.IndexByte(name, '"') < 0 && strings.IndexByte(name, '\\') < 0 {
		return append(append(dst, name...), '"')
	}
	for i := range len(name) {
		if name[i] == '"' || name[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, name[i])
	}
	return append(dst, '"')
}

func appendParameter(dst []byte, key string, n int64) []byte {
	return appendInteger(append(dst, key...), n)
}

func appendInteger(dst []byte, n int64) []byte {
	return strconv.AppendInt(dst, min(max(n, 0), maxInteger), 10)
}

// RetryAfter returns the seconds of Retry-After for a wait: rounded up, at
// least 1, and so never before the t that [AppendLimit] writes for the limit
// that refused longest.
//
// jitterPercent, 0 to 100, spreads them upward by as much, itself rounded up to
// a whole second; random is any 64 random bits and says by how much of it.
func RetryAfter(wait time.Duration, jitterPercent int, random uint64) int64 {
	s := seconds(wait)
	if jitterPercent > 0 {
		span := ceilDiv(s*int64(jitterPercent), 100)
		extra, _ := bits.Mul64(random, uint64(span)+1)
		s += int64(extra)
	}
	return min(s, maxInteger)
}
