package fronttest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
)

// Step is one thing that is asked.
type Step struct {
	// ID names the step, and the ticket of its answer.
	ID int
	At time.Duration // since gatetest.Start; never before that of the step before
	Do Act
	// Request is for Take, Peek, Explain and Reserve; TTL of it is 0 for the gate's own. Of it
	// Reset has application and subject, and Limits the ids.
	Request gate.Request
	TTL     time.Duration
	Limits  []string
	// Claim is for Settle, Renew and Release. Its Ticket is that of the step Of, if there
	// is one with a ticket.
	Claim gate.Claim
	Of    int
	// All is for TakeAll and TakeEach.
	All []gate.Request
	// Throttle is for Throttle.
	Throttle gate.Throttle
	// Domain and Descriptors are for Call.
	Domain      string
	Descriptors []gatetest.Descriptor
}

// Act is what a step does.
type Act uint8

// The acts.
const (
	Take Act = iota
	Peek
	Reserve
	Settle
	Renew
	Release
	TakeAll
	Call
	Explain
	Throttle
	TakeEach
	Reset
)

func (a Act) String() string {
	return [...]string{"take", "peek", "reserve", "settle", "renew", "release", "take all", "call", "explain", "throttle", "take each", "reset"}[a]
}

// String tells what the step asks.
func (s *Step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "step %d at %v: %v", s.ID, s.At, s.Do)
	switch s.Do {
	case Take, Peek, Explain:
		fmt.Fprintf(&b, " %s", inJSON(&s.Request))
	case Reserve:
		fmt.Fprintf(&b, " for %v %s", s.TTL, inJSON(&s.Request))
	case Throttle:
		fmt.Fprintf(&b, " %+v", s.Throttle)
	case Reset:
		fmt.Fprintf(&b, " %q of %q, limits %q", s.Request.Subject, s.Request.Application, s.Limits)
	case TakeAll, TakeEach:
		for i := range s.All {
			fmt.Fprintf(&b, "\n    %s", inJSON(&s.All[i]))
		}
	case Call:
		fmt.Fprintf(&b, " %s", s.Domain)
		for _, d := range s.Descriptors {
			fmt.Fprintf(&b, "\n    %s", marshal(d))
		}
	default:
		c := &s.Claim
		fmt.Fprintf(&b, " the ticket of step %d %q, application %q", s.Of, c.Ticket, c.Application)
		if c.CostSaid {
			fmt.Fprintf(&b, ", cost %d", c.Cost)
		}
		fmt.Fprintf(&b, ", costs %v, ttl %v", c.Costs, c.TTL)
	}
	return b.String()
}

// inJSON is r as the JSON API would be asked.
func inJSON(r *gate.Request) string {
	m := jsonOf(r)
	if r.Descriptor != nil {
		m["descriptor"] = r.Descriptor
	}
	return marshal(m)
}

func marshal(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is made of texts and numbers
	}
	return string(text)
}

// steps makes n steps at increasing instants.
func (m *maker) steps(n int) []Step {
	list := make([]Step, 0, n)
	at := time.Duration(0)
	for id := range n {
		at += m.pause()
		s := Step{ID: id, At: at, Of: -1}
		switch k := m.IntN(100); {
		case k < 33:
			s.Do, s.Request = Take, m.spoiled()
		case k < 38:
			s.Do, s.Request = Peek, m.spoiled()
		case k < 43:
			s.Do, s.Request = Explain, m.again()
		case k < 48:
			s.Do, s.Throttle = Throttle, m.throttle()
		case k < 50:
			m.reset(&s)
		case k < 66:
			s.Do, s.Request, s.TTL = Reserve, m.again(), m.ttl()
			m.held = append(m.held, id)
		case k < 80:
			m.claim(&s, id)
		case k < 83:
			s.Do = TakeEach
			for n := range 1 + m.IntN(4) {
				r := m.again()
				if m.chance(90) {
					r.MaxWait, r.MaxWaitSaid = 0, false
				}
				if n > 0 && m.chance(30) {
					r = s.All[n-1]
				}
				s.All = append(s.All, r)
			}
		case k < 89:
			s.Do = TakeAll
			for range 1 + m.IntN(4) {
				r := m.request()
				r.Releases = false
				if m.chance(90) {
					r.IdempotencyKey, r.MaxWait, r.MaxWaitSaid = "", 0, false
				}
				s.All = append(s.All, r)
			}
		default:
			s.Do = Call
			m.call(&s)
		}
		list = append(list, s)
	}
	return list
}

