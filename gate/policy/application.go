package policy

import (
	"fmt"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

var applicationKeys = keys{
	allowed: []string{
		"default_plan", "on_no_match", "on_no_subject", "limits", "identity", "trusted_proxies", "headers",
		"retry_jitter", "on_store_error", "mode", "rules",
	},
	later: map[string]string{
		"allow":              "allow lists",
		"deny":               "deny lists",
		"idempotency_window": "idempotency_window",
		"ban":                "bans",
		"enforce_percent":    "enforce_percent",
		"candidate":          "candidate limits",
		"adaptive":           "adaptive limits",
		"max_wait":           "max_wait, waiting in line",
		"queue":              "queues",
	},
}

// application reads one application; the plans are known by then.
func (r *reader) application(e entry) Application {
	a := Application{Name: r.checkName(e.key, e.name), Pos: e.key.pos}
	o := e.object(applicationKeys)
	r.sendable = r.sendable[:0]
	a.DefaultPlan = r.planName(o.at("default_plan"))
	a.OnNoMatch = []NoMatch{NoMatchPlan, NoMatchDeny, NoMatchAllow}[o.at("on_no_match").word("plan", "deny", "allow")]
	a.SharedNoSubject = o.at("on_no_subject").word("deny", "shared") == 1
	a.Limits = r.limits(o.at("limits"), inApplication)
	if n := countLimits(a.Limits) + r.largest.n; n > headgate.MaxCharges && o.at("limits").present() {
		o.at("limits").fault("a request could meet %d limits, those of %s among them: at most %d", n, r.largest.who(), headgate.MaxCharges)
	}
	a.Identity = r.identity(o.at("identity"))
	a.TrustedProxies = r.proxies(o.at("trusted_proxies"))
	a.Headers = r.headers(o.at("headers"))
	a.RetryJitter = r.jitter(o.at("retry_jitter"))
	a.OnStoreError = r.onStoreError(o.at("on_store_error"))
	a.Shadow = o.at("mode").word("enforce", "shadow") == 1
	a.Rules = r.rules(o.at("rules"), &a)
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

func (r *reader) identity(v value) []Identity {
	if !v.present() {
		return nil
	}
	items, ok := v.list("a list such as [ip]")
	if ok && len(items) == 0 {
		v.fault("is empty: leave identity out if every request names its subject")
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
	o := v.object(keys{allowed: []string{"header", "cookie", "attribute", "known_only"}})
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

// proxies returns the addresses that are trusted; loopback if v is absent.
func (r *reader) proxies(v value) []netip.Prefix {
	if !v.present() {
		return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	items, _ := v.list("a list of addresses and networks such as [10.0.0.0/8, ::1]")
	prefixes := make([]netip.Prefix, 0, len(items))
	for _, item := range items {
		if r.full() {
			break
		}
		s, ok := item.text("text: an address or network such as 10.0.0.0/8")
		if !ok {
			continue
		}
		p, err := parseNetwork(s)
		if err != nil {
			item.fault("%v", err)
			continue
		}
		if p.Bits() == 0 {
			item.warn("trusts every address: any client can then say who it is")
		}
		prefixes = append(prefixes, p)
	}
	return prefixes
}

func parseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%s: an address here has no zone", quoted(s))
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%s is not an address or network such as 10.0.0.0/8 or ::1", quoted(s))
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, fmt.Errorf("%s holds more than IPv4 addresses: write the IPv4 network", quoted(s))
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%s has bits beyond its length: write %v or the single address", quoted(s), p.Masked())
	}
	return p, nil
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

func (r *reader) subject(e entry, apps map[string]bool) Subject {
	s := Subject{Pos: e.key.pos}
	var ok bool
	s.Application, s.Name, ok = strings.Cut(e.name, "/")
	switch {
	case !ok || s.Name == "":
		e.key.fault("must be application/subject, such as email/alice")
	case checkText(s.Name) != nil:
		e.key.fault("%v", checkText(s.Name))
	case !apps[s.Application]:
		e.key.fault("there is no application %s", quoted(s.Application))
	}
	o := e.object(keys{allowed: []string{"plan"}, later: map[string]string{
		"overrides": "overrides of subjects",
		"timezone":  "time zones of subjects",
	}})
	s.Plan = r.planName(o.at("plan"))
	return s
}
