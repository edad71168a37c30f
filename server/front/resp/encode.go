package resp

import (
	"strconv"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/internal/ratefield"
	"github.com/headgate/headgate/server/front"
)

// key is the name of an entry as it is sent, and the start of its value where that
// is always of one kind: ":" of a number.
func key(name, start string) string {
	return "$" + strconv.Itoa(len(name)) + crlf + name + crlf + start
}

// The entries of a decision and of its limits, named as in JSON.
var (
	keyAllowed    = key("allowed", ":")
	keyID         = key("decision_id", "$32\r\n")
	keyReason     = key("reason", "")
	keyBoundBy    = key("bound_by", "")
	keyRetryable  = key("retryable", ":")
	keyApp        = key("application", "")
	keyRule       = key("rule", "")
	keyOperation  = key("operation", "")
	keySubject    = key("subject", "")
	keyPlan       = key("plan", "")
	keyCost       = key("cost", ":")
	keyCosts      = key("costs", "")
	keyLimit      = key("limit", "")
	keyRemaining  = key("remaining", "")
	keyRetry      = key("retry_after_ms", "")
	keyReset      = key("reset_after_ms", "")
	keyLimits     = key("limits", "")
	keyMode       = key("mode", "")
	keyWouldDeny  = key("would_deny", "")
	keyCandidate  = key("candidate", "")
	keyDegraded   = key("degraded", "")
	keyReplayed   = key("replayed", ":")
	keyWaited     = key("waited_ms", ":")
	keyTicket     = key("ticket", "")
	keyRevision   = key("policy_revision", ":")
	keyDelay      = key("delay_ms", ":")
	keyMessage    = key("message", "")
	keyHeld       = key("held", ":")
	keyName       = key("id", "")
	keyAlgorithm  = key("algorithm", "")
	keyOwner      = key("owner", "")
	keyUnit       = key("unit", "")
	keyIsLimit    = key("limit", ":")
	keyUsed       = key("used", ":")
	keyRemains    = key("remaining", ":")
	keyOverage    = key("overage", ":")
	keyRollover   = key("rollover", ":")
	keyResetIn    = key("reset_after_ms", ":")
	keyResetsAt   = key("resets_at", "")
	keyExact      = key("exact", ":")
	keyRecovering = key("recovering", ":")
	keyPolicy     = key("ratelimit_policy", "")
	keyRateLimit  = key("ratelimit", "")

	enforce = key("enforce", "")
	shadow  = key("shadow", "")
)

// either is what is written of a truth and around it.
type either struct{ yes, no string }

func (e *either) of(is bool) string {
	if is {
		return e.yes
	}
	return e.no
}

// around is a truth between what always stands before and behind it.
func around(before, behind string) either {
	return either{before + "1\r\n" + behind, before + "0\r\n" + behind}
}

// Pieces of decisions that are written at one go.
var (
	allowedID    = around(keyAllowed, keyID)
	retryableApp = around(keyRetryable, keyApp)
	modes        = either{keyMode + shadow, keyMode + enforce}
	exactShadow  = around(keyMode+shadow+keyExact, "")
	exactEnforce = around(keyMode+enforce+keyExact, "")
)

// How many entries are always there.
const (
	decisionEntries  = 25
	limitEntries     = 14
	candidateEntries = 5
)

// reasons are all reasons as they are sent.
var reasons = func() (list [headgate.Reasons]string) {
	for i := range list {
		list[i] = key(headgate.Reason(i).String(), "")
	}
	return list
}()

// appendDecision appends d as the contract writes it: every entry, always in one
// order, and allowed first. Only limits are missing where the client wants it brief, and
// header fields are there where it wants them.
func (c *conn) appendDecision(b []byte, d *gate.Decision) []byte {
	if c.w.fields {
		return c.appendWithFields(b, d)
	}
	return c.appendEntries(c.appendMap(b, c.entries(d)), d)
}

// appendWithFields appends d and the header fields that tell HTTP clients of it.
func (c *conn) appendWithFields(b []byte, d *gate.Decision) []byte {
	var room [headgate.MaxCharges]ratefield.Item
	items := inlet.Items(room[:0], d)
	if len(items) == 0 {
		return c.appendEntries(c.appendMap(b, c.entries(d)), d)
	}
	b = c.appendEntries(c.appendMap(b, c.entries(d)+2), d)
	var text [512]byte // usually enough
	b = appendBulk(append(b, keyPolicy...), view(ratefield.AppendPolicy(text[:0], items)))
	return appendBulk(append(b, keyRateLimit...), view(ratefield.AppendLimit(text[:0], items)))
}

// appendHeld appends the answer to a ticket.
func (c *conn) appendHeld(b []byte, d *gate.Decision) []byte {
	b = c.appendEntries(c.appendMap(b, c.entries(d)+1), d)
	return appendTruth(append(b, keyHeld...), d.Held)
}

// entries is the number of entries of a decision.
func (c *conn) entries(d *gate.Decision) int {
	n := decisionEntries
	if d.Delay > 0 {
		n++
	}
	if says(d) {
		n++
	}
	if c.w.brief {
		n--
	}
	return n
}