func (m *maker) pause() time.Duration {
	switch k := m.IntN(100); {
	case k < 45:
		return 0
	case k < 70:
		return time.Duration(m.IntN(2000)) * time.Millisecond
	case k < 93:
		return time.Duration(m.IntN(30)) * time.Second
	case k < 99:
		return time.Duration(m.IntN(90)) * time.Minute
	default:
		return time.Duration(m.IntN(40*24)) * time.Hour
	}
}

func (m *maker) ttl() time.Duration {
	return pick(m, 0, 0, time.Second, 10*time.Second, time.Hour, time.Hour, headgate.MaxHold, pick(m, time.Millisecond, headgate.MaxHold+time.Millisecond))
}

// again makes a request, or repeats one.
func (m *maker) again() gate.Request {
	if len(m.asked) > 0 && m.chance(25) {
		return pick(m, m.asked...)
	}
	r := m.request()
	m.asked = append(m.asked, r)
	return r
}

// spoiled is again with costs that may be none. Those of reservations and batches never
// are: lists let who is on them pass whatever he costs, where the gate is asked, and some
// doors refuse before that.
func (m *maker) spoiled() gate.Request {
	r := m.again()
	if m.chance(5) {
		m.spoil(&r.Cost, &r.CostSaid, &r.Costs)
	}
	return r
}

