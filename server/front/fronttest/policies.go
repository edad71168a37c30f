package fronttest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
)

// maker makes what is random. It draws small numbers from few words, so that limits
// refuse, and requests meet.
type maker struct {
	*rand.Rand
	overrides map[string][]string // of the subjects of an application: as they are written
	shared    string              // a limit across applications, "" for none
	globals   int                 // limits so far that are one for all applications
	asked     []gate.Request      // earlier requests, to be asked again
	held      []int               // steps that may have tickets
}

func newMaker(seed uint64) *maker {
	return &maker{Rand: rand.New(rand.NewPCG(seed, 0x6865616467617465)), overrides: make(map[string][]string)}
}

func (m *maker) chance(percent int) bool { return m.IntN(100) < percent }

func pick[T any](m *maker, of ...T) T { return of[m.IntN(len(of))] }

// maybe returns text now and then, "" else.
func (m *maker) maybe(percent int, text string) string {
	if m.chance(percent) {
		return text
	}
	return ""
}

// The words of policies and requests.
var (
	subjects   = []string{"ann", "ann", "ann", "bob", "cy/1", "zoë & \"co\"", "known"}
	operations = []string{"op0", "op0", "op1", "op2"}
	zones      = []string{"UTC", "Asia/Kathmandu", "Europe/Paris", "America/St_Johns"}
	periods    = []string{"s", "7s", "1500ms", "10s", "min", "min", "h", "h", "h"}
	calendar   = []string{"hour", "day", "week", "month", "year"}
)

// policy writes a policy: an application shop with everything that there is, mail that
// shares budgets with it, and edge whose rules Envoys match, one limit each.
func (m *maker) policy() string {
	var b strings.Builder
	b.WriteString("version: 1\nplans:\n")
	if m.chance(40) {
		m.shared = m.limit(inApplication, "", "", "sum")
		m.shared = strings.TrimSuffix(m.shared, "}") + ", across: all}"
	}
	for _, plan := range []string{"free", "pro"} {
		fmt.Fprintf(&b, "  %s: {limits: %s}\n", plan, m.limits(inPlan, "plan", "", 2))
	}
	b.WriteString("applications:\n")
	m.shop(&b)
	m.mail(&b)
	m.edge(&b)
	b.WriteString("subjects:\n")
	fmt.Fprintf(&b, "  shop/known: {note: \"is known\"%s}\n", m.record("shop"))
	fmt.Fprintf(&b, "  shop/ann: {note: n%s}\n", m.record("shop"))
	fmt.Fprintf(&b, "  mail/bob: {note: n%s}\n", m.record("mail"))
	return b.String()
}

// record is what is said of a subject.
func (m *maker) record(application string) string {
	var b strings.Builder
	b.WriteString(m.maybe(40, ", plan: "+pick(m, "free", "pro")))
	b.WriteString(m.maybe(40, ", timezone: "+pick(m, zones...)))
	b.WriteString(m.maybe(40, fmt.Sprintf(", anchor: %d", 1+m.IntN(31))))
	var list []string
	for _, o := range m.overrides[application] {
		if m.chance(60) {
			list = append(list, "{"+o+m.bounds()+"}")
		}
	}
	if len(list) > 0 {
		fmt.Fprintf(&b, ", overrides: [%s]", strings.Join(list, ", "))
	}
	return b.String()
}

// bounds is the time in which an override holds.
func (m *maker) bounds() string {
	at := func(minutes int) string {
		return gatetest.Start.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339)
	}
	from := m.IntN(5)
	return m.maybe(30, ", from: "+at(from)) + m.maybe(30, ", until: "+at(from+1+m.IntN(30)))
}

