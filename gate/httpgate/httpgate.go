package httpgate

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/internal/clientip"
	"github.com/headgate/headgate/internal/faultlog"
	"github.com/headgate/headgate/internal/pause"
	"github.com/headgate/headgate/internal/refusal"
)

type middleware struct {
	Config
	engine  Engine
	proxies inlet.Proxies
	faults  faultlog.Faults
}

// call is what one decision needs and the next can use again.
type call struct {
	req     gate.Request
	d       gate.Decision
	fields  Fields
	writer  refusal.Writer
	members []byte // of a refusal's document
}

var calls = sync.Pool{New: func() any { return new(call) }}

func (m *middleware) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if m.Skip != nil && m.Skip(r) {
		next.ServeHTTP(w, r)
		return
	}
	c := calls.Get().(*call)
	err := m.read(r, &c.req)
	if err != nil {
		m.fault(w, r, c, err, headgate.CodeOf(err) != headgate.InvalidRequest)
		c.free()
		return
	}
	began := time.Now()
	err = m.engine.Take(r.Context(), &c.req, &c.d)
	if err != nil {
		if c.d.Kept {
			m.decided(&c.d, time.Since(began))
		}
		passes := m.undecided(w, r, c, err)
		c.free()
		if passes {
			m.run(w, r, next, Passed{})
		}
		return
	}
	took := time.Since(began) - c.d.Waited
	if c.d.Allowed && c.d.HasTicket() {
		defer m.keep(r, &c.d).Release() // of more than the handler: what tells of it may panic
	}
	m.decided(&c.d, took)
	m.tell(w, c)
	if !c.d.Allowed {
		m.refuse(w, r, c)
		c.free()
		return
	}
	m.pass(w, r, next, c)
}

// pass lets the handler answer, after the delay that a leaky bucket asks for.
func (m *middleware) pass(w http.ResponseWriter, r *http.Request, next http.Handler, c *call) {
	if err := pause.Sleep(r.Context(), c.d.Delay); err != nil {
		m.gone(w, r, c, err)
		c.free()
		return
	}
	var by Passed
	if m.Ended != nil {
		by = Passed{c.d.Application, c.d.Rule, c.d.Operation, strings.Clone(c.d.Subject), c.d.Plan} // d may hold the subject
	}
	c.free() // which a stream would keep for long
	m.run(w, r, next, by)
}

// free lets another request use c. Where something panics it is not freed, which costs
// nothing but itself.
func (c *call) free() {
	c.req = gate.Request{}
	calls.Put(c)
}

func (m *middleware) decided(d *gate.Decision, took time.Duration) {
	if m.Decided != nil {
		m.Decided(d, took)
	}
}

// tell sets the fields of the decision.
func (m *middleware) tell(w http.ResponseWriter, c *call) {
	yield(w)
	styles := c.d.Headers
	if m.Headers != nil {
		styles = *m.Headers
	}
	c.fields.Set(w.Header(), &c.d, styles)
}

// read fills in what the engine is asked.
func (m *middleware) read(r *http.Request, q *gate.Request) error {
	q.Application, q.Releases, q.WaitCap = m.Application, true, m.WaitCap
	q.Method, q.Path, q.Host, q.Headers = r.Method, target(r), r.Host, r.Header
	if dotted(q.Path) {
		return &headgate.Error{Code: headgate.InvalidRequest, Field: "request.path", Err: errDotted}
	}
	peer, err := clientip.ParsePeer(r.RemoteAddr)
	if err != nil {
		return err
	}
	if err := m.proxies.Find(q, peer); err != nil {
		return err
	}
	if m.Key != nil {
		if q.Subject, err = m.Key(r); err != nil {
			return fmt.Errorf("key: %w", err)
		}
		if q.Subject == "" {
			return &headgate.Error{Code: headgate.InvalidRequest, Field: "subject", Err: errEmpty}
		}
	}
	if m.Operation != nil {
		q.Operation = m.Operation(r)
	}
	if m.Cost != nil {
		q.Cost, q.CostSaid = m.Cost(r), true
	}
	if m.Costs != nil {
		q.Costs = m.Costs(r)
	}
	if m.Plan != nil {
		q.Plan = m.Plan(r)
	}
	return nil
}

// target is the path and query as the client wrote them, which says more than what
// net/http made of it. Other forms than /path, and a '#', which ends a path for some and
// not for others, are as the handler has them.
func target(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") && strings.IndexByte(r.RequestURI, '#') < 0 {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// run lets the handler answer.
func (m *middleware) run(under http.ResponseWriter, r *http.Request, next http.Handler, by Passed) {
	w := &writer{ResponseWriter: under}
	w.own.read(under.Header())
	if m.Ended == nil {
		next.ServeHTTP(w, r)
		w.begin(http.StatusOK) // it has written nothing
		return
	}
	began, status := time.Now(), http.StatusInternalServerError
	defer func() {
		if w.status != 0 {
			status = w.status
		}
		m.Ended(r, by, status, time.Since(began))
	}()
	next.ServeHTTP(w, r)
	w.begin(http.StatusOK)
}
