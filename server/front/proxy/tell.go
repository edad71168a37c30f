package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/headgate/headgate/internal/ratefield"
	"github.com/headgate/headgate/internal/refusal"
	"github.com/headgate/headgate/server/front/problem"
)

// tell answers instead of an upstream, in the form that the client likes best, as refusals
// are.
func (p *Proxy) tell(w http.ResponseWriter, r *http.Request, is *problem.Problem) {
	p.Failed(is.Name)
	if refusal.Accepted(r.Header["Accept"]) == refusal.Document {
		w.Header().Add("Vary", "Accept")
		is.ServeHTTP(w, r)
		return
	}
	var page refusal.Writer
	page.Write(w, r, new(ratefield.Setter), refusal.Answer{
		Problem: refusal.Problem{Title: http.StatusText(is.Status), Status: is.Status}, Detail: is.Detail,
	})
}

// tellFailure is tell for what the upstream is to blame for: where checks have it that no
// server is up, it says when the next one looks.
func (x *exchange) tellFailure(w http.ResponseWriter, is *problem.Problem) {
	if wait, ok := x.pool.nextCheck(time.Now()); ok && is.Status >= http.StatusInternalServerError {
		w.Header().Set("Retry-After", strconv.FormatInt(ratefield.RetryAfter(wait, 0, 0), 10))
	}
	x.proxy.tell(w, x.in, is)
}
