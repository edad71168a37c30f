// Package forwardauth is the door for reverse proxies that ask about each
// request before they pass it on: auth_request of nginx, ForwardAuth of
// Traefik, forward_auth of Caddy. It knows what those send and understand.
package forwardauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/internal/clientip"
	"github.com/headgate/headgate/internal/faultlog"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/problem"
)

// Pattern is where the door belongs in an [http.ServeMux]. Any method: some
// proxies send the one of the original request.
const Pattern = "/v1/forward-auth/{application}"

// TokenField is the header field in which a proxy sends its own token. The
// Authorization of its request is its client's.
const TokenField = "Headgate-Token"

// MaxWait is how long a request waits in line at most, whatever its rule says.
// Proxies give up after 30 to 60 s, nginx after 60 (proxy_read_timeout), and a
// client that waits in line holds a connection of the proxy and one of ours: who
// may wait for minutes asks /v1/take.
const MaxWait = 10 * time.Second

// decider is what the door needs of a gate.
type decider interface {
	Take(context.Context, *gate.Request, *gate.Decision) error
	TrustedProxies(application string) ([]netip.Prefix, bool)
}

// Config is what a door is made of. Gate is required.
type Config struct {
	Gate decider
	// Admit finds which proxy asks, or says what is wrong; answer gets the header
	// fields of the problem. It must not look at the client's fields, such as
	// Authorization, and finds the proxy's token in [TokenField]. nil lets every
	// proxy ask about everything.
	Admit func(answer http.Header, r *http.Request) (front.Caller, *problem.Problem)
	// Decided is called after each decision with the time it took, without that
	// in line. It must not keep d. nil for nobody.
	Decided func(d *gate.Decision, took time.Duration)
	// Logger takes what is not told to clients; nil discards it.
	Logger *slog.Logger
}

// New returns the handler for [Pattern].
//
// The answer is 204, or the status that the client shall get. With ?deny=403
// the client's every fault, and every refusal, is a 403 that carries the real
// status in Headgate-Status: nginx makes a 500 of other refusals, and where it
// is told to let requests pass when we are down, a client that can cause a 500
// passes without limit.
//
// Host and Origin are not checked: here they are the client's, or names that
// only the proxy knows. A web page of another origin cannot send the fields
// that this route requires: its browser asks us first, and we never say yes.
func New(c Config) http.Handler {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Decided == nil {
		c.Decided = func(*gate.Decision, time.Duration) {}
	}
	return &door{Config: c}
}

type door struct {
	Config
	faults faultlog.Faults
}

// call is everything that one request needs, used again for the next one.
type call struct {
	req    gate.Request
	d      gate.Decision
	fields httpgate.Fields
}

var calls = sync.Pool{New: func() any { return new(call) }}

func (f *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// A proxy may pass on the length of a body that it does not send. Only
		// on a connection that closes does net/http answer without waiting.
		w.Header().Set("Connection", "close")
	}
	only403, err := denyMode(r.URL.RawQuery)
	if err != nil {
		fail(w, r, problem.BadRequest("deny", err.Error()), false)
		return
	}
	c := calls.Get().(*call)
	defer func() {
		c.req = gate.Request{}
		calls.Put(c)
	}()
	if p := f.admit(w.Header(), r); p != nil {
		fail(w, r, p, only403)
		return
	}
	if p := f.read(r, &c.req); p != nil {
		fail(w, r, p, only403)
		return
	}
	began := time.Now()
	if err := f.Gate.Take(r.Context(), &c.req, &c.d); err != nil {
		if c.d.Kept {
			f.Decided(&c.d, time.Since(began))
		}
		if r.Context().Err() != nil { // it waited, and the client left or the server stops
			err = &headgate.Error{Code: headgate.Closed, Err: err}
			fail(w, r, problem.Of(err), only403)
			return
		}
		if unfit(err) {
			f.faults.Log(f.Logger, slog.LevelError, "unfit", "the policy does not fit this door", "path", r.URL.Path, "error", err)
			p := &problem.Problem{Name: "policy_unfit", Status: http.StatusInternalServerError, Detail: err.Error()}
			if only403 {
				deny(w, p)
				return
			}
			p.ServeHTTP(w, r)
			return
		}
		p := problem.Of(err)
		if p.Status >= http.StatusInternalServerError {
			code := headgate.CodeOf(err).String()
			f.faults.Log(f.Logger, slog.LevelError, code, "no decision", "path", r.URL.Path, "code", code, "error", err)
		}
		fail(w, r, p, only403)
		return
	}
	// nginx gives clients those that its configuration copies, Traefik and Caddy all of a
	// refusal.
	c.fields.Set(w.Header(), &c.d, c.d.Headers)
	switch {
	case c.d.Allowed:
		w.WriteHeader(http.StatusNoContent)
	case only403:
		deny(w, refusal(&c.d))
	default:
		refusal(&c.d).ServeHTTP(w, r)
	}
	f.Decided(&c.d, time.Since(began)-c.d.Waited)
}

// unfit reports whether the policy asks for what this door cannot do: to release
// slots. The application is there, so an error that names it is about what the
// policy says of it.
//
// It is a fault of ours, and still a denial where denials are 403: the client
// chose the path, and where a proxy lets requests pass when we fail, one path
// would be without limit.
func unfit(err error) bool {
	e, ok := errors.AsType[*headgate.Error](err)
	return ok && e.Code == headgate.InvalidRequest && e.Field == "application"
}

