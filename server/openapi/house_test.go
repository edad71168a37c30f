package openapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/follow"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/envoyrls"
	"github.com/headgate/headgate/server/front/forwardauth"
	"github.com/headgate/headgate/server/front/httpapi"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/observe"
	"github.com/headgate/headgate/server/records"
	"github.com/headgate/headgate/store/memstore"
)

// The instant of the examples, a Monday noon.
var noon = time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)

// secret is long enough to be one.
const secret = "a token of the tests, 32 bytes up"

// frozen is a store at noon, or one that is away.
type frozen struct {
	*memstore.Store
	away *headgate.Error
}

func (f *frozen) Now() int64 { return noon.UnixMicro() }

func (f *frozen) Apply(ctx context.Context, b *headgate.Batch) error {
	if f.away != nil {
		return f.away
	}
	b.Now = noon.UnixMicro()
	return f.Store.Apply(ctx, b)
}

// house is a server as the program wires it, where decisions need a token too.
type house struct {
	http.Handler
	gate    *gate.Gate
	store   *frozen
	records *records.DB
}

// examplePolicy is the policy that the document says its examples need.
func examplePolicy(t *testing.T) string {
	t.Helper()
	_, rest, ok := strings.Cut(load(t).Info.Description, "```yaml\n")
	text, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("the description has no policy")
	}
	return text
}

func open(t *testing.T) *house {
	t.Helper()
	return openWith(t, examplePolicy(t), nil)
}

// openWith opens a house with a policy, and what change makes of its administration; nil
// changes nothing.
func openWith(t *testing.T, text string, change func(*admin.Config)) *house {
	t.Helper()
	store := &frozen{Store: memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: noon.UnixMicro()})}
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(text), Store: store})
	if err != nil {
		t.Fatal(err)
	}
	limiter, err := headgate.New(memstore.New(memstore.Config{MaxBytes: 1 << 20}), headgate.PerHour(2))
	if err != nil {
		t.Fatal(err)
	}
	db, err := records.Open(t.Context(), records.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "records.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	guard := access.New(access.Config{Token: secret, Failures: limiter})
	// Nothing runs by itself here: what is written comes into force when somebody waits for it.
	follower := follow.New(follow.Config{Records: db, Gate: g, Tokens: guard.Learn})
	kept := journal.New(journal.Config{})
	counted := meter.New(meter.Config{Records: db, Now: func() time.Time { return noon }})
	decided := func(door string) func(*gate.Decision, time.Duration) {
		return func(d *gate.Decision, _ time.Duration) {
			counted.Count(d)
			kept.Add(&journal.Entry{
				At: time.Now(), ID: d.ID, Application: d.Application, Rule: d.Rule, Operation: d.Operation, Subject: d.Subject, Plan: d.Plan,
				Cost: d.Cost, Allowed: d.Allowed, Reason: d.Reason, BoundBy: d.BoundByID(), RetryAfter: d.RetryAfter, Retryable: d.Retryable,
				WouldDeny: d.WouldDeny, Shadow: d.Shadow, Degraded: d.Degraded, Door: door,
			})
		}
	}
	c := admin.Config{
		Gate: g, Journal: kept, Records: db, Guard: guard, Backup: copyOf(t), Meter: flushed{counted}, Node: node,
		Reach: func(ctx context.Context, _ int64) {
			if err := follower.Load(ctx); err != nil {
				t.Error(err)
			}
		},
	}
	if change != nil {
		change(&c)
	}
	routes := admin.Routes(c)
	routes[forwardauth.Pattern] = forwardauth.New(forwardauth.Config{
		Gate: g, Decided: decided("forward_auth"),
		Admit: func(answer http.Header, r *http.Request) (front.Caller, *problem.Problem) {
			return guard.RequireField(records.Decide, forwardauth.TokenField, answer, r)
		},
	})
	metrics := observe.New(observe.Build{}, func() observe.State { return observe.State{} }).Handler()
	routes["/metrics"] = httpapi.ReadOnly(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p := guard.Require(records.Read, w.Header(), r); p != nil {
			p.ServeHTTP(w, r)
			return
		}
		metrics.ServeHTTP(w, r)
	}))
	routes[Path] = httpapi.ReadOnly(Handler())
	envoy := envoyrls.New(envoyrls.Config{Gate: g, Now: g.Now, Decided: decided("envoy")}).JSON()
	routes[envoyrls.Path] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, p := guard.Require(records.Decide, w.Header(), r)
		if p != nil {
			p.ServeHTTP(w, r)
			return
		}
		envoy.ServeHTTP(w, r.WithContext(front.With(r.Context(), who)))
	})
	routes["/v1/policy/schema.json"] = httpapi.ReadOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/schema+json")
		w.Write(policy.Schema())
	}))
	return &house{httpapi.New(httpapi.Config{
		Gate: g, Routes: routes, Now: g.Now, Decided: decided("http"), Corrected: counted.Correct,
		Admit: func(answer http.Header, r *http.Request) (front.Caller, *problem.Problem) {
			return guard.Require(records.Decide, answer, r)
		},
	}), g, store, db}
}

// flushed is a meter that puts on record what it has counted when somebody asks for it.
type flushed struct{ *meter.Meter }

func (f flushed) Usage(ctx context.Context, q records.UsageQuery) ([]meter.Row, *records.Usage, bool, error) {
	if err := f.Flush(ctx); err != nil {
		return nil, nil, false, err
	}
	return f.Meter.Usage(ctx, q)
}

// node is how the house is.
func node() admin.NodeState {
	return admin.NodeState{
		Name: "gate-1", Started: noon, Version: "1.0.0", Commit: "3d89357", HTTP: "127.0.0.1:8080", GRPC: "127.0.0.1:8081", RESP: "127.0.0.1:6380", Ready: true, PolicyRevision: 1, PolicyOK: true,
		Store: "embedded", StoreUp: true, Keys: 1, MemoryBytes: 512, MemoryLimit: 256 << 20, Records: "sqlite", RecordsOK: true,
	}
}

// call is a request to a house.
type call struct {
	method, path string
	query        url.Values
	header       http.Header
	body         any // a string as it is, else JSON; nil for none
}

// send adds what every client of the route sends: a media type and the token.
// A header that is set to nothing is left out.
func (h *house) send(t *testing.T, c call) *httptest.ResponseRecorder {
	t.Helper()
	var body []byte
	switch b := c.body.(type) {
	case nil:
	case string:
		body = []byte(b)
	default:
		var err error
		if body, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
	}
	target := c.path
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	r := httptest.NewRequestWithContext(t.Context(), c.method, target, bytes.NewReader(body))
	r.RemoteAddr = "127.0.0.1:50000"
	r.Header.Set("Authorization", "Bearer "+secret)
	r.Header.Set(forwardauth.TokenField, secret)
	if c.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for name, values := range c.header {
		r.Header.Del(name)
		for _, v := range values {
			if v != "" {
				r.Header.Add(name, v)
			}
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// copyOf returns a way to make a backup, of something.
func copyOf(t *testing.T) func(context.Context) (admin.Backup, error) {
	return func(context.Context) (admin.Backup, error) {
		file := filepath.Join(t.TempDir(), "copy")
		if err := os.WriteFile(file, []byte("SQLite format 3"), 0o600); err != nil {
			return nil, err
		}
		return os.Open(file)
	}
}
