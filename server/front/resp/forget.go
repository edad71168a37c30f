package resp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
)

const notOperator = "-NOPERM resetting takes a token with the scope operate\r\n"

// forget answers HG.RESET. What it hands on is its own: whoever notes it down may
// take his time.
func (c *conn) forget(w *work) {
	if !c.caller.Operates() {
		w.out = append(w.out, notOperator...)
		return
	}
	r, err := c.readReset(w)
	if err == nil && c.s.Resetting != nil {
		err = c.s.Resetting(c, r)
		c.later() // it may have taken a while
	}
	var st *gate.SubjectState
	if err == nil {
		c.begin()
		st, err = c.s.Gate.Reset(c, r.Application, r.Subject, r.means)
		c.end()
	}
	if err == nil && len(st.Limits) == 0 {
		err = &headgate.Error{Code: headgate.NotFound, Field: "limits", Err: fmt.Errorf("the subject has no limit %.200q", strings.Join(r.Limits, " "))}
	}
	if err != nil {
		w.out = c.fail(w.out, err)
		return
	}
	w.out = c.appendReset(w.out, r, st)
}

func (c *conn) readReset(w *work) (*Reset, error) {
	if err := w.text(); err != nil {
		return nil, err
	}
	// The gate would say so too, but only after what is asked was noted down.
	switch subject := w.args[2]; {
	case subject == "":
		return nil, invalid("subject", "is required")
	case len(subject) > gate.MaxSubject:
		return nil, invalid("subject", "%d bytes: at most %d", len(subject), gate.MaxSubject)
	case strings.ContainsAny(subject, "\r\n\x00"):
		return nil, invalid("subject", "has a line break or NUL")
	}
	r := &Reset{Caller: c.caller, Peer: c.peer, Application: strings.Clone(w.args[1]), Subject: strings.Clone(w.args[2])}
	s := scanner{args: w.args[3:]}
	for len(s.args) > 0 {
		_, v, err := s.next(optLimit)
		if err != nil {
			return nil, err
		}
		if v[0] == "" {
			return nil, invalid("limits", "an id must not be empty")
		}
		r.Limits = append(r.Limits, strings.Clone(v[0]))
	}
	return r, front.Reach(c.caller, r.Application)
}

// means reports whether a limit is to be reset: one of the ids, qualified or short,
// or else all but bans.
func (r *Reset) means(l *gate.LimitState) bool {
	if r.Limits == nil {
		return l.Limit.Algorithm != headgate.Ban
	}
	_, short, _ := strings.Cut(l.ID, "/")
	return slices.Contains(r.Limits, l.ID) || slices.Contains(r.Limits, short)
}

func (c *conn) appendReset(b []byte, r *Reset, st *gate.SubjectState) []byte {
	b = c.appendMap(b, 6)
	b = append(b, "$5\r\nreset\r\n"...)
	b = appendInt(b, int64(len(st.Limits)))
	b = append(b, "$11\r\napplication\r\n"...)
	b = appendBulk(b, r.Application)
	b = append(b, "$7\r\nsubject\r\n"...)
	b = appendBulk(b, r.Subject)
	b = append(b, "$4\r\nplan\r\n"...)
	b = appendBulk(b, st.Plan)
	b = append(b, "$6\r\nlimits\r\n"...)
	b = c.appendLimits(b, st.Limits)
	b = append(b, "$15\r\npolicy_revision\r\n"...)
	return appendInt(b, int64(st.Revision))
}
