package policy

import "time"

// ParseSubject reads what is on record of a subject, JSON or YAML with the keys of a
// subject in a policy. With a policy it is checked against that, as the policy's own
// subjects are, and names of limits become ids; overrides of one limit must not hold at
// once. A nil policy checks only what the text says by itself: what was right once may
// not fit the policy of today. The error is [Faults], without a file.
func ParseSubject(p *Policy, application, name string, data []byte) (Subject, error) {
	r := &reader{zones: make(map[string]*time.Location)}
	known := p != nil
	if known {
		r.plans = make(map[string]bool, len(p.Plans))
		for i := range p.Plans {
			r.plans[p.Plans[i].Name] = true
		}
		if r.targets = newTargets(p); !r.targets.has(application) {
			r.fault(Pos{1, 1}, "", "there is no application %s", quoted(application))
			_, err := r.result()
			return Subject{}, err
		}
	}
	s := Subject{Application: application, Name: name}
	if root := r.document(data); root != nil {
		v := value{r: r, node: plainNode(root)}
		v.pos = nodePos(v.node, Pos{1, 1})
		r.said(v.object(subjectKeys), &s, known)
		if known {
			r.apart(v, &s)
		}
	}
	_, err := r.result()
	return s, err
}

// apart reports overrides of one limit that hold at once.
func (r *reader) apart(v value, s *Subject) {
	for i := range s.Overrides {
		for j := range i {
			a, b := &s.Overrides[j], &s.Overrides[i]
			if a.Limit != b.Limit || !a.Until.IsZero() && !b.From.Before(a.Until) || !b.Until.IsZero() && !a.From.Before(b.Until) {
				continue
			}
			r.fault(b.Pos, v.path+"overrides", "two overrides of %s hold at once: end one before the other begins", b.Limit)
			return
		}
	}
}
