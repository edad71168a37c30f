package openapi

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate/headgate/server/admin"
)

// provoker makes problems, of which each kind needs a server in some state.
type provoker struct {
	*testing.T
	sound    *house
	pinned   *house // a file rules its policy, and its state is elsewhere
	lost     *house // its records and its gate are closed
	hammered *house // somebody has sent it too many wrong tokens
}

// elsewhere are the documented problems that other tests provoke.
var elsewhere = map[string]string{
	"forwardAuth 422": "TestRefusals",
	"metrics 503":     "the metrics' own", // of too many scrapes at once
}

// TestProvoked: every operation has every problem that the document says, but for 500,
// which is a fault of the program.
func TestProvoked(t *testing.T) {
	p := &provoker{T: t, sound: open(t), lost: open(t), hammered: open(t)}
	p.pinned = openWith(t, examplePolicy(t), func(c *admin.Config) { c.Pinned, c.Backup = "policy.yaml", nil })
	p.lost.gate.Close()
	if err := p.lost.records.Close(); err != nil {
		t.Fatal(err)
	}
	// So that there is a revision to go back to.
	p.sound.send(t, call{method: "PUT", path: "/v1/policy", body: examplePolicy(t), header: header("Content-Type", "application/yaml")})
	for range 3 {
		p.hammered.send(t, call{method: "GET", path: "/v1/mode", header: header("Authorization", "Bearer x")})
	}
	answers := strictly(t)
	for id, o := range operations(t) {
		first := p.sound.examples(t, id)[0].call
		for status := range o.Responses.Map() {
			code, err := strconv.Atoi(status)
			if err != nil || code < 400 || code == http.StatusInternalServerError || elsewhere[id+" "+status] != "" {
				continue
			}
			h, c := p.provoke(id, o, first, code)
			if w := h.send(t, c); w.Code != code {
				t.Errorf("%s: status %d, want %d: %s", id, w.Code, code, w.Body)
			} else {
				answers.check(t, o.method, o.path, w)
			}
		}
	}
}

// provoke makes of a request one that a house answers with a problem.
func (p *provoker) provoke(id string, o operation, c call, status int) (*house, call) {
	p.Helper()
	c.header, c.query = c.header.Clone(), maps.Clone(c.query)
	token := func(value string) {
		c.header.Set("Authorization", strings.TrimSuffix("Bearer "+value, "Bearer "))
		c.header.Set("Headgate-Token", value)
	}
	switch status {
	case http.StatusBadRequest:
		c.body = "{"
		if o.RequestBody == nil {
			c.body = nil
			c.query.Set("sbject", "a")
		}
	case http.StatusUnauthorized:
		token("")
	case http.StatusForbidden:
		token(p.sound.token(p.T, without(o)))
	case http.StatusNotFound:
		p.miss(id, o, &c)
	case http.StatusConflict:
		return p.pinned, c
	case http.StatusPreconditionFailed:
		c.header.Set("If-Match", `"99"`)
	case http.StatusRequestEntityTooLarge:
		c.body = strings.Repeat(" ", 4<<20) + "{}"
	case http.StatusUnsupportedMediaType:
		c.header.Set("Content-Type", "text/plain")
	case http.StatusUnprocessableEntity:
		body := with("idempotency_key", "k")
		p.sound.send(p.T, call{method: o.method, path: o.path, body: body})
		body["cost"] = 2
		c.body = body
	case http.StatusTooManyRequests:
		token("x")
		return p.hammered, c
	case http.StatusServiceUnavailable:
		return p.lost, c
	default:
		p.Errorf("%s: nobody knows how to provoke %d", id, status)
	}
	return p.sound, c
}

// miss makes a request one for something that is not there.
func (p *provoker) miss(id string, o operation, c *call) {
	p.Helper()
	switch id {
	case "getPolicy":
		c.query = query("revision", "99")
	case "rollbackPolicy":
		c.body = map[string]any{"revision": 99}
	case "revokeToken":
		c.query = query("id", "nobody")
	case "listDecisions", "getUsage", "getTop":
		c.query = query("application", "nope")
	case "listAudit":
		// Whoever may see all of it may also look for what has left the policy.
		c.query = query("application", "nope")
		c.header.Set("Authorization", "Bearer "+p.sound.token(p.T, "admin", "email"))
	case "shouldRateLimit":
		body := maps.Clone(c.body.(map[string]any))
		body["domain"] = "nope"
		c.body = body
	case "takeBatch":
		c.body = map[string]any{"atomic": true, "items": []any{with("application", "nope")}}
	default:
		c.path = strings.NewReplacer("{application}", "nope", "{plan}", "nope").Replace(o.path)
		if id == "putApplication" {
			c.header.Set("Authorization", "Bearer "+p.sound.token(p.T, "admin", "email"))
		}
		if body, is := c.body.(map[string]any); is && c.path == o.path {
			body = maps.Clone(body)
			body["application"] = "nope"
			c.body = body
		}
	}
}

// scopes are all that there are, from the least.
var scopes = []string{"decide", "read", "operate", "admin"}

// scope is the one that the document says an operation needs, "" for none.
func (o operation) scope() string {
	if o.Security == nil {
		return ""
	}
	for _, requirement := range *o.Security {
		for _, names := range requirement {
			return names[0]
		}
	}
	return ""
}

// without returns a scope that does not let an operation pass.
func without(o operation) string {
	i := slices.Index(scopes, o.scope())
	if i == 0 {
		return "operate"
	}
	return scopes[i-1]
}

// token makes a token with a scope, for some applications or all, and puts it in force.
func (h *house) token(t *testing.T, scope string, applications ...string) string {
	t.Helper()
	body := map[string]any{"name": "test", "scopes": []string{scope}}
	if applications != nil {
		body["applications"] = applications
	}
	return h.field(t, call{method: http.MethodPost, path: "/v1/tokens", body: body}, "token")
}

// TestScopes: the scope that the document names lets an operation pass, and the one
// before it does not. The sentence says the same as the requirement.
func TestScopes(t *testing.T) {
	h := open(t)
	tokens := make(map[string]string)
	for _, s := range scopes {
		tokens[s] = h.token(t, s)
	}
	calls := make(map[string]call)
	for id := range operations(t) {
		calls[id] = h.examples(t, id)[0].call // while the policy is the one that they need
	}
	secured := 0
	for id, o := range operations(t) {
		scope := o.scope()
		if said := strings.Contains(o.Description, "`"+scope+"`"); scope != "" && !said {
			t.Errorf("%s: needs the scope %s, which the description does not name", id, scope)
		}
		if scope == "" {
			continue
		}
		secured++
		c := calls[id]
		for _, s := range scopes {
			c.header = c.header.Clone()
			c.header.Set("Authorization", "Bearer "+tokens[s])
			c.header.Set("Headgate-Token", tokens[s])
			if id == "forwardAuth" {
				c.header.Set("Authorization", "Bearer of the client")
			}
			rank := slices.Index(scopes, s)
			may := rank >= slices.Index(scopes, scope) && (scope != "decide" || s == "decide" || s == "admin")
			w := h.send(t, c)
			if refused := w.Code == http.StatusForbidden; refused == may || w.Code == http.StatusUnauthorized {
				t.Errorf("%s needs %s, with %s: status %d: %s", id, scope, s, w.Code, w.Body)
			}
		}
	}
	if secured < 20 {
		t.Errorf("only %d operations need a token", secured)
	}
}
