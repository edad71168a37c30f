package gate

import (
	"net/netip"
	"slices"

	"github.com/headgate/headgate/gate/policy"
)

// list is an allow or deny list made ready: networks by their length, so that a
// look-up costs as much as there are different lengths.
type list struct {
	subjects map[string]struct{}
	lengths  []int // of networks, ascending
	networks map[netip.Prefix]struct{}
}

func newList(p *policy.List) list {
	var l list
	if len(p.Subjects) > 0 {
		l.subjects = make(map[string]struct{}, len(p.Subjects))
		for _, s := range p.Subjects {
			l.subjects[s] = struct{}{}
		}
	}
	if len(p.Networks) > 0 {
		l.networks = make(map[netip.Prefix]struct{}, len(p.Networks))
		for _, n := range p.Networks {
			l.networks[n.Masked()] = struct{}{}
			if !slices.Contains(l.lengths, n.Bits()) {
				l.lengths = append(l.lengths, n.Bits())
			}
		}
		slices.Sort(l.lengths)
	}
	return l
}

// holds reports whether the list names the subject or the address, either of
// which may be missing.
func (l *list) holds(subject string, ip netip.Addr) bool {
	if l.names(subject) {
		return true
	}
	_, found := l.network(ip)
	return found
}

func (l *list) names(subject string) bool {
	if l.subjects == nil || subject == "" {
		return false
	}
	_, ok := l.subjects[subject]
	return ok
}

// network returns the widest network of the list that holds the address.
func (l *list) network(ip netip.Addr) (netip.Prefix, bool) {
	if l.networks == nil || !ip.IsValid() {
		return netip.Prefix{}, false
	}
	ip = ip.Unmap().WithZone("")
	for _, bits := range l.lengths {
		p, err := ip.Prefix(bits)
		if err != nil { // longer than an IPv4 address
			break
		}
		if _, ok := l.networks[p]; ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}
