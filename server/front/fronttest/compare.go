package fronttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
)

// Door is a way to a gate of its own. What its protocol cannot say, its gate is asked
// directly, so that its state goes on.
type Door struct {
	Holder gatetest.Holder
	// Direct is the gate itself. It is asked with descriptors if Holder cannot say them.
	Direct      gatetest.Holder
	Descriptors bool
	Envoy       Envoy
	More        More
	// Reads is true if Holder reads numbers before the gate is asked, and refuses those that
	// are none.
	Reads bool
	// Grain is what durations are rounded up to; 0 is a nanosecond.
	Grain time.Duration

	directMore More
}

// Local is the gate itself.
func Local(g *Gate) Door {
	direct := gatetest.Local(g.Gate)
	return Door{Holder: direct, Direct: direct, Envoy: LocalEnvoy(g), More: LocalMore(g), directMore: LocalMore(g)}
}

// Case is a policy, and what is asked of it.
type Case struct {
	Seed   uint64
	Policy string
	Steps  []Step
}

// NewCase makes the case of a seed, of so many steps.
func NewCase(seed uint64, steps int) *Case {
	m := newMaker(seed)
	return &Case{seed, m.policy(), m.steps(steps)}
}

// Difference is where a door answers otherwise than the gate in process.
type Difference struct {
	Case Case // of which the last step differs
	Gate string
	Door string
}

func (d *Difference) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, policy:\n%s", d.Case.Seed, d.Case.Policy)
	for i := range d.Case.Steps {
		fmt.Fprintf(&b, "%v\n", &d.Case.Steps[i])
	}
	fmt.Fprintf(&b, "in process: %s\nby the door: %s", d.Gate, d.Door)
	return b.String()
}

// Play asks a door all steps.
func (c *Case) Play(ctx context.Context, d Door) []Outcome {
	p := player{d, make(map[int]string)}
	list := make([]Outcome, len(c.Steps))
	for i := range c.Steps {
		list[i] = p.step(ctx, &c.Steps[i])
	}
	return list
}

// Compare puts the case to a door that has no state yet. want is what the gate says in
// process: see [Local]. It returns the first difference, or nil.
func (c *Case) Compare(ctx context.Context, want []Outcome, door Door) *Difference {
	return c.differ(want, c.Play(ctx, door), &door)
}

// Shrink returns d without the steps that it does not need; open opens the door with no
// state yet each time.
func (d *Difference) Shrink(t testing.TB, open func(policy string) Door) *Difference {
	t.Helper()
	c := d.Case
	for size := max(1, len(c.Steps)/2); size > 0; size /= 2 {
		for at := len(c.Steps) - 1 - size; at >= 0; at -= size {
			fewer := Case{c.Seed, c.Policy, slices.Delete(slices.Clone(c.Steps), at, at+size)}
			want := fewer.Play(t.Context(), Local(Open(t, c.Policy)))
			if again := fewer.Compare(t.Context(), want, open(c.Policy)); again != nil {
				d, c = again, again.Case
				at = min(at, len(c.Steps)-1)
			}
		}
	}
	return d
}

// differ returns the first difference between what was said in process and by a door.
func (c *Case) differ(want, got []Outcome, door *Door) *Difference {
	for i := range c.Steps {
		want, got := want[i].rounded(door.Grain), got[i].rounded(door.Grain)
		if !want.agrees(&c.Steps[i], got, door.Reads && !got.direct) {
			return &Difference{Case{c.Seed, c.Policy, slices.Clone(c.Steps[:i+1])}, want.String(), got.String()}
		}
	}
	return nil
}

// Outcome is what came of a step: answers, or a verdict, or an error.
type Outcome struct {
	answers []gatetest.Answer
	each    []Outcome // of TakeEach, instead of answers
	told    gate.Explanation
	verdict Verdict
	err     error
	failed  int  // the request at fault of several, -1 if it is none
	direct  bool // the gate itself was asked
}

