package httpapi

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/headgate/headgate"
)

// notYet refuses a field that the contract has and this version cannot honour.
func notYet(field, what string) error {
	return invalid(field, "not supported yet: %s", what)
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
		"application", "operation", "subject", "cost", "costs", "plan", "attributes", "request", "idempotency_key", "max_wait_ms",
	}
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

// decodeTake reads the body of /v1/take and /v1/peek into c.req, whose strings
// are parts of body.
func (c *call) decodeTake(body string) error {
	s, err := start(body)
	if err != nil {
		return err
	}
	if err := s.open(""); err != nil {
		return err
	}
	var had seen
	for first := true; ; first = false {
		name, more, err := s.member("", first)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := c.takeField(&s, &had, name); err != nil {
			return err
		}
	}
	return s.end()
}

func (c *call) takeField(s *scanner, had *seen, name string) (err error) {
	if err := had.add(takeFields, "", name); err != nil {
		return err
	}
	r := &c.req
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
		err = s.empty(name, "costs in other units than requests")
	case "plan":
		r.Plan, err = s.str(name)
	case "attributes":
		err = c.attributes(s)
	case "request":
		err = c.request(s)
	case "idempotency_key":
		var key string
		if key, err = s.str(name); err == nil && key != "" {
			err = notYet(name, "requests are not remembered")
		}
	case "max_wait_ms":
		var ms int64
		if ms, err = s.whole(name); err == nil && ms > 0 {
			err = notYet(name, "waiting in line")
		}
	}
	return err
}

// at names the field of an error, for fields of which the name is only put
// together when something is wrong.
func at(field string, err error) error {
	if e, ok := errors.AsType[*headgate.Error](err); ok {
		e.Field = field
	}
	return err
}

// empty reads an object that may not hold anything yet.
func (s *scanner) empty(field, what string) error {
	if err := s.open(field); err != nil {
		return err
	}
	_, more, err := s.member(field, true)
	if err == nil && more {
		err = notYet(field, what)
	}
	return err
}

func (c *call) attributes(s *scanner) error {
	if err := s.open("attributes"); err != nil {
		return err
	}
	for first := true; ; first = false {
		name, more, err := s.member("attributes", first)
		if err != nil || !more {
			return err
		}
		if _, is := c.attrs[name]; is {
			return twice("attributes." + name)
		}
		v, err := s.str("")
		if err != nil {
			return at("attributes."+name, err)
		}
		if c.attrs == nil {
			c.attrs = make(map[string]string)
		}
		c.attrs[name] = v
		c.req.Attributes = c.attrs
	}
}

// request reads the description of the HTTP request that is to be decided on.
func (c *call) request(s *scanner) error {
	if err := s.open("request"); err != nil {
		return err
	}
	var had seen
	for first := true; ; first = false {
		name, more, err := s.member("request", first)
		if err != nil || !more {
			return err
		}
		if err := c.requestField(s, &had, name); err != nil {
			return err
		}
	}
}

func (c *call) requestField(s *scanner, had *seen, name string) (err error) {
	if err := had.add(requestFields, "request.", name); err != nil {
		return err
	}
	r := &c.req
	switch name {
	case "method":
		r.Method, err = s.str("request.method")
	case "path":
		r.Path, err = s.str("request.path")
	case "host":
		r.Host, err = s.str("request.host")
	case "headers":
		err = c.headers(s)
	case "ip":
		r.IP, err = s.ip("request.ip")
	}
	return err
}

// headers reads the value of each name, or its lines where it has several. Two
// spellings of one name are one header given twice.
func (c *call) headers(s *scanner) error {
	if err := s.open("request.headers"); err != nil {
		return err
	}
	for first := true; ; first = false {
		name, more, err := s.member("request.headers", first)
		if err != nil || !more {
			return err
		}
		key := http.CanonicalHeaderKey(name)
		if _, is := c.head[key]; is {
			return twice("request.headers." + name)
		}
		v, err := s.texts()
		if err != nil {
			return at("request.headers."+name, err)
		}
		if c.head == nil {
			c.head = make(http.Header)
		}
		c.head[key] = v
		c.req.Headers = c.head
	}
}

func (s *scanner) ip(field string) (netip.Addr, error) {
	v, err := s.str(field)
	if err != nil || v == "" {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, invalid(field, "%.64q: must be an IPv4 or IPv6 address, without port or zone", v)
	}
	return a.Unmap(), nil
}

// throttle is the body of /v1/throttle.
type throttle struct {
	key, rate   string
	burst, cost int64
}

func decodeThrottle(body string) (t throttle, err error) {
	t.cost = 1
	s, err := start(body)
	if err != nil {
		return t, err
	}
	if err := s.open(""); err != nil {
		return t, err
	}
	var had seen
	for first := true; ; first = false {
		name, more, err := s.member("", first)
		if err != nil {
			return t, err
		}
		if !more {
			break
		}
		if err := t.field(&s, &had, name); err != nil {
			return t, err
		}
	}
	return t, s.end()
}

func (t *throttle) field(s *scanner, had *seen, name string) (err error) {
	if err := had.add(throttleFields, "", name); err != nil {
		return err
	}
	switch name {
	case "key":
		t.key, err = s.str(name)
	case "rate":
		t.rate, err = s.str(name)
	case "burst":
		t.burst, err = s.whole(name)
	case "cost":
		t.cost, err = s.whole(name)
	}
	return err
}
