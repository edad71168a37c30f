package dynamostore

import (
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/headgate/headgate/store/cas"
)

// bounds are those of the service's clock less this process's monotonic one, which
// steps of the node's clock do not move. In µs, both ends included.
type bounds struct{ least, most int64 }

var unbounded = bounds{math.MinInt64 / 2, math.MaxInt64 / 2}

// and returns what both allow. ok is false if that is nothing.
func (b bounds) and(c bounds) (both bounds, ok bool) {
	both = bounds{max(b.least, c.least), min(b.most, c.most)}
	return both, both.least <= both.most
}

// skew knows how far the service's clock is from the node's. An answer's date is a
// whole second, so the service's clock was in that second when it answered, and that
// was between the question and the answer. Many answers together say more than one,
// those around the end of a second most.
type skew struct {
	mu      sync.Mutex
	base    time.Time // monotonic instants count from here
	old     bounds    // of the span before
	present bounds    // of this span
	since   int64     // when the span began
}

// span is how long an answer is believed, and at most twice that, because the clocks
// do not run equally fast: 100 parts in a million are 6 ms in a minute.
const span = 60_000_000

// sloppy is by how much, in µs, a date may be wrong: servers write the same one for
// a while, and not all of those behind one address have the same clock.
const sloppy = 20_000

func newSkew() *skew { return &skew{base: time.Now(), old: unbounded, present: unbounded} }

// mono is the process's monotonic clock in µs.
func (s *skew) mono(t time.Time) int64 { return t.Sub(s.base).Microseconds() }

// heard notes the date of an answer that came at the monotonic instant got to a
// question of the instant asked.
func (s *skew) heard(asked, got int64, date time.Time) {
	second := date.Unix() * 1_000_000
	b := bounds{second - got - sloppy, second + 999_999 + sloppy - asked}
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := got - s.since; age >= span {
		s.old, s.present, s.since = s.present, unbounded, got
		if age >= 2*span {
			s.old = unbounded
		}
	}
	all, ok := s.present.and(b)
	if _, both := all.and(s.old); !ok || !both {
		s.old, all = unbounded, b // one of the clocks was set, or we slept
	}
	s.present = all
}

// ahead returns how much the node's clock is ahead of the service's at least and at
// most, in µs, wall and mono being the same instant.
func (s *skew) ahead(wall, mono int64) bounds {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, _ := s.present.and(s.old)
	return bounds{wall - mono - b.most, wall - mono - b.least}
}

// now is how much the node's clock is ahead.
func (s *skew) now() bounds {
	t := time.Now()
	return s.ahead(t.UnixMicro(), s.mono(t))
}

// check returns a failure if the clocks are certainly too far apart.
func (b bounds) check() *cas.Failure {
	most := MostSkew.Microseconds()
	how, by := "ahead of", b.least
	if b.most < -most {
		how, by = "behind", -b.most
	}
	if by <= most {
		return nil
	}
	err := fmt.Errorf("the node's clock is at least %v %s the service's: it may be %v off", time.Duration(by)*time.Microsecond, how, MostSkew)
	return &cas.Failure{Kind: "clock", Unsent: true, Err: fmt.Errorf("dynamodb: %w", err)}
}

// believed returns the instant, or an earlier one that is not certainly too far ahead.
func (b bounds) believed(wall int64) int64 {
	return wall - max(0, b.least-MostSkew.Microseconds())
}

// listener is an HTTP client that listens to the dates of answers.
type listener struct {
	aws.HTTPClient
	skew *skew
}

// Do sends a request.
func (l listener) Do(r *http.Request) (*http.Response, error) {
	asked := time.Now()
	answer, err := l.HTTPClient.Do(r)
	if err != nil {
		return answer, err
	}
	got := time.Now()
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		l.skew.heard(l.skew.mono(asked), l.skew.mono(got), date)
	}
	return answer, nil
}