func (o *Outcome) String() string {
	if o.err != nil {
		code, field := fault(o.err)
		return fmt.Sprintf("%v of field %q, item %d: %v", code, field, o.failed, o.err)
	}
	var b strings.Builder
	for i := range o.answers {
		b.WriteString("\n  " + marshal(o.answers[i]))
	}
	for i := range o.each {
		b.WriteString("\n  " + o.each[i].String())
	}
	if o.told.Verdict != "" {
		fmt.Fprintf(&b, "\n  %+v", o.told)
	}
	if o.verdict.Statuses != nil {
		fmt.Fprintf(&b, "%+v", o.verdict)
	}
	return b.String()
}

func fault(err error) (headgate.Code, string) {
	e, ok := errors.AsType[*headgate.Error](err)
	if !ok {
		return headgate.Unknown, ""
	}
	return e.Code, e.Field
}

// agrees reports whether a door said what o says in process. One that reads numbers itself
// must refuse what is none, though the gate does not look at units where lists or the lack
// of a rule decide.
func (o *Outcome) agrees(s *Step, got *Outcome, reads bool) bool {
	malformed := s.malformed()
	code, field := fault(got.err)
	refused := code == headgate.InvalidRequest && slices.Contains(malformed, blame{got.failed, field})
	switch {
	case got.err == nil && (o.err != nil || reads && malformed != nil):
		return false
	case o.err == nil && got.err != nil:
		return reads && refused && !slices.ContainsFunc(o.answers, func(a gatetest.Answer) bool { return a.Limits != nil })
	case o.err == nil:
		return reflect.DeepEqual(o.answers, got.answers) && reflect.DeepEqual(o.verdict, got.verdict) && reflect.DeepEqual(o.told, got.told) &&
			o.eachAgrees(got)
	}
	wantCode, wantField := fault(o.err)
	if s.Do == Call {
		return code == wantCode // the fields of Envoy's messages have other names
	}
	return reads && refused || code == wantCode && field == wantField && got.failed == o.failed
}

// eachAgrees reports whether a door said what o says of each of several requests.
func (o *Outcome) eachAgrees(got *Outcome) bool {
	return slices.EqualFunc(o.each, got.each, func(a, b Outcome) bool {
		code, field := fault(a.err)
		gotCode, gotField := fault(b.err)
		return (a.err == nil) == (b.err == nil) && code == gotCode && field == gotField && reflect.DeepEqual(a.answers, b.answers)
	})
}

// blame is a field of a request, of several if item is not -1.
type blame struct {
	item  int
	field string
}

// malformed are the fields that a door may refuse before it asks the gate, whatever else
// is wrong.
func (s *Step) malformed() (list []blame) {
	add := func(item int, cost int64, costs map[string]int64) {
		if cost < 0 || cost > headgate.MaxInt {
			list = append(list, blame{item, "cost"})
		}
		for unit, n := range costs {
			if headgate.CheckName(unit) != nil {
				list = append(list, blame{item, "costs"})
			} else if n < 0 || n > headgate.MaxInt {
				list = append(list, blame{item, "costs." + unit})
			}
		}
	}
	if s.TTL > headgate.MaxHold || s.Claim.TTL > headgate.MaxHold {
		list = append(list, blame{-1, "ttl_ms"})
	}
	add(-1, s.Request.Cost, s.Request.Costs)
	add(-1, s.Claim.Cost, s.Claim.Costs)
	add(-1, s.Throttle.Cost, nil)
	if s.Do == TakeEach {
		return list // each has an answer or an error of its own
	}
	for i := range s.All {
		add(i, s.All[i].Cost, s.All[i].Costs)
		if s.All[i].MaxWait > 0 {
			list = append(list, blame{i, "max_wait_ms"})
		}
		if s.All[i].IdempotencyKey != "" {
			list = append(list, blame{i, "idempotency_key"})
		}
	}
	return list
}

// copied is r with maps of its own, as callers may change theirs.
func copied(r gate.Request) gate.Request {
	r.Costs, r.Attributes, r.Headers, r.Descriptor = maps.Clone(r.Costs), maps.Clone(r.Attributes), r.Headers.Clone(), slices.Clone(r.Descriptor)
	return r
}

