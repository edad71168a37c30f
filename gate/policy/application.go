package policy

import (
	"cmp"
	"net/textproto"
	"slices"
	"strings"
	"time"
)

var applicationKeys = keys{
	allowed: []string{
		"default_plan", "on_no_match", "on_no_subject", "limits", "identity", "trusted_proxies", "allow", "deny", "headers",
		"retry_jitter", "idempotency_window", "on_store_error", "mode", "enforce_percent", "ban", "domain", "rules",
	},
	later: map[string]string{"adaptive": "adaptive limits", "queue": "queues"},
	elsewhere: map[string]string{
		"candidate": "candidate limits stand on a rule",
		"max_wait":  "max_wait stands on a rule",
		"costs":     "costs stand on a rule",
	},
}

// application reads one application; the plans are known by then.
func (r *reader) application(e entry) Application {
	a := Application{Name: r.checkName(e.key, e.name), Pos: e.key.pos}
	o := e.object(applicationKeys)
	r.sendable, r.kept = r.sendable[:0], r.kept[:0]
	a.DefaultPlan = r.planName(o.at("default_plan"))
	a.OnNoMatch = []NoMatch{NoMatchPlan, NoMatchDeny, NoMatchAllow}[o.at("on_no_match").word("plan", "deny", "allow")]
	a.SharedNoSubject = o.at("on_no_subject").word("deny", "shared") == 1
	a.Limits = r.limits(o.at("limits"), inApplication)
	a.Ban = r.ban(o.at("ban"))
	r.clashWithBan(o.at("limits"), a.Limits, a.Ban)
	if n := countCharges(a.Limits, a.Ban) + r.largest.n; n > MaxLimits {
		at := o.at("limits")
		if !at.present() {
			at = o.at("ban")
		}
		at.fault("a request could meet %d limits, those of %s among them: at most %d", n, r.largest.who(), MaxLimits)
	}
	a.Identity = r.identity(o.at("identity"))
	a.TrustedProxies = r.proxies(o.at("trusted_proxies"))
	a.Headers = r.headers(o.at("headers"))
	a.Allow, a.Deny = r.lists(o.at("allow"), o.at("deny"))
	a.RetryJitter = r.jitter(o.at("retry_jitter"))
	a.IdempotencyWindow = r.idempotencyWindow(o.at("idempotency_window"))
	a.OnStoreError = r.onStoreError(o.at("on_store_error"))
	a.Mode = r.mode(o)
	a.Domain = r.domain(o.at("domain"), &a, e.key)
	a.Rules = r.rules(o.at("rules"), &a)
	id := inheriting("app/", a.Limits)
	for i := range a.Rules {
		if rule := &a.Rules[i]; rule.OnStoreError == Inherit {
			id = cmp.Or(id, inheriting(rule.Name+"/", rule.Limits))
		}
	}
	o.at("on_store_error").warnLocal(a.OnStoreError, cmp.Or(id, r.closedPlans))
	if len(a.Identity) > 0 {
		r.warnKept()
	}
	if !o.at("trusted_proxies").present() || len(a.TrustedProxies) == 0 {
		// The default, loopback, is no choice: behind it may stand anyone.
		for _, s := range r.sendable {
			s.value.fault("%s", s.text)
		}
	}
	return a
}

// sendable is a value that takes a subject or plan from what any client can
// send. It is a fault unless the author says which proxies set it.
type sendable struct {
	value
	text string
}

// maxIdentities bounds what may have to be tried for every request.
const maxIdentities = 16

func (r *reader) identity(v value) []Identity {
	if !v.present() {
		return nil
	}
	items, ok := v.list("a list such as [ip]")
	if ok && len(items) == 0 {
		v.fault("is empty: leave identity out if every request names its subject")
	}
	if len(items) > maxIdentities {
		v.fault("%d ways to find the subject: at most %d", len(items), maxIdentities)
		return nil
	}
	ids := make([]Identity, 0, len(items))
	for _, item := range items {
		if r.full() {
			break
		}
		id, ok := r.oneIdentity(item)
		if ok && slices.ContainsFunc(ids, func(o Identity) bool { return o.Kind == id.Kind && o.Name == id.Name }) {
			item.fault("is listed twice")
		}
		if ok && (id.Kind == ByHeader || id.Kind == ByCookie) && !id.KnownOnly {
			r.sendable = append(r.sendable, sendable{item, "any client can send this: set trusted_proxies to the proxies that set it, or add known_only: true"})
		}
		ids = append(ids, id)
	}
	return ids
}

