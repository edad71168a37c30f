package redisstore

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/headgate/headgate"
)

// group is what one run of the script is told of calls, and how its answers are
// shared out: of calls without the engine that are equal, only one goes along, with
// their number. It may be used again.
type group struct {
	keys, args []string
	leads      []lead
	places     []place          // by call
	chains     map[string]int32 // by key: the newest lead that has it as its first, from 1; 0 if others have it
}

// lead is the first of equal calls.
type lead struct {
	payload *payload
	times   int
	before  int32 // the lead before with the same first key, from 1
	// Of its answers:
	at     int
	shared bool // there is one for all
}

// place is the lead of a call, and how many calls equal to it come before.
type place struct{ lead, rank int }

// reply is an answer, and how many calls it decides before that which it is given to.
type reply struct {
	text string
	rank int
}

// fill makes g the group of the calls, to be decided under the epoch at an instant, 0
// for the server's clock.
func (g *group) fill(e headgate.Epoch, now int64, calls []*payload) {
	g.leads, g.places = g.leads[:0], g.places[:0]
	mode := byte(modeDistinct)
	for _, p := range calls {
		if !p.fast {
			mode = modeGeneral
		}
	}
	if len(calls) == 1 || mode == modeGeneral {
		for i, p := range calls {
			g.leads = append(g.leads, lead{payload: p, times: 1})
			g.places = append(g.places, place{lead: i})
		}
	} else if g.merge(calls) {
		mode = modeRepeated
	}
	g.keys, g.args = g.keys[:0], append(g.args[:0], view(header(mode, e, now)))
	for i := range g.leads {
		l := &g.leads[i]
		l.payload.times(l.times)
		g.keys = append(g.keys, l.payload.keys...)
		g.args = append(g.args, view(l.payload.blob))
	}
}

// merge finds the leads of the calls. It reports whether two of them have a key in
// common; each of them has every key once.
func (g *group) merge(calls []*payload) (repeated bool) {
	if g.chains == nil {
		g.chains = make(map[string]int32)
	}
	clear(g.chains)
	for _, p := range calls {
		p.times(1)
		first, known := g.chains[p.keys[0]]
		i := first
		for i > 0 && !g.leads[i-1].equals(p) {
			i = g.leads[i-1].before
		}
		if i > 0 {
			l := &g.leads[i-1]
			g.places = append(g.places, place{int(i - 1), l.times})
			l.times++
			continue
		}
		g.places = append(g.places, place{lead: len(g.leads)})
		g.leads = append(g.leads, lead{payload: p, times: 1, before: first})
		g.chains[p.keys[0]] = int32(len(g.leads))
		repeated = repeated || known
		for _, k := range p.keys[1:] {
			if _, known := g.chains[k]; known {
				repeated = true
			} else {
				g.chains[k] = 0
			}
		}
	}
	return repeated
}

// equals reports whether the lead and p are one call twice: what is only asked is
// asked apart, as every call that takes changes what those after it find.
func (l *lead) equals(p *payload) bool {
	return p.take && bytes.Equal(l.payload.blob, p.blob) && slices.Equal(l.payload.keys, p.keys)
}

// share notes where among the answers those to the calls are.
func (g *group) share(answers []string) error {
	at := 0
	for i := range g.leads {
		l := &g.leads[i]
		l.at = at
		l.shared = at < len(answers) && len(answers[at]) > 0 && answers[at][0] == formFast
		if l.shared {
			at++
		} else {
			at += l.times
		}
	}
	if at != len(answers) {
		return &failure{kind: kindProtocol, err: fmt.Errorf("%d answers to %d calls", len(answers), len(g.places))}
	}
	return nil
}

// reply returns the answer to a call.
func (g *group) reply(call int, answers []string) reply {
	x := g.places[call]
	l := &g.leads[x.lead]
	if l.shared {
		return reply{answers[l.at], x.rank}
	}
	return reply{text: answers[l.at+x.rank]}
}

// release lets go of the calls.
func (g *group) release() {
	clear(g.keys)
	clear(g.args)
	for i := range g.leads {
		g.leads[i].payload = nil
	}
}
