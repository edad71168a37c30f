package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

const wantNetwork = "text: an address or network such as 10.0.0.0/8"

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
		s, ok := item.text(wantNetwork)
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

// lists reads the allow and deny lists. Lists may be long: every entry is
// looked up, none is compared with the others.
func (r *reader) lists(allow, deny value) (a, d List) {
	first := make(map[string]int)
	a = r.oneList(allow, "lets every client pass uncharged", func(item value, entry string) bool {
		line, twice := first[entry]
		if twice {
			item.fault("is listed twice: the first is in line %d", line)
		}
		first[entry] = item.pos.Line
		return !twice
	})
	denied := make(map[string]int)
	d = r.oneList(deny, "refuses every client", func(item value, entry string) bool {
		if line, twice := denied[entry]; twice {
			item.fault("is listed twice: the first is in line %d", line)
			return false
		}
		denied[entry] = item.pos.Line
		line, both := first[entry]
		if both {
			item.fault("is in allow too, in line %d: remove one of the two", line)
		}
		return !both
	})
	return a, d
}

// oneList reads the entries for which fresh holds. all says what a network of
// every address means.
func (r *reader) oneList(v value, all string, fresh func(item value, entry string) bool) (l List) {
	if !v.present() {
		return l
	}
	items, _ := v.list("a list such as [10.0.0.0/8, subject:mallory]")
	for _, item := range items {
		if r.full() {
			break
		}
		s, ok := item.text(wantNetwork + ", or subject:NAME")
		if !ok {
			continue
		}
		if name, ok := strings.CutPrefix(s, "subject:"); ok {
			if name == "" {
				item.fault("which subject: write subject:NAME")
			} else if err := checkText(name); err != nil {
				item.fault("%v", err)
			} else if fresh(item, s) {
				l.Subjects = append(l.Subjects, name)
			}
			continue
		}
		p, err := parseNetwork(s)
		if err != nil {
			if !strings.ContainsAny(s, ".:/") {
				err = fmt.Errorf("%w; write subject:NAME for a subject", err)
			}
			item.fault("%v", err)
			continue
		}
		if p.Bits() == 0 {
			item.warn("%s", all)
		}
		if fresh(item, p.String()) {
			l.Networks = append(l.Networks, p)
		}
	}
	return l
}
