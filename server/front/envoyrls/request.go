package envoyrls

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

// answer is what is asked of the gate for one descriptor, and what it says.
type answer struct {
	req   gate.Request
	said  gate.SaidLimit
	attrs map[string]string
	head  http.Header
	d     gate.Decision

	decided bool  // d is of this call
	empty   bool  // a check that found nothing
	drained int64 // hits that were taken though d refuses them all
}

func (a *answer) reset() {
	clear(a.attrs)
	clear(a.head)
	a.req, a.said = gate.Request{}, gate.SaidLimit{}
	a.decided, a.empty, a.drained = false, false, 0
}

const day = 24 * time.Hour

// units are those of the protocol by their numbers: months and years are of 30 and 365
// days.
var units = [...]time.Duration{1: time.Second, 2: time.Minute, 3: time.Hour, 4: day, 5: 30 * day, 6: 365 * day, 7: 7 * day}

// maxSaid is the longest period that a descriptor may say.
const maxSaid = 3650 * day

// request makes the gate's request of the descriptor.
func (it *item) request(c *call, now int64, patience time.Duration) error {
	r := &it.req
	r.Application, r.Descriptor = c.application, it.entries
	r.NoWait, r.Patience, r.Now = true, patience, now
	it.cost(c)
	it.describe()
	if !it.override {
		return nil
	}
	if it.limit.unit < 1 || int(it.limit.unit) >= len(units) {
		return fmt.Errorf("limit.unit: %d: must be SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR", it.limit.unit)
	}
	unit, n := units[it.limit.unit], max(1, int64(it.limit.multiplier))
	if n > int64(maxSaid/unit) {
		return fmt.Errorf("limit.unit_multiplier: %d: at most %d of this unit", n, int64(maxSaid/unit))
	}
	it.said = gate.SaidLimit{Count: int64(it.limit.requests), Period: time.Duration(n) * unit}
	r.Said = &it.said
	return nil
}

// cost says the hits: the descriptor's own, else the call's, else the rule's cost, which
// is 1 unless it says more.
func (it *item) cost(c *call) {
	r := &it.req
	switch {
	case it.hitsSaid:
		r.Cost, r.CostSaid = int64(min(it.hits, headgate.MaxInt)), true
	case c.hits > 0 || it.negative:
		r.Cost, r.CostSaid = max(1, int64(c.hits)), true
	default:
		r.Cost, r.CostSaid = 0, false
	}
}

// checks reports whether the descriptor only asks.
func (it *item) checks() bool { return !it.negative && it.hitsSaid && it.hits == 0 }

// headerKey begins the keys of entries that are header fields.
const headerKey = "header_"

// describe fills in what rules that do not match by descriptor go by. Of entries with one
// key the first counts. What cannot be what its key says is an attribute only.
func (it *item) describe() {
	r, generic := &it.req, ""
	if it.attrs == nil {
		it.attrs = make(map[string]string)
	}
	r.Attributes = it.attrs
	for i := range it.entries {
		e := &it.entries[i]
		key, value := e.Key, e.Value
		e.Value = shorten(value, policy.MaxEntryText)
		if _, is := it.attrs[key]; is {
			continue
		}
		it.attrs[key] = value
		switch key {
		case "operation":
			r.Operation = fit(value)
		case "generic_key":
			generic = fit(value)
		case "subject":
			r.Subject = fit(value)
		case "plan":
			r.Plan, r.PlanGuessed = value, true
		case "method":
			r.Method = value
		case "host":
			r.Host = value
		case "path":
			if strings.HasPrefix(value, "/") {
				r.Path = readable(value)
			}
		case "remote_address":
			if ip, err := netip.ParseAddr(value); err == nil && ip.Zone() == "" {
				r.IP = ip.Unmap()
			}
		default:
			it.header(key, value)
		}
	}
	if r.Operation == "" {
		r.Operation = generic
	}
}

func (it *item) header(key, value string) {
	name, ok := strings.CutPrefix(key, headerKey)
	if !ok || name == "" {
		return
	}
	if it.head == nil {
		it.head = make(http.Header)
	}
	it.req.Headers = it.head
	if name = http.CanonicalHeaderKey(name); it.head[name] == nil {
		it.head[name] = []string{value}
	}
}

// fit returns s as an operation or a subject may be. An error would let a client pass where
// Envoy does not deny on failures.
func fit(s string) string {
	if strings.ContainsAny(s, "\r\n\x00") {
		s = strings.NewReplacer("\r", "%0D", "\n", "%0A", "\x00", "%00").Replace(s)
	}
	return shorten(s, gate.MaxSubject)
}

// maxPath is the longest path that the gate reads, in bytes.
const maxPath = 8 << 10

// readable returns a path that the gate can read: what is no escape stands for itself, and
// so do control characters. What is longer than maxPath then is cut.
func readable(path string) string {
	if len(path) <= maxPath && !strings.ContainsFunc(path, func(c rune) bool { return c < ' ' || c == '%' || c == 0x7f }) {
		return path
	}
	var b strings.Builder
	for path != "" {
		n, as := 1, path[:1]
		switch c := path[0]; {
		case c < ' ' || c == 0x7f:
			as = fmt.Sprintf("%%25%02X", c)
		case c == '%':
			as = "%25"
			if decoded, err := url.PathUnescape(path[:min(3, len(path))]); err == nil && decoded[0] >= ' ' && decoded[0] != 0x7f {
				n, as = 3, path[:3]
			}
		}
		if b.Len()+len(as) > maxPath {
			break
		}
		b.WriteString(as)
		path = path[n:]
	}
	return b.String()
}

// shorten returns s, or its beginning and end around a hash of it where it has more bytes:
// rules still match it by how it begins and ends, and no two texts become one.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	keep := (most - 2 - hex.EncodedLen(len(sum))) / 2
	return strings.ToValidUTF8(s[:keep], "") + "%" + hex.EncodeToString(sum[:]) + "%" + strings.ToValidUTF8(s[len(s)-keep:], "")
}

// remains returns what is left of the limits that refuse, 0 where nothing is or they are
// not of a kind that counts requests.
func (it *item) remains() int64 {
	var least int64
	for _, l := range it.d.Limits() {
		if l.Allowed || l.Shadow {
			continue
		}
		if l.Unit != policy.Requests {
			return 0
		}
		if least == 0 || l.Remaining < least {
			least = l.Remaining
		}
		if least == 0 {
			return 0
		}
	}
	return least
}