func (m *maker) shop(b *strings.Builder) {
	b.WriteString("  shop:\n    trusted_proxies: [127.0.0.0/8]\n")
	m.line(b, 70, "default_plan: "+pick(m, "free", "pro"))
	m.line(b, 60, "on_no_match: "+pick(m, "plan", "deny", "allow"))
	m.line(b, 30, "on_no_subject: shared")
	m.line(b, 70, "identity: ["+pick(m, "ip", "\"header:X-User\", ip", "{cookie: sid, known_only: true}, \"attribute:user\"", "\"attribute:user\", ip")+"]")
	m.line(b, 30, "deny: ["+pick(m, "198.51.100.0/24", "\"subject:bob\"", "\"2001:db8::/32\", \"subject:known\"")+"]")
	m.line(b, 30, "allow: ["+pick(m, "203.0.113.7", "\"subject:cy/1\"")+"]")
	m.line(b, 30, "idempotency_window: "+pick(m, "1s", "30s", "24h"))
	m.line(b, 25, "ban: "+m.ban())
	m.line(b, 15, m.mode())
	fmt.Fprintf(b, "    limits: %s\n", m.limits(inApplication, "app", "shop", 2))
	b.WriteString("    rules:\n")
	for i, match := range []string{
		"operation: op0", "operation: op1, methods: [POST]", "operation: op1", "path: \"/x/{id}\"", "path: \"/y/{rest...}\", methods: [GET, PUT]",
		"operation: op2, path: \"/z\"",
	} {
		if m.chance(85) {
			fmt.Fprintf(b, "      - %s\n", m.rule("shop", fmt.Sprintf("r%d", i), match))
		}
	}
	for i, d := range descriptors {
		if m.chance(50) {
			fmt.Fprintf(b, "      - {name: d%d, match: {descriptor: [%s]}%s, limits: %s}\n",
				i, d, m.maybe(30, ", cost: 2"), m.limits(byDescriptor, fmt.Sprintf("d%d", i), "shop", 2))
		}
	}
}

func (m *maker) mail(b *strings.Builder) {
	b.WriteString("  mail:\n")
	m.line(b, 50, "default_plan: "+pick(m, "free", "pro"))
	fmt.Fprintf(b, "    limits: %s\n    rules:\n", m.limits(inApplication, "app", "mail", 2))
	fmt.Fprintf(b, "      - %s\n", m.rule("mail", "r0", "operation: op0"))
}

// descriptors are what rules match by, entry by entry.
var descriptors = []string{
	"{key: tenant}", "{key: tenant, value: acme}", "{key: tenant, value: \"a*\"}", "{key: tenant}, {key: route}",
	"{key: route, value: \"/v*\", share_threshold: true}", "{key: tier}", "{key: tier, value: gold}",
}

func (m *maker) edge(b *strings.Builder) {
	b.WriteString("  edge:\n    domain: front\n")
	m.line(b, 50, "on_no_match: "+pick(m, "deny", "allow"))
	b.WriteString("    rules:\n")
	for i, d := range descriptors {
		limit := fmt.Sprintf("algorithm: %s, rate: %d/%s", pick(m, "fixed_window", "fixed_window", "sliding_window", "sliding_log", "token_bucket"), 1+m.IntN(6), pick(m, periods...))
		switch {
		case m.chance(15):
			limit = "rate: unlimited"
		case m.chance(15):
			limit = fmt.Sprintf("algorithm: fixed_window, rate: 0/%s", pick(m, periods...))
		case m.chance(15):
			limit = fmt.Sprintf("algorithm: quota, rate: %d/%s", 1+m.IntN(6), pick(m, calendar...))
		}
		how := m.maybe(15, ", mode: shadow")
		if how == "" {
			how = m.maybe(25, ", quota_mode: true")
		}
		replaces := m.maybe(15, fmt.Sprintf(", replaces: [e%d]", (i+1)%len(descriptors)))
		fmt.Fprintf(b, "      - {name: e%d, match: {descriptor: [%s]}, limits: [{name: w, %s}]%s%s}\n", i, d, limit, how, replaces)
	}
}

func (m *maker) line(b *strings.Builder, percent int, text string) {
	if text != "" && m.chance(percent) {
		fmt.Fprintf(b, "    %s\n", text)
	}
}

func (m *maker) ban() string {
	return fmt.Sprintf("{after: %d, within: %s, for: %s}", 1+m.IntN(2), pick(m, "10s", "1m", "1h"), pick(m, "3s", "5m"))
}

func (m *maker) mode() string {
	return pick(m, "mode: shadow", fmt.Sprintf("enforce_percent: %d", 1+m.IntN(99)))
}

// rule writes a rule of an application.
func (m *maker) rule(application, name, match string) string {
	s := "{name: " + name + ", match: {" + match + "}"
	s += m.maybe(10, ", skip: \"attributes['user'] == 'root'\"")
	s += m.maybe(30, ", cost: "+pick(m, "0", "2", "{GET: 2, POST: 3}", "\"int(attributes['n']) + 1\"", "\"request.method == 'POST' ? 3 : 1\""))
	s += m.maybe(60, ", costs: {tokens: "+pick(m, "3", "\"int(attributes['n']) * 2\"")+m.maybe(30, ", bytes: 100")+"}")
	s += m.maybe(15, ", plan: \"attributes['user'] == 'gold' ? 'pro' : ''\"")
	s += m.maybe(20, ", max_wait: 2s")
	s += m.maybe(20, ", ban: "+m.ban())
	s += m.maybe(15, ", message: slower")
	if m.chance(20) {
		s += ", " + m.mode()
	}
	if m.chance(30) {
		s += ", candidate: {limits: " + m.limits(inCandidate, "", "", 2) + "}"
	}
	return s + ", limits: " + m.limits(inRule, name, application, 2) + "}"
}

