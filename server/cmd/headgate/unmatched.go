package main

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

// An operation that no rule matches is told once in unmatchedEvery, and of all
// applications together no more than maxUnmatched are.
const unmatchedEvery, maxUnmatched = 10 * time.Minute, 100

// unmatched tells of operations that no rule matches, in applications whose rules name
// others: a typing error is quietly decided as if there were no rule.
type unmatched struct {
	named atomic.Pointer[namedOperations]

	mu    sync.Mutex
	since time.Time // when told was empty
	told  map[unmatchedOperation]bool
}

type unmatchedOperation struct{ application, operation string }

// namedOperations are those that the rules of a policy name, by application.
type namedOperations struct {
	policy *policy.Policy
	of     map[string]map[string]bool
}

// noteUnmatched looks at a decision on an operation that the caller has named.
func (h *house) noteUnmatched(d *gate.Decision, now func() time.Time) {
	if d.Rule != "" || d.Operation == "" {
		return
	}
	known := h.unmatched.known(h.gate.Policy(), d.Application)
	if len(known) == 0 || known[d.Operation] { // a rule may ask for a method or path beside it
		return
	}
	first, last := h.unmatched.tell(d.Application, d.Operation, now())
	if !first {
		return
	}
	attrs := []any{"application", d.Application, "operation", d.Operation}
	if meant := policy.Near(d.Operation, slices.Sorted(maps.Keys(known))); meant != "" {
		attrs = append(attrs, "did_you_mean", meant)
	}
	h.log.Warn("no rule matches this operation, though rules name others", attrs...)
	if last {
		h.log.Warn("other operations that no rule matches are not told for a time", "within", unmatchedEvery)
	}
}

// tell reports whether an operation is to be told now, and whether it is the last one.
func (u *unmatched) tell(application, operation string, now time.Time) (first, last bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.told == nil || now.Sub(u.since).Abs() >= unmatchedEvery {
		u.told, u.since = make(map[unmatchedOperation]bool), now
	}
	if len(u.told) == maxUnmatched || u.told[unmatchedOperation{application, operation}] {
		return false, false
	}
	// The decision's texts are used again.
	u.told[unmatchedOperation{strings.Clone(application), strings.Clone(operation)}] = true
	return true, len(u.told) == maxUnmatched
}

// known returns the operations that rules of an application name.
func (u *unmatched) known(p *policy.Policy, application string) map[string]bool {
	n := u.named.Load()
	if n == nil || n.policy != p {
		n = &namedOperations{policy: p, of: make(map[string]map[string]bool)}
		for i := range p.Applications {
			a := &p.Applications[i]
			names := make(map[string]bool)
			for j := range a.Rules {
				if operation := a.Rules[j].Operation; operation != "" {
					names[operation] = true
				}
			}
			n.of[a.Name] = names
		}
		u.named.Store(n)
	}
	return n.of[application]
}