func (c *conn) appendEntries(b []byte, d *gate.Decision) []byte {
	limits := d.Limits()
	bound := d.BoundBy >= 0 && d.BoundBy < len(limits)
	b = appendID(append(b, allowedID.of(d.Allowed)...), d.ID)
	b = append(append(b, keyReason...), reasons[d.Reason]...)
	b = append(b, keyBoundBy...)
	if bound {
		b = appendBulk(b, limits[d.BoundBy].ID)
	} else {
		b = c.appendNull(b)
	}
	b = c.w.place.append(append(b, retryableApp.of(d.Retryable)...), d)
	b = appendBulk(b, d.Subject)
	b = appendBulk(append(b, keyPlan...), d.Plan)
	b = appendNumber(append(b, keyCost...), d.Cost)
	costs := d.Costs()
	b = c.appendMap(append(b, keyCosts...), len(costs))
	for i := range costs {
		b = appendInt(appendBulk(b, costs[i].Unit), costs[i].Cost)
	}
	b = c.appendIntIf(append(b, keyLimit...), bound, d.Limit)
	b = c.appendIntIf(append(b, keyRemaining...), bound, d.Remaining)
	b = c.appendIntIf(append(b, keyRetry...), d.Retryable && (bound || d.RetryAfter > 0), front.Millis(d.RetryAfter))
	b = c.appendIntIf(append(b, keyReset...), bound, front.Millis(d.ResetAfter))
	if !c.w.brief {
		b = c.appendLimits(append(b, keyLimits...), limits)
	}
	b = append(b, modes.of(d.Shadow)...)
	if _, _, tried := d.Candidate(); tried || d.WouldDeny != headgate.NoReason || d.Degraded != "" || d.Replayed || d.Waited > 0 || d.HasTicket() {
		b = c.appendUnusual(b, d)
	} else if c.resp3 {
		b = append(b, usual3...)
	} else {
		b = append(b, usual2...)
	}
	b = appendNumber(append(b, keyRevision...), int64(d.Revision))
	if d.Delay > 0 {
		// Leaky buckets, where we did not wait it out: the caller has to.
		b = appendNumber(append(b, keyDelay...), front.Millis(d.Delay))
	}
	if says(d) {
		b = appendBulk(append(b, keyMessage...), d.Message)
	}
	return b
}

// says reports whether the rule has something to tell who is refused.
func says(d *gate.Decision) bool { return !d.Allowed && d.Message != "" }

// appendUnusual appends what few decisions have anything to say of.
func (c *conn) appendUnusual(b []byte, d *gate.Decision) []byte {
	b = append(b, keyWouldDeny...)
	if d.WouldDeny != headgate.NoReason {
		b = append(b, reasons[d.WouldDeny]...)
	} else {
		b = c.appendNull(b)
	}
	b = append(b, keyCandidate...)
	if sum, limits, ok := d.Candidate(); ok {
		b = c.appendCandidate(b, &sum, limits)
	} else {
		b = c.appendNull(b)
	}
	b = append(b, keyDegraded...)
	if d.Degraded != "" {
		b = appendBulk(b, d.Degraded)
	} else {
		b = c.appendNull(b)
	}
	b = appendTruth(append(b, keyReplayed...), d.Replayed)
	b = appendNumber(append(b, keyWaited...), front.Millis(d.Waited))
	b = append(b, keyTicket...)
	if d.HasTicket() {
		b = appendBulk(b, string(d.AppendTicket(nil)))
	} else {
		b = c.appendNull(b)
	}
	return b
}

// What appendUnusual appends where there is nothing to say.
var (
	usual2 = (&conn{}).appendUnusual(nil, new(gate.Decision))
	usual3 = (&conn{resp3: true}).appendUnusual(nil, new(gate.Decision))
)

// appendCandidate appends what limits on trial would have answered.
func (c *conn) appendCandidate(b []byte, sum *headgate.Decision, limits []gate.LimitState) []byte {
	bound := sum.BoundBy >= 0 && sum.BoundBy < len(limits)
	b = c.appendMap(b, candidateEntries)
	b = appendTruth(append(b, keyAllowed...), sum.Allowed)
	b = append(append(b, keyReason...), reasons[sum.Reason]...)
	b = append(b, keyBoundBy...)
	if bound {
		b = appendBulk(b, limits[sum.BoundBy].ID)
	} else {
		b = c.appendNull(b)
	}
	b = c.appendIntIf(append(b, keyRetry...), sum.Retryable && bound, front.Millis(sum.RetryAfter))
	return c.appendLimits(append(b, keyLimits...), limits)
}

// placeText is what was written last of where a decision was made: most requests are alike.
type placeText struct {
	application, rule, operation string // parts of text
	text                         []byte
}

