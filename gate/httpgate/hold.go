package httpgate

import (
	"net/http"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
)

// keep returns what the decision holds, and renews it from now on.
func (m *middleware) keep(r *http.Request, d *gate.Decision) *inlet.Slots {
	return inlet.Keep(r.Context(), m.engine, m.Application, d, func(err error) { m.report(r, err, "a slot was not renewed or released") })
}
