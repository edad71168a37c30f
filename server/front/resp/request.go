package resp

import (
	"fmt"
	"net/http"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/front"
)

// takeOptions is what may follow the subject of a request. Each word stands before
// its own values, and those with dots may come again.
const takeOptions = "[COST n] [COSTS unit n ...] [PLAN p] [ID k] [WAIT ms] [ATTR k v ...] [METHOD m] [PATH p] [HOST h] [IP a] [HEADER n v ...] [BRIEF] [FIELDS]"

// ask is a request as it was read, and the maps that it points to, which are used
// again for the next one.
type ask struct {
	req   gate.Request
	attrs map[string]string
	head  http.Header
	costs map[string]int64
	ttl   time.Duration // of a reservation; 0 if none was said
	brief bool          // the reply has no limits

	fields bool // the reply has the header fields that HTTP clients are sent
}

// reset empties the request. Its maps must not outlive the bytes of their keys.
func (a *ask) reset() {
	if a.req.Attributes != nil {
		clear(a.attrs)
	}
	if a.req.Headers != nil {
		clear(a.head)
	}
	if a.req.Costs != nil {
		clear(a.costs)
	}
	a.req, a.ttl, a.brief, a.fields = gate.Request{}, 0, false, false
}

func invalid(field, format string, args ...any) error {
	return &headgate.Error{Code: headgate.InvalidRequest, Field: field, Err: fmt.Errorf(format, args...)}
}

// option is a word that may follow the fixed arguments of a command.
type option uint16

const (
	optCost option = 1 << iota
	optPlan
	optID
	optWait
	optMethod
	optPath
	optHost
	optIP
	optTTL
	optApplication
	optBrief
	optFields
	// These may come again.
	optCosts
	optAttr
	optHeader
	optLimit
)

const many = optCosts | optAttr | optHeader | optLimit

var options = map[string]option{
	"COST": optCost, "PLAN": optPlan, "ID": optID, "WAIT": optWait, "METHOD": optMethod, "PATH": optPath, "HOST": optHost, "IP": optIP,
	"TTL": optTTL, "APPLICATION": optApplication, "BRIEF": optBrief, "FIELDS": optFields, "COSTS": optCosts, "ATTR": optAttr, "HEADER": optHeader, "LIMIT": optLimit,
}

// scanner reads the options of a command.
type scanner struct {
	args []string
	had  option
}

// next reads an option, of those that are known, and its values.
func (s *scanner) next(known option) (o option, values []string, err error) {
	word := s.args[0]
	var upper [16]byte
	if len(word) <= len(upper) {
		for i := range len(word) {
			b := word[i]
			if b >= 'a' && b <= 'z' {
				b -= 'a' - 'A'
			}
			upper[i] = b
		}
		o = options[string(upper[:len(word)])] & known
	}
	n := 1
	switch {
	case o&(optCosts|optAttr|optHeader) != 0:
		n = 2
	case o&(optBrief|optFields) != 0:
		n = 0
	}
	switch {
	case o == 0:
		return 0, nil, invalid("", "%.64q: unknown option", word)
	case s.had&o&^many != 0:
		return 0, nil, invalid("", "%s is given twice", word)
	case len(s.args) <= n:
		return 0, nil, invalid("", "%s: its value is missing", word)
	}
	s.had |= o
	values, s.args = s.args[1:1+n], s.args[1+n:]
	return o, values, nil
}

const requestOptions = optCost | optPlan | optID | optWait | optMethod | optPath | optHost | optIP | optCosts | optAttr | optHeader | optBrief | optFields

// request reads application, operation, subject and the options of known.
func (w *work) request(known option) error {
	if err := w.text(); err != nil {
		return err
	}
	r := &w.req
	r.Application, r.Operation, r.Subject = w.args[1], w.args[2], w.args[3]
	r.Releases = true // replies have tickets
	s := scanner{args: w.args[4:]}
	for len(s.args) > 0 {
		o, v, err := s.next(known)
		if err == nil {
			err = w.set(o, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// set takes an option into the request.
func (w *work) set(o option, v []string) (err error) {
	r := &w.req
	switch o {
	case optCost:
		r.Cost, err = whole("cost", v[0])
		r.CostSaid = true
	case optCosts:
		w.costs, err = addCost(w.costs, v[0], v[1])
		r.Costs = w.costs
	case optPlan:
		r.Plan = v[0]
	case optID:
		r.IdempotencyKey = v[0]
	case optWait:
		var ms int64
		most := policy.MaxMaxWait.Milliseconds()
		if ms, err = whole("max_wait_ms", v[0]); err == nil && ms > most {
			err = invalid("max_wait_ms", "%d: must be 0 to %d, which is %v", ms, most, policy.MaxMaxWait)
		}
		r.MaxWait, r.MaxWaitSaid = time.Duration(ms)*time.Millisecond, true
	case optAttr:
		if w.attrs == nil {
			w.attrs = make(map[string]string)
		}
		r.Attributes = w.attrs
		if _, is := w.attrs[v[0]]; is {
			return invalid("attributes."+v[0], "given twice")
		}
		w.attrs[v[0]] = v[1]
	case optMethod:
		r.Method = v[0]
	case optPath:
		r.Path = v[0]
	case optHost:
		r.Host = v[0]
	case optIP:
		r.IP, err = front.Address("request.ip", v[0])
	case optHeader:
		if w.head == nil {
			w.head = make(http.Header)
		}
		r.Headers = w.head
		w.head.Add(v[0], v[1])
	case optTTL:
		w.ttl, err = ttl(v[0])
	case optBrief:
		w.brief = true
	case optFields:
		w.fields = true
	}
	return err
}

// whole reads a number from 0 to headgate.MaxInt.
func whole(field, s string) (int64, error) {
	n, ok := integer(s)
	if !ok || n < 0 || n > headgate.MaxInt {
		return 0, notWhole(field, s)
	}
	return n, nil
}

func notWhole(field, s string) error {
	return invalid(field, "%.64q: must be a whole number from 0 to %d", s, headgate.MaxInt)
}

// ttl reads for how long something is held.
func ttl(s string) (time.Duration, error) {
	ms, err := whole("ttl_ms", s)
	if err != nil {
		return 0, err
	}
	return front.Hold(ms)
}

// addCost adds a cost in another unit than requests to m, which it makes if there
// is none.
func addCost(m map[string]int64, unit, cost string) (map[string]int64, error) {
	if m == nil {
		m = make(map[string]int64)
	}
	if err := headgate.CheckName(unit); err != nil {
		return m, invalid("costs", "%w", err)
	}
	if _, is := m[unit]; is {
		return m, invalid("costs."+unit, "given twice")
	}
	if len(m) == front.MaxUnits {
		return m, invalid("costs", "more than %d units", front.MaxUnits)
	}
	n, ok := integer(cost)
	if !ok || n < 0 || n > headgate.MaxInt {
		return m, notWhole("costs."+unit, cost)
	}
	m[unit] = n
	return m, nil
}
