package httplimit

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// epochFrom is the smallest Reset that is an instant and not a duration: 31 years are
// no wait, and what is reset before 2001 is over.
const epochFrom = 1_000_000_000

// said returns how long the server asks not to be asked, and whether it says so at
// all. now is read for instants where the answer has no Date.
func said(resp *http.Response, now time.Time) (time.Duration, bool) {
	h := resp.Header
	if refused(resp) {
		if d, ok := retryAfter(h, now); ok {
			return d, true
		}
	}
	if list := parseList(h["Ratelimit"]); len(list) > 0 {
		return exhausted(list, parseList(h["Ratelimit-Policy"]))
	}
	if d, ok := reset(h, "Ratelimit-Remaining", "Ratelimit-Reset", now); ok {
		return d, true
	}
	return reset(h, "X-Ratelimit-Remaining", "X-Ratelimit-Reset", now)
}

// until returns how long it is until an instant that the server names, by the server's
// clock if the answer tells it.
func until(at time.Time, h http.Header, now time.Time) time.Duration {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return max(0, at.Sub(now))
}

// retryAfter reads Retry-After (RFC 9110, section 10.2.3).
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	value := h.Get("Retry-After")
	if value == "" {
		return 0, false
	}
	if n, ok := integer(value); ok {
		return seconds(n), true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return until(at, h, now), true
}

// reset reads the fields of draft-ietf-httpapi-ratelimit-headers-03 and those that
// came before it.
func reset(h http.Header, remaining, at string, now time.Time) (time.Duration, bool) {
	left, ok := integer(h.Get(remaining))
	if !ok || left > 0 {
		return 0, false
	}
	n, ok := integer(h.Get(at))
	if !ok {
		return 0, false
	}
	if n >= epochFrom {
		return until(time.Unix(min(n, math.MaxInt32*1000), 0), h, now), true
	}
	return seconds(n), true
}

// exhausted returns the longest wait of the limits of which nothing is left. Those of
// requests at one time do not count: a slot may be free at any instant.
func exhausted(limits, policies []item) (wait time.Duration, told bool) {
	for _, it := range limits {
		if it.r != 0 || it.t < 0 || concurrent(it.name, policies) {
			continue
		}
		wait, told = max(wait, seconds(it.t)), true
	}
	return wait, told
}

func concurrent(name string, policies []item) bool {
	for _, p := range policies {
		if p.name == name && p.qu == "concurrent-requests" {
			return true
		}
	}
	return false
}

// integer reads decimal digits alone; what is beyond the range of int64 is its end.
func integer(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = math.MaxInt64
	}
	return n, true
}

// seconds is n seconds, or the longest Duration.
func seconds(n int64) time.Duration {
	return time.Duration(min(n, int64(math.MaxInt64/time.Second))) * time.Second
}
