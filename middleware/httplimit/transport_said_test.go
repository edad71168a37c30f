package httplimit

import (
	"net/http"
	"strconv"
	"testing"
	"time"
)

func TestSaid(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	epoch := strconv.FormatInt(now.Add(40*time.Second).Unix(), 10)
	const none = -1
	for _, tt := range []struct {
		name   string
		status int
		fields []string
		want   time.Duration
	}{
		{"nothing", 429, nil, none},
		{"seconds", 429, []string{"Retry-After: 7"}, 7 * time.Second},
		{"seconds with 503", 503, []string{"Retry-After: 7"}, 7 * time.Second},
		{"now", 429, []string{"Retry-After: 0"}, 0},
		{"not with 200", 200, []string{"Retry-After: 7"}, none},
		{"not with 301", 301, []string{"Retry-After: 7"}, none},
		{"a date", 429, []string{"Retry-After: " + date(time.Minute)}, time.Minute},
		{"a date of RFC 850", 429, []string{"Retry-After: " + now.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT")}, time.Minute},
		{"a date of asctime", 429, []string{"Retry-After: " + now.Add(time.Minute).Format(time.ANSIC)}, time.Minute},
		{"a date that is over", 429, []string{"Retry-After: " + date(-time.Minute)}, 0},
		{"a date by the server's clock", 429, []string{"Date: " + date(time.Hour), "Retry-After: " + date(time.Hour+time.Minute)}, time.Minute},
		{"a Date that is none", 429, []string{"Date: today", "Retry-After: " + date(time.Minute)}, time.Minute},
		{"endless", 429, []string{"Retry-After: 99999999999999999999999999"}, 9223372036 * time.Second},
		{"negative", 429, []string{"Retry-After: -1"}, none},
		{"signed", 429, []string{"Retry-After: +1"}, none},
		{"fraction", 429, []string{"Retry-After: 1.5"}, none},
		{"unit", 429, []string{"Retry-After: 10s"}, none},
		{"words", 429, []string{"Retry-After: later"}, none},
		{"empty", 429, []string{"Retry-After: "}, none},
		{"nonsense, and RateLimit", 429, []string{"Retry-After: soon", `RateLimit: "a";r=0;t=5`}, 5 * time.Second},

		{"RateLimit", 200, []string{`RateLimit: "a";r=0;t=5`}, 5 * time.Second},
		{"Retry-After goes before it", 429, []string{"Retry-After: 2", `RateLimit: "a";r=0;t=5`}, 2 * time.Second},
		{"something left", 200, []string{`RateLimit: "a";r=1;t=5`}, none},
		{"the longest", 200, []string{`RateLimit: "a";r=0;t=5, "b";r=0;t=9;pk=:cHc=:`, `RateLimit: "c";r=3;t=99, "d";r=0;t=4`}, 9 * time.Second},
		{"without t", 200, []string{`RateLimit: "a";r=0`}, none},
		{"without r", 200, []string{`RateLimit: "a";t=5`}, none},
		{"negative t", 200, []string{`RateLimit: "a";r=0;t=-5`}, none},
		{"a decimal t", 200, []string{`RateLimit: "a";r=0;t=5.0`}, none},
		{"requests at one time", 200, []string{`RateLimit: "a";r=0;t=600, "b";r=0;t=5`, `RateLimit-Policy: "a";q=5;qu="concurrent-requests", "b";q=9;w=60`}, 5 * time.Second},
		{"a field at fault", 200, []string{`RateLimit: "a";r=0;t=5,`}, none},
		{"as draft 07 had it", 200, []string{`RateLimit: limit=10, remaining=0, reset=5`}, none},

		{"draft 03", 200, []string{"RateLimit-Limit: 9", "RateLimit-Remaining: 0", "RateLimit-Reset: 30"}, 30 * time.Second},
		{"draft 03, something left", 200, []string{"RateLimit-Remaining: 1", "RateLimit-Reset: 30"}, none},
		{"X, seconds", 200, []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 30"}, 30 * time.Second},
		{"X, an instant", 200, []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: " + epoch}, 40 * time.Second},
		{"X, an instant by the server's clock", 200, []string{"Date: " + date(10*time.Second), "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: " + epoch}, 30 * time.Second},
		{"X, an instant that is over", 200, []string{"Date: " + date(time.Hour), "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: " + epoch}, 0},
		{"X, the end of time", 200, []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 9223372036854775807"}, 1<<63 - 1},
		{"X, nonsense", 200, []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: soon"}, none},
		{"X, without reset", 200, []string{"X-RateLimit-Remaining: 0"}, none},
		{"X, negative", 200, []string{"X-RateLimit-Remaining: -1", "X-RateLimit-Reset: 30"}, none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := said(response(tt.status, tt.fields...), now)
			if !ok {
				got = none
			}
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