// rounded is o with durations as a door with such a grain says them.
func (o *Outcome) rounded(grain time.Duration) *Outcome {
	if grain == 0 {
		return o
	}
	states := func(list []gatetest.State) []gatetest.State {
		list = slices.Clone(list)
		for i := range list {
			list[i].RetryAfter, list[i].ResetAfter = up(list[i].RetryAfter, grain), up(list[i].ResetAfter, grain)
		}
		return list
	}
	r := *o
	r.each = slices.Clone(o.each)
	for i := range r.each {
		r.each[i] = *r.each[i].rounded(grain)
	}
	r.answers = slices.Clone(o.answers)
	for i := range r.answers {
		a := &r.answers[i]
		a.RetryAfter, a.ResetAfter, a.Limits = up(a.RetryAfter, grain), up(a.ResetAfter, grain), states(a.Limits)
		if a.Candidate != nil {
			c := *a.Candidate
			c.RetryAfter, c.Limits = up(c.RetryAfter, grain), states(c.Limits)
			a.Candidate = &c
		}
	}
	return &r
}

// player asks a door, and keeps its tickets by the step that got them.
type player struct {
	Door
	tickets map[int]string
}

// ticketed stands for a ticket, which is nobody's business.
const ticketed = "a ticket"

func (p *player) step(ctx context.Context, s *Step) (o Outcome) {
	at := gatetest.Start.Add(s.At)
	call := gatetest.Call{At: at, Peek: s.Do == Peek, Request: copied(s.Request)}
	holder, more := p.Holder, p.More
	if !p.Descriptors && (s.Request.Descriptor != nil || slices.ContainsFunc(s.All, func(r gate.Request) bool { return r.Descriptor != nil })) {
		holder, more, o.direct = p.Direct, p.directMore, true
	}
	o.failed = -1
	var a gatetest.Answer
	switch s.Do {
	case Call:
		o.verdict, o.err = p.Envoy.Call(ctx, at, s.Domain, s.Descriptors)
		return o
	case TakeAll:
		rs := make([]gate.Request, len(s.All))
		for i := range rs {
			rs[i] = copied(s.All[i])
		}
		o.answers, o.failed, o.err = holder.TakeAll(ctx, at, rs)
		return o
	case TakeEach:
		rs := make([]gate.Request, len(s.All))
		for i := range rs {
			rs[i] = copied(s.All[i])
		}
		var list []Result
		list, o.err = more.TakeEach(ctx, at, rs)
		for _, r := range list {
			one := Outcome{err: r.Err, failed: -1}
			if r.Err == nil {
				if r.Answer.Ticket != "" {
					r.Answer.Ticket = ticketed
				}
				one.answers = []gatetest.Answer{r.Answer}
			}
			o.each = append(o.each, one)
		}
		return o
	case Explain:
		a, o.told, o.err = more.Explain(ctx, call)
	case Throttle:
		a, o.err = more.Throttle(ctx, at, s.Throttle)
	case Reset:
		a, o.err = more.Reset(ctx, at, s.Request.Application, s.Request.Subject, s.Limits)
	case Settle, Renew, Release:
		c := s.Claim
		c.Costs = maps.Clone(c.Costs)
		if t := p.tickets[s.Of]; t != "" {
			c.Ticket = t
		}
		op := map[Act]headgate.Op{Settle: headgate.Settle, Renew: headgate.Renew, Release: headgate.Release}[s.Do]
		a, o.err = holder.Claim(ctx, gatetest.ClaimCall{At: at, Op: op, Claim: c})
	case Reserve:
		a, o.err = holder.Reserve(ctx, call, s.TTL)
	default:
		a, o.err = holder.Decide(ctx, call)
	}
	if o.err != nil {
		return o
	}
	if a.Ticket != "" {
		p.tickets[s.ID], a.Ticket = a.Ticket, ticketed
	}
	o.answers = []gatetest.Answer{a}
	return o
}