func (m *maker) request() gate.Request {
	r := gate.Request{
		Application: pick(m, "shop", "shop", "shop", "shop", "mail"), Operation: pick(m, operations...), Subject: pick(m, subjects...), Releases: true,
	}
	if m.chance(4) {
		r.Application = pick(m, "", "nowhere", "Shop")
	}
	if m.chance(15) {
		r.Subject = ""
	}
	if m.chance(10) {
		r.Operation = pick(m, "", "other", "op0 ")
	}
	if m.chance(30) {
		r.Method, r.Path, r.Host = pick(m, "GET", "POST", "HEAD", ""), pick(m, "/x/1", "/x/2?a=b", "/x/1", "/y/a/b", "/z", "/y//c%20d", pick(m, "/x/9", "/y", "x")), pick(m, "", "shop.example")
	}
	if m.chance(15) {
		r.Plan = pick(m, "free", "pro", "free", "pro", "none such")
	}
	if m.chance(40) {
		r.Cost, r.CostSaid = int64(m.IntN(5)), true
	}
	if m.chance(25) {
		r.Costs = map[string]int64{"tokens": int64(m.IntN(6))}
		if m.chance(30) {
			r.Costs["bytes"] = int64(m.IntN(6))
		}
	}
	if m.chance(90) {
		r.Attributes = map[string]string{"user": pick(m, "eve", "root", "gold", "x y", "eve", ""), "n": pick(m, "0", "1", "2", "4", "1", "1", "1", "2", "1", "1", "-7", "four")}
	}
	if m.chance(50) {
		r.IP = pick(m, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db9:0:1::5"))
	}
	if m.chance(40) {
		r.Headers = http.Header{"X-User": {pick(m, "hal", "known", "")}, "Cookie": {pick(m, "sid=known", "sid=none; a=b")}}
		if m.chance(30) {
			r.Headers["X-User"] = []string{"hal", "ike"}
		}
	}
	if m.chance(20) {
		r.IdempotencyKey = pick(m, "k1", "k2", "k3 \"x\"")
	}
	if m.chance(10) {
		r.MaxWait, r.MaxWaitSaid = time.Duration(m.IntN(5000))*time.Millisecond, true
	}
	if m.chance(12) {
		r.Descriptor = m.entries()
	}
	return r
}

// throttle describes a bucket. Durations of all doors have whole milliseconds.
func (m *maker) throttle() gate.Throttle {
	t := gate.Throttle{
		Key: pick(m, "k", "k", "l", "zoë"), Count: int64(1 + m.IntN(5)), Period: pick(m, time.Second, time.Second, 1500*time.Millisecond, time.Minute),
		Burst: int64(m.IntN(7)), Cost: int64(m.IntN(4)), Peek: m.chance(15),
	}
	switch m.IntN(20) {
	case 0:
		t.Count = 0
	case 1:
		t.Key = ""
	case 2:
		t.Cost = pick(m, int64(headgate.MaxInt), headgate.MaxInt+1)
	}
	return t
}

// reset makes a reset, one time in three of one limit.
func (m *maker) reset(s *Step) {
	s.Do = Reset
	s.Request.Application, s.Request.Subject = pick(m, "shop", "shop", "mail", pick(m, "shop", "nowhere")), pick(m, subjects...)
	if m.chance(35) {
		s.Limits = pick(m, []string{"plan/l0"}, []string{"r0/l0", "l1"}, []string{"r0/ban"}, []string{"none"})
	}
}

// spoil says costs that are none.
func (m *maker) spoil(cost *int64, said *bool, costs *map[string]int64) {
	*costs = nil
	switch m.IntN(4) {
	case 0:
		*cost, *said = pick(m, int64(-1), headgate.MaxInt+1, headgate.MaxInt), true
	case 1:
		*costs = map[string]int64{pick(m, "pages", "requests", "no name", ""): 1}
	default:
		*costs = map[string]int64{pick(m, "tokens", "bytes"): pick(m, int64(-1), headgate.MaxInt+1, headgate.MaxInt)}
	}
}

// claim makes a claim of an earlier step's ticket.
func (m *maker) claim(s *Step, id int) {
	s.Do = pick(m, Settle, Settle, Renew, Release)
	s.Of = m.IntN(id + 1)
	if len(m.held) > 0 && m.chance(90) {
		s.Of = pick(m, m.held[max(0, len(m.held)-3):]...)
	}
	if m.chance(5) {
		s.Of, s.Claim.Ticket = -1, pick(m, "", "nonsense", "AAAA")
	}
	if m.chance(15) {
		s.Claim.Application = pick(m, "shop", "shop", "mail", "nowhere")
	}
	switch s.Do {
	case Settle:
		if m.chance(60) {
			s.Claim.Cost, s.Claim.CostSaid = int64(m.IntN(6)), true
		}
		if m.chance(40) {
			s.Claim.Costs = map[string]int64{"tokens": int64(m.IntN(12))}
		}
		if m.chance(8) {
			m.spoil(&s.Claim.Cost, &s.Claim.CostSaid, &s.Claim.Costs)
		}
	case Renew:
		s.Claim.TTL = m.ttl()
	}
}

func (m *maker) entries() []gate.Entry {
	tenant := gate.Entry{Key: "tenant", Value: pick(m, "acme", "ajax", "zeta", "a&b=c", "")}
	route := gate.Entry{Key: "route", Value: pick(m, "/v1", "/v2", "/w")}
	tier := gate.Entry{Key: "tier", Value: pick(m, "gold", "tin")}
	return pick(m, []gate.Entry{tenant}, []gate.Entry{tenant, route}, []gate.Entry{route}, []gate.Entry{tier}, []gate.Entry{tier, tenant})
}

func (m *maker) call(s *Step) {
	s.Domain = "front"
	if m.chance(4) {
		s.Domain = "nowhere"
	}
	for range 1 + m.IntN(3) {
		d := gatetest.Descriptor{Entries: m.entries(), Hits: pick(m, int64(1), 1, 1, 0, 2, 5)}
		if m.chance(12) {
			d.Said = &gate.SaidLimit{Count: int64(m.IntN(5)), Period: pick(m, time.Second, time.Minute, 90*time.Second)}
		}
		s.Descriptors = append(s.Descriptors, d)
	}
	if m.chance(10) {
		s.Descriptors = s.Descriptors[:1]
		s.Descriptors[0].Back, s.Descriptors[0].Hits = true, int64(1+m.IntN(3))
	}
}
