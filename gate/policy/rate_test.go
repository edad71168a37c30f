package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

func TestParseRate(t *testing.T) {
	for _, c := range []struct {
		s      string
		count  int64
		period time.Duration
	}{
		{"100/h", 100, time.Hour}, {"5/10s", 5, 10 * time.Second}, {"300/60s", 300, time.Minute}, {"5/1500ms", 5, 1500 * time.Millisecond},
		{"10/s", 10, time.Second}, {"1000/min", 1000, time.Minute}, {"1/ms", 1, time.Millisecond}, {"7/d", 7, 24 * time.Hour},
		{"7/day", 7, 24 * time.Hour}, {"7/hour", 7, time.Hour}, {"7/minute", 7, time.Minute}, {"7/second", 7, time.Second},
		{"7/2millisecond", 7, 2 * time.Millisecond}, {"7/30d", 7, 30 * 24 * time.Hour}, {"9007199254740991/s", 9007199254740991, time.Second},
		{"1/36500d", 1, headgate.MaxPeriod},
	} {
		count, period, err := ParseRate(c.s)
		if count != c.count || period != c.period || err != nil {
			t.Errorf("%s: got %d, %v, %v", c.s, count, period, err)
		}
	}
	for _, s := range []string{
		"", "/", "5", "5/", "/s", "0/s", "00/s", "05/s", "-5/s", "+5/s", "5.0/s", "5e3/s", "5_0/s", "5k/s", " 5/s", "5/s ", "5 /s", "5/ s", "5/m", "5/3m",
		"5/M", "5/S", "5/0s", "5/01s", "5/-1s", "5/1.5s", "5/week", "5/month", "5/year", "5/36501d", "5/99999999999999999999s", "9007199254740992/s",
		"5/s/s", "5/us", "5/ns", "5/seconds", "5/h1", "\u0665/s", "unlimited",
	} {
		if count, period, err := ParseRate(s); err == nil || count != 0 || period != 0 {
			t.Errorf("%q: got %d, %v, %v, want an error", s, count, period, err)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0s": 0, "250ms": 250 * time.Millisecond, "30s": 30 * time.Second, "15m": 15 * time.Minute, "15min": 15 * time.Minute,
		"2h": 2 * time.Hour, "1d": 24 * time.Hour, "1day": 24 * time.Hour,
	} {
		if got, err := parseDuration(s); got != want || err != nil {
			t.Errorf("%s: got %v, %v", s, got, err)
		}
	}
}

// FuzzParseRate holds that a rate has one spelling of its numbers and bounds
// that Prepare never has to refuse as out of range.
func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"100/h", "5/10s", "5/1500ms", "5/m", "0/s", "007/s", "9007199254740991/36500d", "5/99999999999999999999s", "-1/s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		count, period, err := ParseRate(s)
		if err != nil {
			if count != 0 || period != 0 || strings.Contains(err.Error(), "\n") || len(err.Error()) > 1000 {
				t.Errorf("%q: %d, %v, %.2000v", s, count, period, err)
			}
			return
		}
		if count < 1 || count > headgate.MaxInt || period < time.Millisecond || period > headgate.MaxPeriod {
			t.Errorf("%q: %d per %v is out of range", s, count, period)
		}
		if !strings.HasPrefix(s, fmt.Sprintf("%d/", count)) {
			t.Errorf("%q reads as %d", s, count)
		}
		c2, p2, err := ParseRate(fmt.Sprintf("%d/%dms", count, period.Milliseconds()))
		if c2 != count || p2 != period || err != nil {
			t.Errorf("%q: written in milliseconds it is %d per %v: %v", s, c2, p2, err)
		}
	})
}
