package httpgate

import (
	"net/http"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
)

// hold runs the handler with what the decision holds.
func (m *middleware) hold(w http.ResponseWriter, r *http.Request, next http.Handler, c *call) {
	defer m.keep(r, &c.d).Release()
	m.pass(w, r, next, c)
}

// keep returns what the decision holds, and renews it from now on.
func (m *middleware) keep(r *http.Request, d *gate.Decision) *inlet.Slots {
	return inlet.Keep(r.Context(), m.engine, m.Application, d, func(err error) { m.OnError(r, err) })
}
