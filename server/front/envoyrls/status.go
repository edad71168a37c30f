package envoyrls

import (
	"cmp"
	"math"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

// state is what a response says of one descriptor.
type state struct {
	over      bool
	limit     *gate.LimitState // nil for none
	remaining uint32
	reset     int64 // seconds
}

// state tells by itself whether a descriptor is over its limits, whatever becomes of the
// call.
func (it *item) state() (st state) {
	d := &it.d
	switch {
	case !it.decided, d.Replaced:
		return state{}
	case d.Reason == headgate.OverloadedReason:
		return state{over: true}
	}
	if st.limit = it.binding(); st.limit == nil {
		st.over = !d.Allowed && d.Reason != headgate.BatchRefused
		if (d.Reason == headgate.OK || d.Reason == headgate.BatchRefused) && d.Rule != "" && d.Degraded == "" {
			st.remaining = math.MaxUint32 // the rule has no limit that counts
		}
		return st
	}
	l := st.limit
	st.over = it.empty || refuses(l)
	if l.Allowed {
		st.remaining = uint32(min(l.Remaining, math.MaxUint32))
	}
	st.reset = seconds(it.resetAfter(l))
	return st
}

// refuses reports whether a limit refuses its descriptor. One in quota mode does so
// although another lets the call pass.
func refuses(l *gate.LimitState) bool {
	return !l.Allowed && (!l.Shadow || l.ShadowBy == gate.ShadowByQuotaMode)
}

// binding returns the limit that decided on the descriptor: the one that refuses for the
// longest, else one in shadow that would, else the one that leaves the least.
func (it *item) binding() *gate.LimitState {
	var best *gate.LimitState
	limits := it.d.Limits()
	for i := range limits {
		l := &limits[i]
		if l.Limit.Algorithm == headgate.Ban && l.Allowed || l.Unit != policy.Requests && l.Allowed {
			continue
		}
		if best == nil || compare(l, best) < 0 {
			best = l
		}
	}
	return best
}

func compare(a, b *gate.LimitState) int {
	return cmp.Or(
		-cmp.Compare(weight(a), weight(b)),
		-cmp.Compare(a.RetryAfter, b.RetryAfter),
		cmp.Compare(a.Remaining, b.Remaining),
	)
}

func weight(l *gate.LimitState) int {
	switch {
	case refuses(l):
		return 2
	case !l.Allowed:
		return 1
	default:
		return 0
	}
}

// exhausted reports whether a limit would refuse one more hit, and whether the limits are
// in quota mode.
func (it *item) exhausted() (empty, quota bool) {
	limits := it.d.Limits()
	for i := range limits {
		l := &limits[i]
		quota = quota || l.QuotaMode()
		if l.Unit == policy.Requests && !l.Shadow && !l.Limit.Soft && l.Limit.Algorithm != headgate.Ban {
			empty = empty || l.Remaining == 0
		}
	}
	return empty, quota
}

// resetAfter is when the limit is as if never used. A window that nothing was charged to
// ends when it ends.
func (it *item) resetAfter(l *gate.LimitState) time.Duration {
	if l.ResetAfter > 0 || l.Limit.Algorithm != headgate.FixedWindow || it.d.At().IsZero() {
		return l.ResetAfter
	}
	return l.Limit.Period - time.Duration(it.d.At().UnixNano()%int64(l.Limit.Period))
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// window returns the time to which a limit's capacity refers, in a unit of the protocol
// and a number of it: the largest that it is a multiple of. Time is rounded up to whole
// seconds.
func window(l *gate.LimitState) (unit pb.RateLimitResponse_RateLimit_Unit, n int64) {
	p := l.Limit
	if p.Algorithm == headgate.Quota {
		return calendar[p.Calendar.Unit], 1
	}
	period := p.Period
	switch p.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		period = time.Duration(p.Cap/p.N) * time.Microsecond
	case headgate.Concurrency, headgate.Ban:
		period = p.TTL
	}
	s := max(1, seconds(period))
	for _, u := range bySize {
		if of := int64(units[u] / time.Second); s%of == 0 {
			return u, s / of
		}
	}
	return pb.RateLimitResponse_RateLimit_SECOND, s
}

var calendar = map[headgate.CalendarUnit]pb.RateLimitResponse_RateLimit_Unit{
	headgate.Hour:  pb.RateLimitResponse_RateLimit_HOUR,
	headgate.Day:   pb.RateLimitResponse_RateLimit_DAY,
	headgate.Week:  pb.RateLimitResponse_RateLimit_WEEK,
	headgate.Month: pb.RateLimitResponse_RateLimit_MONTH,
	headgate.Year:  pb.RateLimitResponse_RateLimit_YEAR,
}

var bySize = []pb.RateLimitResponse_RateLimit_Unit{
	pb.RateLimitResponse_RateLimit_YEAR, pb.RateLimitResponse_RateLimit_MONTH, pb.RateLimitResponse_RateLimit_WEEK,
	pb.RateLimitResponse_RateLimit_DAY, pb.RateLimitResponse_RateLimit_HOUR, pb.RateLimitResponse_RateLimit_MINUTE,
	pb.RateLimitResponse_RateLimit_SECOND,
}

func code(over bool) uint64 {
	if over {
		return uint64(pb.RateLimitResponse_OVER_LIMIT)
	}
	return uint64(pb.RateLimitResponse_OK)
}

// respond writes the response into c.out and returns it.
func (c *call) respond(s *Config) []byte {
	c.out = appendVarint(c.out[:0], 1, code(c.over))
	var nearest state
	var of *item
	for _, it := range c.items[:c.n] {
		st := it.state()
		var buf [maxStatus]byte
		c.out = protowire.AppendTag(c.out, 2, protowire.BytesType)
		c.out = protowire.AppendBytes(c.out, appendStatus(buf[:0], it, &st, s.Unnamed))
		if st.limit != nil && (of == nil || st.remaining < nearest.remaining || st.over && !nearest.over) {
			nearest, of = st, it
		}
	}
	if s.Headers && of != nil {
		c.appendHeaders(&nearest)
	}
	if s.DynamicMetadata {
		c.appendMetadata()
	}
	return c.out
}

// maxStatus is the most that one status takes: 64 bytes of name and a few numbers.
const maxStatus = 128

func appendStatus(b []byte, it *item, st *state, unnamed func(string) bool) []byte {
	b = appendVarint(b, 1, code(st.over))
	if l := st.limit; l != nil {
		var buf [maxStatus]byte
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, appendLimit(buf[:0], it, l, unnamed))
	}
	b = appendVarint(b, 3, uint64(st.remaining))
	if st.limit != nil {
		var buf [16]byte
		b = protowire.AppendTag(b, 4, protowire.BytesType)
		b = protowire.AppendBytes(b, appendVarint(buf[:0], 1, uint64(st.reset)))
	}
	return b
}

func appendLimit(b []byte, it *item, l *gate.LimitState, unnamed func(string) bool) []byte {
	unit, n := window(l)
	b = appendVarint(b, 1, uint64(min(l.Outcome.Limit, math.MaxUint32)))
	b = appendVarint(b, 2, uint64(unit))
	if !it.override && !unnamed(l.Limit.Name) {
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendString(b, l.Limit.Name)
	}
	if n != 1 {
		var buf [16]byte
		b = protowire.AppendTag(b, 4, protowire.BytesType)
		b = protowire.AppendBytes(b, appendVarint(buf[:0], 1, uint64(min(n, math.MaxUint32))))
	}
	return b
}

// appendVarint appends a field, unless it is 0.
func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}
