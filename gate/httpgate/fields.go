package httpgate

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/internal/ratefield"
	"github.com/headgate/headgate/internal/refusal"
)

// Fields sets the header fields that tell of decisions, for doors that answer with them
// as this package does. The zero value is ready. It is not safe for concurrent use: keep
// Fields in a sync.Pool. What it has set stays valid and never changes.
type Fields struct {
	set   ratefield.Setter
	items [headgate.MaxCharges]ratefield.Item
	ids   strings.Builder
}

// Set sets the rate limit fields of the conventions in styles, of the limits that are the
// subject's own; Retry-After where it is refused for a time; Headgate-Reason and
// -Decision-Id; and Headgate-Limit and -Degraded where there is something to say.
func (f *Fields) Set(h http.Header, d *gate.Decision, styles policy.HeaderStyles) {
	f.set.Set(h, ratefield.Styles(styles), inlet.Items(f.items[:0], d), d.At())
	if !d.Allowed && d.Retryable {
		f.set.SetInteger(h, "Retry-After", ratefield.RetryAfter(d.RetryAfter, d.RetryJitter, rand.Uint64()))
	}
	f.set.SetString(h, "Headgate-Reason", d.Reason.String())
	if id := d.BoundByID(); id != "" {
		f.set.SetString(h, "Headgate-Limit", id)
	}
	if d.Degraded != "" {
		f.set.SetString(h, "Headgate-Degraded", d.Degraded)
	}
	f.set.SetString(h, "Headgate-Decision-Id", f.id(d.ID))
}

// id returns 32 hexadecimal digits, which it cuts from a block that serves many.
func (f *Fields) id(id [2]uint64) string {
	const digits, size = "0123456789abcdef", 32
	if f.ids.Cap()-f.ids.Len() < size {
		f.ids.Reset()
		f.ids.Grow(32 * size)
	}
	start := f.ids.Len()
	for _, half := range id {
		for shift := 60; shift >= 0; shift -= 4 {
			f.ids.WriteByte(digits[half>>shift&15])
		}
	}
	return f.ids.String()[start:]
}

// Status returns the status of a refusal: 429 if a limit, a ban or the wait in line
// refuses, 422 for a cost that can never pass, 403 for clients that may never pass, 503 if
// nobody would pass.
func Status(r headgate.Reason) int { return refusal.Of(r).Status }

// Detail is what a refused client is told: the rule's message, else a sentence that says
// why, and when to come again.
func Detail(d *gate.Decision) string {
	switch {
	case d.Message != "":
		return d.Message
	case d.Retryable:
		return sentence(d.Reason) + "; try again in " + strconv.FormatInt(ratefield.RetryAfter(d.RetryAfter, 0, 0), 10) + " s"
	default:
		return sentence(d.Reason)
	}
}

// sentence says why a request is refused.
func sentence(r headgate.Reason) string {
	switch {
	case r == headgate.CostExceedsLimit:
		return "this request costs more than its limit can ever hold"
	case r == headgate.NoRule:
		return "no rule lets this request pass"
	case r == headgate.DenyListed:
		return "this client may not pass"
	case r == headgate.Banned:
		return "banned"
	case Status(r) == http.StatusServiceUnavailable:
		return "the service cannot take this request at the moment"
	default:
		return "too many requests"
	}
}

// The first of the names of our fields, which are lists, and the others, which hold one
// value.
const ownLists = 2

var ownNames = [...]string{
	"Ratelimit-Policy", "Ratelimit",
	"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset",
	"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset",
	"Headgate-Reason", "Headgate-Limit", "Headgate-Degraded", "Headgate-Decision-Id",
}

// own is the value that we gave each of ownNames, "" for none.
type own [len(ownNames)]string

// read takes down what was set last.
func (o *own) read(h http.Header) {
	for i, name := range ownNames {
		if v := h[name]; len(v) > 0 {
			o[i] = v[len(v)-1]
		}
	}
}

// restore sets again what a handler has changed. Lists keep what it has added.
func (o *own) restore(h http.Header) {
	for i, value := range o {
		if value == "" {
			continue
		}
		switch name, now := ownNames[i], h[ownNames[i]]; {
		case i >= ownLists && (len(now) != 1 || now[0] != value):
			h[name] = []string{value}
		case i < ownLists && !slices.Contains(now, value):
			h[name] = append([]string{value}, now...)
		}
	}
}