// append appends the values of application, rule and operation, and the key of subject.
func (t *placeText) append(b []byte, d *gate.Decision) []byte {
	if t.application != d.Application || t.rule != d.Rule || t.operation != d.Operation || t.text == nil {
		text := appendBulk(t.text[:0], d.Application)
		application := len(text)
		text = appendBulk(append(text, keyRule...), d.Rule)
		rule := len(text)
		text = appendBulk(append(text, keyOperation...), d.Operation)
		operation := len(text)
		part := func(end, n int) string { return view(text[end-len(crlf)-n : end-len(crlf)]) }
		t.application, t.rule, t.operation = part(application, len(d.Application)), part(rule, len(d.Rule)), part(operation, len(d.Operation))
		t.text = append(text, keySubject...)
	}
	return append(b, t.text...)
}

func (c *conn) appendLimits(b []byte, limits []gate.LimitState) []byte {
	b = appendArray(b, len(limits))
	for i := range limits {
		b = c.appendLimit(b, &limits[i], &c.w.texts[i%len(c.w.texts)])
	}
	return b
}

// limitText is what was written of a limit last: most requests meet the same ones.
type limitText struct {
	id, owner, unit string
	algorithm       headgate.Algorithm
	head            []byte // the entries of these
	resetsAt        int64
	zone            *time.Location
	instant         []byte // the value of resets_at
}

func (c *conn) appendLimit(b []byte, l *gate.LimitState, t *limitText) []byte {
	n, rollover := limitEntries, l.Rollover()
	if rollover > 0 {
		n++
	}
	if l.Recovering {
		n++
	}
	b = c.appendMap(b, n)
	if t.id != l.ID || t.owner != l.Owner || t.unit != l.Unit || t.algorithm != l.Limit.Algorithm || t.head == nil {
		t.write(l)
	}
	b = append(b, t.head...)
	b = appendTruth(b, l.Allowed)
	b = appendNumber(append(b, keyIsLimit...), l.Outcome.Limit)
	b = appendNumber(append(b, keyUsed...), l.Used)
	b = appendNumber(append(b, keyRemains...), l.Remaining)
	b = appendNumber(append(b, keyOverage...), l.Overage)
	if rollover > 0 {
		b = appendNumber(append(b, keyRollover...), rollover)
	}
	b = c.appendIntIf(append(b, keyRetry...), !l.Never, front.Millis(l.RetryAfter))
	b = appendNumber(append(b, keyResetIn...), front.Millis(l.ResetAfter))
	b = append(b, keyResetsAt...)
	if l.ResetsAt == 0 {
		b = c.appendNull(b)
	} else {
		b = t.appendInstant(b, l)
	}
	exact := &exactEnforce
	if l.Shadow {
		exact = &exactShadow
	}
	b = append(b, exact.of(!l.Shared && !l.Leased)...)
	if l.Recovering {
		b = appendTruth(append(b, keyRecovering...), true)
	}
	return b
}

// write writes down what does not change from one decision to the next.
func (t *limitText) write(l *gate.LimitState) {
	t.id, t.owner, t.unit, t.algorithm = l.ID, l.Owner, l.Unit, l.Limit.Algorithm
	b := appendBulk(append(t.head[:0], keyName...), l.ID)
	b = appendBulk(append(b, keyAlgorithm...), l.Limit.Algorithm.String())
	b = appendBulk(append(b, keyOwner...), l.Owner)
	b = appendBulk(append(b, keyUnit...), l.Unit)
	t.head = append(b, keyAllowed...)
}

// appendInstant appends the end of a quota's period on the clock of its time zone.
func (t *limitText) appendInstant(b []byte, l *gate.LimitState) []byte {
	zone := l.Limit.Calendar.Location
	if zone == nil {
		zone = time.UTC
	}
	if t.resetsAt != l.ResetsAt || t.zone != zone {
		t.resetsAt, t.zone = l.ResetsAt, zone
		t.instant = time.UnixMicro(l.ResetsAt).In(zone).AppendFormat(t.instant[:0], time.RFC3339)
	}
	return appendBulk(b, view(t.instant))
}

// appendIs appends a truth: 1 or 0, in either version of the protocol.
func appendIs(b []byte, is bool) []byte { return appendTruth(append(b, ':'), is) }

// appendTruth is appendIs behind the ':'.
func appendTruth(b []byte, is bool) []byte {
	if is {
		return append(b, "1\r\n"...)
	}
	return append(b, "0\r\n"...)
}

// appendNumber is appendInt behind the ':'.
func appendNumber(b []byte, n int64) []byte {
	return append(appendDigits(b, n), crlf...)
}

func (c *conn) appendIntIf(b []byte, is bool, n int64) []byte {
	if !is {
		return c.appendNull(b)
	}
	return appendInt(b, n)
}

func appendID(b []byte, id [2]uint64) []byte {
	const digits = "0123456789abcdef"
	var text [34]byte
	for i := range 16 {
		text[i] = digits[id[0]>>(60-4*i)&15]
		text[16+i] = digits[id[1]>>(60-4*i)&15]
	}
	text[32], text[33] = '\r', '\n'
	return append(b, text[:]...)
}
