package ratefield

import (
	"net/http"
	"strings"
	"time"
)

// Styles is a set of conventions for the fields. The bits are those of
// policy.HeaderStyles in module gate.
type Styles uint8

// The styles.
const (
	// IETF is RateLimit-Policy and RateLimit.
	IETF Styles = 1 << iota
	// Draft03 is RateLimit-Limit, -Remaining and -Reset of drafts 03 to 06,
	// for the tightest limit; Reset in seconds from now.
	Draft03
	// XDelta is X-RateLimit-Limit, -Remaining and -Reset; Reset in seconds
	// from now.
	XDelta
	// XEpoch is as XDelta with Reset in seconds since the Unix epoch. It wins
	// where both are asked for.
	XEpoch
)

// AllStyles is every style.
const AllStyles = IETF | Draft03 | XDelta | XEpoch

// Setter sets fields in headers. It cuts their values from blocks that serve
// many responses, so that most calls allocate nothing. The zero value is ready.
// It is not safe for concurrent use: keep Setters in a sync.Pool. The values it
// has handed out stay valid and never change.
type Setter struct {
	buf    []byte
	text   strings.Builder
	values []string

	// The latest RateLimit-Policy and what it is of: it changes with the plan
	// and not with the request.
	policy string
	of     [MaxItems]said
	ofN    int
}

// said is the part of an item that RateLimit-Policy says.
type said struct {
	name          string
	limit, window int64
	concurrent    bool
}

func (it *Item) said() said { return said{it.Name, it.Limit, it.Window, it.Concurrent} }

// setPolicy makes policy that of items.
func (s *Setter) setPolicy(items []Item) {
	same := s.ofN == len(items)
	for i := range items {
		same = same && s.of[i] == items[i].said()
	}
	if same {
		return
	}
	s.buf = AppendPolicy(s.buf[:0], items)
	s.policy, s.ofN = s.cut(), len(items)
	for i := range items {
		s.of[i] = items[i].said()
	}
}

// A header that lives long, such as that of a stream, keeps its block alive, so
// blocks are small.
const (
	textBlock   = 1024
	valuesBlock = 24
)

// Set writes items, which [Tightest] has put in order, in every style asked
// for. now is read for XEpoch only. RateLimit-Policy and RateLimit are added as
// further lines of their lists, so that limiters behind each other all speak;
// the older fields hold one limit and are replaced. No items set nothing.
func (s *Setter) Set(h http.Header, styles Styles, items []Item, now time.Time) {
	if len(items) == 0 {
		return
	}
	items = items[:min(len(items), MaxItems)]
	if styles&IETF != 0 {
		s.setPolicy(items)
		s.add(h, "Ratelimit-Policy", s.policy)
		s.buf = AppendLimit(s.buf[:0], items)
		s.add(h, "Ratelimit", s.cut())
	}
	if styles&^IETF == 0 {
		return
	}
	it := &items[0]
	reset := seconds(it.legacyReset())
	if styles&Draft03 != 0 {
		s.SetInteger(h, "Ratelimit-Limit", it.Limit)
		s.SetInteger(h, "Ratelimit-Remaining", it.Remaining)
		s.SetInteger(h, "Ratelimit-Reset", reset)
	}
	if styles&(XDelta|XEpoch) == 0 {
		return
	}
	s.SetInteger(h, "X-Ratelimit-Limit", it.Limit)
	s.SetInteger(h, "X-Ratelimit-Remaining", it.Remaining)
	if styles&XEpoch != 0 {
		reset = epochSeconds(now.Add(max(it.legacyReset(), time.Second)))
	}
	s.SetInteger(h, "X-Ratelimit-Reset", reset)
}

// legacyReset is what the older conventions mean by reset: when the refused
// request would pass, else when all of the limit is there again.
func (it *Item) legacyReset() time.Duration {
	if it.Refused && !it.Never {
		return it.Wait
	}
	return it.Reset
}

func epochSeconds(t time.Time) int64 {
	s := t.Unix()
	if t.Nanosecond() > 0 {
		s++
	}
	return s
}

// SetInteger sets a field, its name in canonical form, to n, at least 0.
func (s *Setter) SetInteger(h http.Header, name string, n int64) {
	s.buf = appendInteger(s.buf[:0], n)
	h[name] = s.slice(s.cut())
}

// SetString sets a field, its name in canonical form, to value.
func (s *Setter) SetString(h http.Header, name, value string) { h[name] = s.slice(value) }

func (s *Setter) add(h http.Header, name, value string) {
	if old := h[name]; len(old) > 0 {
		h[name] = append(old, value)
		return
	}
	h[name] = s.slice(value)
}

// cut returns buf as a string.
func (s *Setter) cut() string {
	if s.text.Cap()-s.text.Len() < len(s.buf) {
		s.text.Reset()
		s.text.Grow(max(textBlock, len(s.buf)))
	}
	start := s.text.Len()
	s.text.Write(s.buf)
	return s.text.String()[start:]
}

// slice returns a slice of one, without room to grow into its neighbour.
func (s *Setter) slice(value string) []string {
	if len(s.values) == 0 {
		s.values = make([]string, valuesBlock)
	}
	v := s.values[:1:1]
	s.values = s.values[1:]
	v[0] = value
	return v
}
