package httpapi

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/front"
)

// ask is a request as it was read, and the maps that it points to, which are
// used again for the next one.
type ask struct {
	req   gate.Request
	attrs map[string]string
	head  http.Header
	costs map[string]int64
	ttl   time.Duration // of a reservation; 0 if none was said

	fields bool // the decision has the header fields that HTTP clients are sent
}

func (a *ask) reset() {
	a.req, a.ttl, a.fields = gate.Request{}, 0, false
	a.attrs, a.head, a.costs = emptied(a.attrs), emptied(a.head), emptied(a.costs)
}

// maxKept is the number of attributes or headers above which a request's map
// is left to the collector instead of being used again.
const maxKept = 64

func emptied[M ~map[string]V, V any](m M) M {
	if len(m) > maxKept {
		return nil
	}
	clear(m)
	return m
}

// start begins to read body. JSON is UTF-8; replacing bytes that are not would
// make different subjects equal.
func start(body string) (scanner, error) {
	if utf8.ValidString(body) {
		return scanner{s: body}, nil
	}
	i := 0
	for i < len(body) {
		r, n := utf8.DecodeRuneInString(body[i:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		i += n
	}
	return scanner{}, invalid("", "the body is not valid JSON: byte %d is not UTF-8", i)
}

// The fields of each object.
var (
	takeFields = []string{
		"application", "operation", "subject", "cost", "costs", "plan", "attributes", "request", "idempotency_key", "max_wait_ms", "fields",
	}
	reserveFields  = append(slices.Clip(takeFields), "ttl_ms")
	batchFields    = []string{"items", "atomic"}
	settleFields   = []string{"ticket", "cost", "costs", "application"}
	renewFields    = []string{"ticket", "ttl_ms", "application"}
	releaseFields  = []string{"ticket", "application"}
	requestFields  = []string{"method", "path", "host", "headers", "ip"}
	throttleFields = []string{"key", "rate", "burst", "cost"}
)

// seen is the set of fields that one object has had, by their index.
type seen uint16

// add refuses a field that is not known, and the second of a name: which of
// the two would count differs from parser to parser.
func (f *seen) add(known []string, prefix, name string) error {
	i := slices.Index(known, name)
	if i < 0 {
		if len(name) > 64 {
			name = strings.ToValidUTF8(name[:64], "") + "..."
		}
		return invalid(prefix+name, "unknown field")
	}
	if *f&(1<<i) != 0 {
		return twice(prefix + name)
	}
	*f |= 1 << i
	return nil
}

func twice(field string) error { return invalid(field, "given twice") }

// decode reads the body of a request to decide, which has the fields of known.
// The strings of a.req are parts of body.
func (a *ask) decode(body string, known []string) error {
	s, err := start(body)
	if err != nil {
		return err
	}
	if err := a.object(&s, known); err != nil {
		return err
	}
	return s.end()
}

func (a *ask) object(s *scanner, known []string) error {
	return s.members(known, func(name string) error { return a.field(s, name) })
}

func (a *ask) field(s *scanner, name string) (err error) {
	r := &a.req
	switch name {
	case "application":
		r.Application, err = s.str(name)
	case "operation":
		r.Operation, err = s.str(name)
	case "subject":
		r.Subject, err = s.str(name)
	case "cost":
		r.Cost, err = s.whole(name)
		r.CostSaid = true
	case "costs":
		a.costs, err = s.costs(a.costs)
		r.Costs = a.costs
	case "plan":
		r.Plan, err = s.str(name)
	case "attributes":
		err = a.attributes(s)
	case "request":
		err = a.request(s)
	case "idempotency_key":
		r.IdempotencyKey, err = s.str(name)
	case "max_wait_ms":
		var ms int64
		if ms, err = s.whole(name); err == nil && ms > policy.MaxMaxWait.Milliseconds() {
			err = invalid(name, "%d: must be 0 to %d, which is %v", ms, policy.MaxMaxWait.Milliseconds(), policy.MaxMaxWait)
		}
		r.MaxWait, r.MaxWaitSaid = time.Duration(ms)*time.Millisecond, true
	case "ttl_ms":
		a.ttl, err = s.ttl()
	case "fields":
		a.fields, err = s.truth(name)
	}
	return err
}

// key reads the header Idempotency-Key, which stands for the field
// idempotency_key. Its value is taken as it is: quotes are part of it.
func (a *ask) key(h http.Header) error {
	lines := h["Idempotency-Key"]
	switch {
	case len(lines) == 0 || len(lines) == 1 && lines[0] == "":
		return nil
	case len(lines) > 1:
		return invalid("idempotency_key", "the header Idempotency-Key is there twice")
	case a.req.IdempotencyKey != "" && a.req.IdempotencyKey != lines[0]:
		return invalid("idempotency_key", "differs from the header Idempotency-Key")
	}
	a.req.IdempotencyKey = lines[0]
	return nil
}

// costs reads the costs in other units than requests into m, which it makes if
// there is none.
func (s *scanner) costs(m map[string]int64) (map[string]int64, error) {
	if err := s.open("costs"); err != nil {
		return m, err
	}
	for first := true; ; first = false {
		unit, more, err := s.member("costs", first)
		if err != nil || !more {
			return m, err
		}
		if err := headgate.CheckName(unit); err != nil {
			return m, invalid("costs", "%w", err)
		}
		if _, is := m[unit]; is {
			return m, twice("costs." + unit)
		}
		if len(m) == front.MaxUnits {
			return m, invalid("costs", "more than %d units", front.MaxUnits)
		}
		n, err := s.whole("")
		if err != nil {
			return m, at("costs."+unit, err)
		}
		if m == nil {
			m = make(map[string]int64)
		}
		m[unit] = n
	}
}

// ttl reads for how long something is held.
func (s *scanner) ttl() (time.Duration, error) {
	ms, err := s.whole("ttl_ms")
	if err != nil {
		return 0, err
	}
	return front.Hold(ms)
}

// at names the field of an error, for fields of which the name is only put
// together when something is wrong.
func at(field string, err error) error {
	if e, ok := errors.AsType[*headgate.Error](err); ok {
		e.Field = field
	}
	return err
}

func (a *ask) attributes(s *scanner) error {
	if err := s.open("attributes"); err != nil {
		return err
	}
	for first := true; ; first = false {
		name, more, err := s.member("attributes", first)
		if err != nil || !more {
			return err
		}
		if _, is := a.attrs[name]; is {
			return twice("attributes." + name)
		}
		v, err := s.str("")
		if err != nil {
			return at("attributes."+name, err)
		}
		if a.attrs == nil {
			a.attrs = make(map[string]string)
		}
		a.attrs[name] = v
		a.req.Attributes = a.attrs
	}
}

// request reads the description of the HTTP request that is to be decided on.
func (a *ask) request(s *scanner) error {
	if err := s.open("request"); err != nil {
		return err
	}
	var had seen
	for first := true; ; first = false {
		name, more, err := s.member("request", first)
		if err != nil || !more {
			return err
		}
		if err := a.requestField(s, &had, name); err != nil {
			return err
		}
	}
}

func (a *ask) requestField(s *scanner, had *seen, name string) (err error) {
	if err := had.add(requestFields, "request.", name); err != nil {
		return err
	}
	r := &a.req
	switch name {
	case "method":
		r.Method, err = s.str("request.method")
	case "path":
		r.Path, err = s.str("request.path")
	case "host":
		r.Host, err = s.str("request.host")
	case "headers":
		err = a.headers(s)
	case "ip":
		r.IP, err = s.ip("request.ip")
	}
	return err
}

// headers reads the value of each name, or its lines where it has several. Two
// spellings of one name are one header given twice.
func (a *ask) headers(s *scanner) error {
	if err := s.open("request.headers"); err != nil {
		return err
	}
	for first := true; ; first = false {
		name, more, err := s.member("request.headers", first)
		if err != nil || !more {
			return err
		}
		key := http.CanonicalHeaderKey(name)
		if _, is := a.head[key]; is {
			return twice("request.headers." + name)
		}
		v, err := s.texts()
		if err != nil {
			return at("request.headers."+name, err)
		}
		if a.head == nil {
			a.head = make(http.Header)
		}
		a.head[key] = v
		a.req.Headers = a.head
	}
}

func (s *scanner) ip(field string) (netip.Addr, error) {
	v, err := s.str(field)
	if err != nil {
		return netip.Addr{}, err
	}
	return front.Address(field, v)
}