var identityKeys = keys{allowed: []string{"header", "cookie", "attribute", "known_only"}}

var identityKinds = []struct {
	key  string
	kind IdentityKind
}{{"header", ByHeader}, {"cookie", ByCookie}, {"attribute", ByAttribute}}

func (r *reader) oneIdentity(v value) (Identity, bool) {
	const want = "ip, header:NAME, cookie:NAME, attribute:NAME, or a mapping such as {header: NAME, known_only: true}"
	if s, ok := v.scalar(); ok {
		if s == "ip" {
			return Identity{Kind: ByIP}, true
		}
		key, name, _ := strings.Cut(s, ":")
		for _, k := range identityKinds {
			if k.key == key {
				return r.namedIdentity(v, k.kind, key, name)
			}
		}
		v.fault("%s: must be %s", quoted(s), want)
		return Identity{}, false
	}
	if items, ok := v.entries(want); !ok || len(items) == 0 {
		if ok {
			v.fault("is empty: must be %s", want)
		}
		return Identity{}, false
	}
	o := v.object(identityKeys)
	id, found, good := Identity{}, false, false
	for _, k := range identityKinds {
		named := o.at(k.key)
		if !named.present() {
			continue
		}
		if found {
			named.fault("one identity has one source: make it an item of its own")
			return id, false
		}
		found = true
		if s, ok := named.text(wantName); ok {
			id, good = r.namedIdentity(named, k.kind, k.key, s)
		}
	}
	known := o.at("known_only")
	if known.present() {
		id.KnownOnly = known.boolean()
		if !found {
			v.fault("known_only of what: add header, cookie or attribute")
		}
	}
	return id, good
}

func (r *reader) namedIdentity(v value, kind IdentityKind, key, name string) (Identity, bool) {
	switch {
	case name == "":
		v.fault("%s of which name: write %s:NAME", key, key)
	case kind != ByAttribute && !isToken(name):
		v.fault("%s is not the name of a %s", quoted(name), key)
	case kind == ByAttribute && checkText(name) != nil:
		v.fault("attribute %v", checkText(name))
	case kind == ByHeader:
		return Identity{Kind: kind, Name: textproto.CanonicalMIMEHeaderKey(name)}, true
	default:
		return Identity{Kind: kind, Name: name}, true
	}
	return Identity{}, false
}

func (r *reader) headers(v value) HeaderStyles {
	if !v.present() {
		return HeadersIETF
	}
	options := []string{"none", "ietf", "draft03", "x-delta", "x-epoch"}
	bits := []HeaderStyles{0, HeadersIETF, HeadersDraft03, HeadersXDelta, HeadersXEpoch}
	items, ok := v.list("a list of " + strings.Join(options, ", "))
	if ok && len(items) == 0 {
		v.fault("is empty: write [none] for no headers")
	}
	var styles HeaderStyles
	for _, item := range items {
		if r.full() {
			break
		}
		style := bits[item.word(options...)]
		if item.is("none") && len(items) > 1 {
			item.fault("none stands alone")
		}
		if styles&style != 0 {
			item.fault("is listed twice")
		}
		styles |= style
	}
	if both := HeadersXDelta | HeadersXEpoch; styles&both == both {
		v.fault("x-delta and x-epoch send the same headers with other meanings: choose one")
	}
	return styles
}

func (r *reader) jitter(v value) int {
	if !v.present() {
		return 0
	}
	const want = "text: a whole percentage from 0% to 100%"
	s, ok := v.text(want)
	if !ok {
		return 0
	}
	digits, ok := strings.CutSuffix(s, "%")
	n, err := parseDigits(digits)
	if !ok || err != nil || n > 100 {
		v.fault("%s: must be a whole percentage from 0%% to 100%%, such as 10%%", quoted(s))
		return 0
	}
	return int(n)
}

func (r *reader) idempotencyWindow(v value) time.Duration {
	if !v.present() {
		return DefaultIdempotencyWindow
	}
	before := r.found
	d := r.duration(v)
	if r.found == before && (d < time.Second || d > 24*time.Hour) {
		v.fault("%v: must be 1s to 24h", d)
	}
	return d
}