// place is where limits stand.
type place uint8

const (
	inPlan place = iota
	inApplication
	inRule
	byDescriptor
	inCandidate
)

// limits writes up to most limits, and keeps overrides of them.
func (m *maker) limits(in place, prefix, application string, most int) string {
	var list []string
	if in == inApplication && m.shared != "" {
		list = append(list, m.shared)
	}
	for i := range m.IntN(most + 1) {
		list = append(list, m.limit(in, prefix, application, fmt.Sprintf("l%d", i)))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func (m *maker) limit(in place, prefix, application, name string) string {
	if m.chance(6) {
		return "{name: " + name + ", rate: unlimited}"
	}
	algorithm := pick(m, "token_bucket", "token_bucket", "leaky_bucket", "fixed_window", "sliding_window", "sliding_log", "quota", "concurrency")
	owner := m.owner(in)
	if owner == "per: global" { // which all of its name share, and so its numbers
		name = fmt.Sprintf("g%d", m.globals)
		m.globals++
	}
	unit := pick(m, calendar...) // of a quota
	parts := []string{"name: " + name, "algorithm: " + algorithm, m.numbers(algorithm, unit)}
	add := func(percent int, part string) {
		if part != "" && m.chance(percent) {
			parts = append(parts, part)
		}
	}
	switch algorithm {
	case "sliding_window":
		add(50, fmt.Sprintf("slices: %d", pick(m, 1, 2, 5)))
	case "concurrency":
		add(100, "ttl: "+pick(m, "2s", "1m"))
		add(map[bool]int{true: 100, false: 70}[in == inCandidate], "release: ttl")
	case "quota":
		add(40, "timezone: "+pick(m, zones...))
		add(40, m.anchor(unit))
		add(20, "soft: true")
		add(20, fmt.Sprintf("rollover: {max: %d}", 1+m.IntN(5)))
	}
	mine := owner == "per: subject" || owner == "" && in == inRule
	if mine && in != inPlan {
		add(25, "plans: {pro: "+pick(m, "unlimited", "{"+m.numbers(algorithm, unit)+"}")+"}")
	}
	count := m.maybe(15, "unit: "+pick(m, "tokens", "tokens", "bytes"))
	add(100, owner)
	add(100, count)
	if count != "" || strings.Contains(owner, "expr") {
		add(85, "when_missing: skip")
	}
	if in != inCandidate {
		add(12, m.mode())
	}
	if mine && application != "" {
		m.overrides[application] = append(m.overrides[application], "limit: "+prefix+"/"+name+", "+m.overridden(algorithm, unit))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// anchor is when the periods of a quota begin, "" for those that are always alike.
func (m *maker) anchor(unit string) string {
	switch unit {
	case "month":
		return fmt.Sprintf("anchor: %d", 1+m.IntN(31))
	case "week":
		return "anchor: " + pick(m, "monday", "sunday")
	case "year":
		return "anchor: " + pick(m, "\"04-01\"", "\"02-29\"")
	default:
		return ""
	}
}

// owner says whose budget a limit is; "" leaves it to the place.
func (m *maker) owner(in place) string {
	if in == byDescriptor {
		return "" // not all of them have a subject
	}
	return pick(m, "", "", "", "per: subject", "per: application", "per: global", "per: {expr: \"attributes['user']\"}", "per: {expr: \"request.headers['x-user']\"}")
}

func (m *maker) numbers(algorithm, unit string) string {
	n := 1 + m.IntN(7)
	switch algorithm {
	case "quota":
		return fmt.Sprintf("rate: %d/%s", n, unit)
	case "concurrency":
		return fmt.Sprintf("max: %d", n)
	case "token_bucket", "leaky_bucket":
		return fmt.Sprintf("rate: %d/%s", n, pick(m, periods...)) + m.maybe(60, fmt.Sprintf(", burst: %d", 1+m.IntN(9)))
	default:
		return fmt.Sprintf("rate: %d/%s", n, pick(m, periods...))
	}
}

// overridden are numbers of an override.
func (m *maker) overridden(algorithm, unit string) string {
	switch {
	case m.chance(85):
		return m.numbers(algorithm, unit)
	case algorithm == "concurrency":
		return "max: unlimited"
	default:
		return "rate: unlimited"
	}
}