// denyMode reads the query. Anything else than the one parameter is refused:
// a typing error in a proxy's configuration would go unnoticed until the first
// refusal.
func denyMode(query string) (only403 bool, err error) {
	switch query {
	case "":
		return false, nil
	case "deny=403":
		return true, nil
	}
	q, err := url.ParseQuery(query)
	if err != nil || len(q) != 1 || len(q["deny"]) != 1 || q["deny"][0] != "403" && q["deny"][0] != "429" {
		return false, fmt.Errorf("the only parameter is deny, and it is 403 or 429")
	}
	return q["deny"][0] == "403", nil
}

// admit lets only requests through of those who may ask about the application.
// The token is gone after it: what is decided by the header fields of a request
// is the client's.
func (f *door) admit(answer http.Header, r *http.Request) *problem.Problem {
	defer delete(r.Header, TokenField)
	if f.Admit == nil {
		return nil
	}
	caller, p := f.Admit(answer, r)
	if p != nil {
		return p
	}
	if application := r.PathValue("application"); !caller.Reaches(application) {
		return unknown(application)
	}
	return nil
}

func unknown(application string) *problem.Problem {
	return &problem.Problem{
		Name: "not_found", Status: http.StatusNotFound, Field: "application",
		Detail: fmt.Sprintf("application: %.64q: no such application", application),
	}
}

// read fills in the request that the proxy describes.
func (f *door) read(r *http.Request, q *gate.Request) *problem.Problem {
	q.Application = r.PathValue("application")
	trusted, ok := f.Gate.TrustedProxies(q.Application)
	if !ok {
		return unknown(q.Application)
	}
	peer, err := clientip.ParsePeer(r.RemoteAddr)
	if err != nil {
		return problem.BadRequest("", err.Error())
	}
	if !clientip.Within(peer, trusted) {
		return problem.BadRequest("", fmt.Sprintf("%v is not among the trusted_proxies of application %s: what it says of a client is not believed", peer, q.Application))
	}
	var field string
	if q.Method, field, err = original(r.Header, "X-Forwarded-Method", "X-Original-Method"); err != nil {
		return problem.BadRequest(field, err.Error())
	}
	if q.Path, field, err = original(r.Header, "X-Forwarded-Uri", "X-Original-Uri"); err != nil {
		return problem.BadRequest(field, err.Error())
	}
	if q.Host, err = host(r); err != nil {
		return problem.BadRequest("X-Forwarded-Host", err.Error())
	}
	q.Headers = r.Header
	q.WaitCap = MaxWait
	if blank(r.Header["X-Forwarded-For"]) && blank(r.Header["X-Real-Ip"]) {
		return nil // unknown: the proxy's own address would stand for all clients
	}
	if q.IP, err = clientip.Find(peer, r.Header, trusted); err != nil {
		return problem.BadRequest("", err.Error())
	}
	return nil
}

func blank(lines []string) bool {
	return !slices.ContainsFunc(lines, func(line string) bool { return line != "" })
}

// host reads for which host the request is. nginx, which sends X-Original-URI,
// says it in Host, where it is told to, and may pass on an X-Forwarded-Host of
// the client's making; the others describe the original request in
// X-Forwarded-Host.
func host(r *http.Request) (string, error) {
	lines := r.Header["X-Forwarded-Host"]
	switch {
	case len(lines) > 1:
		return "", errors.New("X-Forwarded-Host is there twice: the proxy must replace what clients send")
	case len(lines) == 0 || lines[0] == "":
		return r.Host, nil
	case r.Header.Get("X-Original-Uri") == "":
		return lines[0], nil
	case !strings.EqualFold(lines[0], r.Host):
		return "", errors.New("X-Forwarded-Host beside X-Original-Uri differs from Host: the proxy must set one and clear the other")
	}
	return r.Host, nil
}

// original reads what a proxy says under either of two names. Proxies set one
// of them and pass the other on as the client wrote it; where the two differ
// nobody can say which is which.
func original(h http.Header, forwarded, orig string) (value, field string, err error) {
	a, b := h[forwarded], h[orig]
	switch {
	case len(a) > 1 || len(b) > 1:
		return "", forwarded, fmt.Errorf("%s or %s is there twice: the proxy must replace what clients send", forwarded, orig)
	case len(a) == 1 && len(b) == 1 && a[0] != "" && b[0] != "" && a[0] != b[0]:
		return "", forwarded, fmt.Errorf("%s and %s differ: the proxy must set one and clear the other", forwarded, orig)
	case len(a) == 1 && a[0] != "":
		return a[0], "", nil
	case len(b) == 1 && b[0] != "":
		return b[0], "", nil
	}
	return "", forwarded, fmt.Errorf("the proxy sent neither %s nor %s", forwarded, orig)
}

// refusal is a refused request as its client sees it.
func refusal(d *gate.Decision) *problem.Problem {
	return &problem.Problem{Name: d.Reason.String(), Status: httpgate.Status(d.Reason), Detail: httpgate.Detail(d)}
}

// fail answers an error. Errors of ours are never a 403: whether the site stays
// open without us is for the proxy's configuration to say.
func fail(w http.ResponseWriter, r *http.Request, p *problem.Problem, only403 bool) {
	if only403 && p.Status < http.StatusInternalServerError {
		deny(w, p)
		return
	}
	p.ServeHTTP(w, r)
}

// deny answers 403 and says what it stands for.
func deny(w http.ResponseWriter, p *problem.Problem) {
	w.Header().Set("Headgate-Status", strconv.Itoa(p.Status))
	p.WriteAs(w, http.StatusForbidden)
}
