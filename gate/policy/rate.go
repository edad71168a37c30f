package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/headgate/headgate"
)

const day = 24 * time.Hour

// units are the spellings of time in rates. "m" is none of them: it could be a
// minute or a month.
var units = map[string]time.Duration{
	"ms": time.Millisecond, "millisecond": time.Millisecond,
	"s": time.Second, "second": time.Second,
	"min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hour": time.Hour,
	"d": day, "day": day,
}

var calendar = map[string]headgate.CalendarUnit{
	"hour": headgate.Hour, "day": headgate.Day, "week": headgate.Week, "month": headgate.Month, "year": headgate.Year,
}

// ParseRate reads a rate such as 100/h, 5/10s or 5/1500ms: a count, a slash, and
// a unit that may have a number. Units are ms, s, min, h, d and the words
// millisecond, second, minute, hour, day; a day is 24 hours. Numbers are plain
// digits from 1 to 2^53-1 without leading zeros. The period is at most
// [headgate.MaxPeriod]; whether an algorithm takes the pair is for
// [headgate.Limit.Prepare] to say.
func ParseRate(s string) (count int64, period time.Duration, err error) {
	count, per, err := splitRate(s)
	if err != nil {
		return 0, 0, err
	}
	period, err = parseSpan(per, true)
	if err != nil {
		return 0, 0, fmt.Errorf("rate %s: %w", quoted(s), err)
	}
	return count, period, nil
}

// parseQuota reads a count per calendar unit, such as 1000/day.
func parseQuota(s string) (int64, headgate.CalendarUnit, error) {
	count, per, err := splitRate(s)
	if err != nil {
		return 0, 0, err
	}
	unit, ok := calendar[per]
	if !ok {
		if per == "m" {
			return 0, 0, fmt.Errorf("rate %s: /m could be a minute or a month: write /month", quoted(s))
		}
		return 0, 0, fmt.Errorf("rate %s: a quota counts per hour, day, week, month or year, such as 1000/day", quoted(s))
	}
	return count, unit, nil
}

func splitRate(s string) (count int64, per string, err error) {
	digits, per, ok := strings.Cut(s, "/")
	if !ok {
		return 0, "", fmt.Errorf("rate %s: must be a count, a slash and a time, such as 100/h or 5/10s", quoted(s))
	}
	count, err = parseDigits(digits)
	if err != nil {
		return 0, "", fmt.Errorf("rate %s: the count %w", quoted(s), err)
	}
	if count == 0 {
		return 0, "", fmt.Errorf("rate %s: the count must be at least 1", quoted(s))
	}
	return count, per, nil
}

// parseSpan reads a number and a unit; the number may be left out if bare, and
// is then 1.
func parseSpan(s string, bare bool) (time.Duration, error) {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	digits, name := s[:n], s[n:]
	unit, ok := units[name]
	if !ok && !bare && name == "m" {
		unit, ok = time.Minute, true
	}
	switch {
	case ok:
	case name == "m":
		return 0, fmt.Errorf("/m could be a minute or a month: write /min or /month")
	case calendar[name] != headgate.NoUnit:
		return 0, fmt.Errorf("only a quota counts by the calendar: write algorithm: quota, or a number of days such as 30d")
	case n == len(s) && !bare:
		return 0, fmt.Errorf("%s needs a unit: ms, s, min, h or d", quoted(s))
	default:
		return 0, fmt.Errorf("%s is not a unit of time: ms, s, min, h or d", quoted(name))
	}
	number := int64(1)
	if digits != "" || !bare {
		var err error
		if number, err = parseDigits(digits); err != nil {
			return 0, fmt.Errorf("the number before %s: %w", name, err)
		}
	}
	if number == 0 && bare {
		return 0, fmt.Errorf("the time must not be 0")
	}
	if number > int64(headgate.MaxPeriod/unit) {
		return 0, fmt.Errorf("%s is longer than 100 years", quoted(s))
	}
	return time.Duration(number) * unit, nil
}

// parseDuration reads a number with a unit: ms, s, min, h, d or their words.
// "m" is a minute here, where no month can be meant.
func parseDuration(s string) (time.Duration, error) {
	d, err := parseSpan(s, false)
	if err != nil {
		return 0, fmt.Errorf("duration %s: %w", quoted(s), err)
	}
	return d, nil
}

var weekdays = []string{"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}

// parseYearDay reads MM-DD as month*100+day; 02-29 is a day.
func parseYearDay(s string) (int, error) {
	t, err := time.Parse("01-02", s)
	if err != nil {
		return 0, fmt.Errorf("%s: must be month and day, such as 04-01", quoted(s))
	}
	return int(t.Month())*100 + t.Day(), nil
}
