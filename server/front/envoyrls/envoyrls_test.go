package envoyrls

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/envoy"
	"github.com/headgate/headgate/gate/envoy/envoytest"
	"github.com/headgate/headgate/store/memstore"
)

// plain is a policy without descriptors.
const plain = `
version: 1
plans: {pro: {limits: [{name: daily, algorithm: quota, rate: 1000/day}]}}
applications:
  shop:
    domain: "the shop"
    identity: [attribute:user, ip]
    rules:
      - {name: login, match: {operation: login}, limits: [{name: burst, rate: 2/min, burst: 2}]}
      - {name: api, match: {path: "/api/{rest...}", methods: [POST]}, cost: 3, limits: [{name: w, algorithm: fixed_window, rate: 5/h, per: application}]}
      - {name: acme, match: {path: "/acme"}, skip: 'request.headers["x-org"] != "acme" || request.host != "h"', limits: [{name: w, algorithm: fixed_window, rate: 1/h, per: application}]}
      - {name: large, match: {operation: large}, limits: [{name: w, algorithm: fixed_window, rate: 5000000000/90s, per: application}]}
      - name: two
        match: {operation: two}
        costs: {bytes: 0}
        limits:
          - {name: dark, algorithm: fixed_window, rate: 1/d, per: application, mode: shadow}
          - {name: live, algorithm: fixed_window, rate: 1/min, per: application}
          - {name: bytes, unit: bytes, rate: 1/d, per: application}
      - {name: slots, match: {operation: slots}, limits: [{name: w, algorithm: concurrency, max: 1, per: application}]}
      - {name: closed, match: {operation: closed}, on_store_error: closed, limits: [{name: w, rate: 5/h, per: application}]}
      - {name: open, match: {operation: open}, on_store_error: open, limits: [{name: w, rate: 5/h, per: application}]}
      - {name: local, match: {operation: local}, limits: [{name: w, rate: 5/h, per: application}]}
  secret: {rules: [{name: login, match: {operation: login}, limits: [{name: burst, rate: 2/min}]}]}
`

func request(domain string, ds ...*common.RateLimitDescriptor) *pb.RateLimitRequest {
	return &pb.RateLimitRequest{Domain: domain, Descriptors: ds}
}

// TestOrdinaryPolicy: rules that know nothing of descriptors go by what the entries are
// called.
func TestOrdinaryPolicy(t *testing.T) {
	h := open(t, plain, nil)
	h.check("OK ok", "the shop", descriptor("generic_key=login,user=alice"))
	h.check("OK ok", "the shop", descriptor("operation=login,generic_key=other,user=alice,user=bob"))
	h.check("OVER over", "the shop", descriptor("generic_key=login,subject=alice"))
	h.check("OK ok", "the shop", descriptor("generic_key=login,user=bob"))
	r := h.check("OK ok", "the shop", descriptor("generic_key=login,remote_address=192.0.2.1"))
	if got := statusOf(r, 0); got != `OK 1/2 MINUTE*1 "burst" 30s` {
		t.Error(got)
	}
	h.check("OK ok", "the shop", descriptor("generic_key=login,remote_address=::ffff:192.0.2.1"))
	h.check("OVER over", "the shop", descriptor("generic_key=login,remote_address=192.0.2.1"))
	if _, err := h.send(request("the shop", descriptor("generic_key=login,remote_address=nobody"))); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	if _, err := h.send(request("the shop", descriptor("generic_key=login,remote_address=fe80::1%eth0"))); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	if got := statusOf(h.ask("the shop", descriptor("operation=large")), 0); got != `OK 4294967295/4294967295 SECOND*90 "w" 1m30s` {
		t.Error(got)
	}
	h.check("OK ok", "the shop", descriptor("operation=two"))
	if got := statusOf(h.ask("the shop", descriptor("operation=two")), 0); got != `OVER_LIMIT 0/1 MINUTE*1 "live" 1m0s` {
		t.Error(got)
	}
	// The rule's cost, unless hits are said.
	r = h.check("OK ok", "the shop", descriptor("path=/api/x?y,method=POST"))
	if r.Statuses[0].LimitRemaining != 2 {
		t.Error(r)
	}
	h.check("OVER over", "the shop", descriptor("path=//api/./x,method=POST"))
	h.check("OK ok", "the shop", hits(descriptor("path=/api/x,method=POST"), 1))
	h.check("OK none", "the shop", descriptor("path=/api/x,method=GET"))
	h.check("OK none", "the shop", descriptor("path=x,method=POST"))
	h.check("OK ok", "the shop", descriptor("path=/acme,header_X-Org=acme,header_x-org=other,host=h"))
	h.check("OVER over", "the shop", descriptor("path=/acme,header_X-Org=acme,host=h"))
	h.check("OK none", "the shop", descriptor("path=/acme,header_X-Org=other,host=h"))
	r = h.check("OK ok", "the shop", descriptor("operation=x,subject=alice,plan=pro"))
	if got := r.Statuses[0].CurrentLimit; got.Unit != pb.RateLimitResponse_RateLimit_DAY || got.Name != "daily" || got.RequestsPerUnit != 1000 {
		t.Error(r)
	}
}

// TestErrors: what is wrong is told, with the code that says whose fault it is.
func TestErrors(t *testing.T) {
	h := open(t, plain, nil)
	many := request("the shop")
	for range MaxDescriptors + 1 {
		many.Descriptors = append(many.Descriptors, descriptor("a=b"))
	}
	for _, c := range []struct {
		r     *pb.RateLimitRequest
		code  codes.Code
		words string
	}{
		{request("", descriptor("a=b")), codes.InvalidArgument, "domain: is required"},
		{request("the shop"), codes.InvalidArgument, "descriptors: at least one is required"},
		{request("the shop", descriptor("a=b"), descriptor("")), codes.InvalidArgument, "descriptors[1].entries: at least one is required"},
		{request("the shop", descriptor("a=b,=c")), codes.InvalidArgument, "descriptors[0].entries[1].key: is required"},
		{many, codes.InvalidArgument, "descriptors: more than 100"},
		{request("the shop", descriptor(strings.Repeat("a=b,", 16)+"a=b")), codes.InvalidArgument, "descriptors[0].entries: more than 16"},
		{request("the shop", descriptor(strings.Repeat("k", 1025)+"=v")), codes.InvalidArgument, "at most 1024"},
		{request("shop", descriptor("a=b")), codes.NotFound, `domain: "shop" is not in the policy`},
		{request("the shop", says(descriptor("a=b"), 1, 0, 0)), codes.InvalidArgument, "descriptors[0].limit.unit: 0: must be SECOND"},
		{request("the shop", says(descriptor("a=b"), 1, 8, 0)), codes.InvalidArgument, "limit.unit: 8"},
		{request("the shop", says(descriptor("a=b"), 1, typev3.RateLimitUnit_YEAR, 11)), codes.InvalidArgument, "limit.unit_multiplier: 11: at most 10"},
		{request("the shop", says(descriptor("a=b"), 1, typev3.RateLimitUnit_SECOND, math.MaxUint32)), codes.InvalidArgument, "limit.unit_multiplier"},
		{request("the shop", descriptor("operation=login")), codes.InvalidArgument, "subject"},
		{request("the shop", descriptor("operation=slots")), codes.FailedPrecondition, "release: ttl"},
		{request("the shop", back(descriptor("a=b"))), codes.PermissionDenied, "is_negative_hits: only callers that may operate give hits back: send a token with the scopes decide and operate"},
	} {
		h.refused(c.r, c.code, c.words)
	}
}

// TestCallers: a domain that is not the caller's is answered as one that is not there.
func TestCallers(t *testing.T) {
	for _, c := range []struct {
		unknown UnknownDomain
		want    string
	}{{AnswerNotFound, ""}, {AnswerOK, "OK none none"}} {
		h := open(t, plain, func(config *Config) { config.UnknownDomain = c.unknown })
		h.caller = limited("shop")
		h.check("OK ok", "the shop", descriptor("operation=login,user=a"))
		for _, domain := range []string{"secret", "nowhere", "shop"} {
			if c.want != "" {
				h.check(c.want, domain, descriptor("operation=login"), back(descriptor("operation=login")))
				continue
			}
			h.refused(request(domain, descriptor("operation=login")), codes.NotFound, fmt.Sprintf("domain: %q is not in the policy", domain))
		}
	}
}

// TestHostile: what clients of an Envoy can put into values is decided, as an error would
// let them pass where Envoy does not deny on failures.
func TestHostile(t *testing.T) {
	h := open(t, convert(t, rules), nil)
	long := strings.Repeat("x", 100_000)
	for range 10 {
		h.check("OK ok", "edge", descriptor("path=/"+long))
	}
	h.check("OVER over", "edge", descriptor("path=/"+long))
	h.check("OK ok", "edge", descriptor("path=/"+long+"y"))
	h.check("OK ok", "edge", descriptor("path=/a"+long))
	r := h.ask("edge", descriptor("path=/x"+long+".pdf"))
	if l := r.Statuses[0].CurrentLimit; l.RequestsPerUnit != 6 { // still a PDF
		t.Error(r)
	}
	h.check("OK none", "edge", descriptor("path="+strings.Repeat("\x00\r\n\u2028", 50)+",subject="+long+",operation=\r\n\x00"))
	shop := open(t, plain, nil)
	for i, path := range []string{"/api/%zz", "/api/%", "/api/%0", "/api/%00", "/api/\n\x7f", "/api/%2", "//api/" + long, "/%61pi/%c3%28"} {
		want := "OVER over"
		if i == 0 {
			want = "OK ok"
		}
		shop.check(want, "the shop", descriptor("path="+path+",method=POST"))
	}
	shop.check("OK none", "the shop", descriptor("path=/"+long))
	for _, subject := range []string{long, long + "y", "a\nb", "a%0Ab"} {
		shop.check("OK ok", "the shop", hits(descriptor("operation=login,subject="+subject), 2))
		shop.check("OVER over", "the shop", descriptor("operation=login,subject="+subject))
		if subject == "a\nb" {
			break // its text is that of the next
		}
	}
}

// TestNotUTF8: an Envoy may send what its client sent.
func TestNotUTF8(t *testing.T) {
	h := open(t, convert(t, rules), nil)
	conn := serve(t, func(s *grpc.Server) { h.door.Register(s) })
	send := func(value string) (string, error) {
		entry := append([]byte("\x0a\x04path\x12"), append([]byte{byte(len(value))}, value...)...)
		d := append([]byte{0x0a, byte(len(entry))}, entry...)
		wire := append([]byte("\x0a\x04edge\x12"), append([]byte{byte(len(d))}, d...)...)
		r := new(pb.RateLimitResponse)
		err := conn.Invoke(t.Context(), pb.RateLimitService_ShouldRateLimit_FullMethodName, newReply(wire), r)
		return short(r), err
	}
	for range 10 {
		if got, err := send("/\xff\xc3é"); got != "OK ok" || err != nil {
			t.Fatal(got, err)
		}
	}
	if got, err := send("/\xff\xc3é"); got != "OVER over" || err != nil {
		t.Fatal(got, err)
	}
	if got, err := send("/\xfe\xc3é"); got != "OK ok" || err != nil {
		t.Fatal(got, err)
	}
	for _, wire := range []string{"\x0a", "\x0a\xff\xff\xff\xff\xff", "\x12\x02\x0a\x05", "\x07", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if err := conn.Invoke(t.Context(), pb.RateLimitService_ShouldRateLimit_FullMethodName, newReply([]byte(wire)), new(pb.RateLimitResponse)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%x: %v", wire, err)
		}
	}
}

// TestStoreAway: who is closed is not answered, so that Envoy does as it was told to for
// failures; the others are, by what the policy says.
func TestStoreAway(t *testing.T) {
	memory := func() headgate.Store {
		return memstore.New(memstore.Config{MaxBytes: 1 << 20, Origin: envoytest.Start.UnixMicro() - 1})
	}
	store := &broken{Store: memory(), err: &headgate.Error{Code: headgate.Unavailable, Err: io.ErrUnexpectedEOF}}
	h := openOn(t, gate.Config{Policy: []byte(plain), Store: store, Local: memory()}, nil)
	h.caller = operator{}
	h.refused(request("the shop", descriptor("operation=closed")), codes.Unavailable, "the store cannot decide at the moment")
	h.refused(request("the shop", descriptor("operation=open"), descriptor("operation=closed")), codes.Unavailable, "")
	h.refused(request("the shop", back(descriptor("operation=local"))), codes.Unavailable, "")
	h.check("OK none", "the shop", descriptor("operation=open"))
	h.check("OK ok", "the shop", descriptor("operation=local"))
	store.err = &headgate.Error{Code: headgate.Overloaded, Err: io.ErrShortBuffer}
	h.check("OVER over", "the shop", descriptor("operation=local"))
	store.err = nil
	h.check("OK ok", "the shop", descriptor("operation=closed"))
	if err := h.gate.Close(); err != nil {
		t.Fatal(err)
	}
	h.refused(request("the shop", descriptor("operation=local")), codes.Unavailable, "the server is stopping")
}

// TestPatience: an Envoy does not wait, and no rule can make it.
func TestPatience(t *testing.T) {
	var got []time.Duration
	h := open(t, plain, func(c *Config) { c.Gate = patient{c.Gate, &got} })
	h.check("OK ok ok", "the shop", descriptor("operation=local"), descriptor("operation=open"))
	if len(got) != 2 || got[0] != DefaultPatience || got[1] != DefaultPatience {
		t.Error(got)
	}
}

type patient struct {
	decider
	got *[]time.Duration
}

func (p patient) TakeDescriptors(ctx context.Context, rs []*gate.Request, ds []*gate.Decision) (bool, int, error) {
	for _, r := range rs {
		if !r.NoWait || r.Releases {
			return false, -1, fmt.Errorf("%+v", r)
		}
		*p.got = append(*p.got, r.Patience)
	}
	return p.decider.TakeDescriptors(ctx, rs, ds)
}

// panics is a gate with a fault.
type panics struct{ decider }

func (panics) TakeDescriptors(context.Context, []*gate.Request, []*gate.Decision) (bool, int, error) {
	panic("oh")
}

// TestPanic: it ends the call, not the server.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	n := 0
	h := open(t, plain, func(c *Config) {
		c.Gate, c.Panicked, c.Logger = panics{c.Gate}, func() { n++ }, slog.New(slog.NewTextHandler(&log, nil))
	})
	for range 2 {
		h.refused(request("the shop", descriptor("operation=local")), codes.Internal, "its log says how")
	}
	if n != 2 || !strings.Contains(log.String(), "panic=oh") {
		t.Errorf("%d panics, log %s", n, log.String())
	}
}

// TestFaultsAreLoggedOnce: a policy that the door cannot serve is no line for each request.
func TestFaultsAreLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	h := open(t, plain, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 50 {
		h.refused(request("the shop", descriptor("operation=slots")), codes.FailedPrecondition, "release: ttl")
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "release: ttl") {
		t.Errorf("%d lines: %s", n, log.String())
	}
}

// TestNameTold: the name of a limit is told, but where nobody gave it one.
func TestNameTold(t *testing.T) {
	const config = "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}, {key: b, rate_limit: {unit: day, requests_per_unit: 1, name: mine}}]"
	for _, c := range []struct {
		unnamed func(string) bool
		want    []string
	}{{envoy.Unnamed, []string{"", "mine"}}, {nil, []string{"per_day", "mine"}}} {
		h := open(t, convert(t, config), func(to *Config) { to.Unnamed = c.unnamed })
		r := h.ask("d", descriptor("a=x"), descriptor("b=x"))
		for i, s := range r.Statuses {
			if s.CurrentLimit.Name != c.want[i] {
				t.Errorf("%q, want %q", s.CurrentLimit.Name, c.want[i])
			}
		}
	}
}

// TestHooks: each decision is told of, and what was given back apart from them.
func TestHooks(t *testing.T) {
	decided, corrected := 0, 0
	h := open(t, convert(t, rules), func(c *Config) {
		c.Decided = func(d *gate.Decision, took time.Duration) {
			if d.Application != "edge" || took <= 0 {
				t.Errorf("%+v, %v", d, took)
			}
			decided++
		}
		c.Corrected = func(*gate.Decision) { corrected++ }
	})
	h.caller = operator{}
	h.ask("edge", descriptor("path=/x"), descriptor("ghost=x"), back(descriptor("path=/x")))
	if decided != 2 || corrected != 1 {
		t.Errorf("decided %d, corrected %d", decided, corrected)
	}
}

// TestJSON: the same over HTTP.
func TestJSON(t *testing.T) {
	h := open(t, convert(t, rules), nil)
	door := h.door.JSON()
	send := func(method, kind, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://localhost/json", strings.NewReader(body))
		if kind != "" {
			r.Header.Set("Content-Type", kind)
		}
		w := httptest.NewRecorder()
		door.ServeHTTP(w, r)
		return w
	}
	const ask = `{"domain": "edge", "descriptors": [{"entries": [{"key": "path", "value": "/x"}], "hitsAddend": "%d"}]}`
	for _, c := range []struct {
		hits, status int
		want         string
	}{{10, 200, "OK ok"}, {1, 429, "OVER over"}} {
		w := send("POST", "application/json; charset=utf-8", fmt.Sprintf(ask, c.hits))
		r := new(pb.RateLimitResponse)
		if err := protojson.Unmarshal(w.Body.Bytes(), r); err != nil || w.Code != c.status || short(r) != c.want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%d %s, %v", w.Code, w.Body, err)
		}
	}
	for _, c := range []struct {
		method, kind, body string
		status             int
		words              string
	}{
		{"GET", "", "", 405, "use POST"},
		{"POST", "text/plain", "{}", 415, "application/json"},
		{"POST", "", "{", 400, "not a RateLimitRequest"},
		{"POST", "", `{"domain": "edge", "description": 1}`, 400, "unknown field"},
		{"POST", "", `{}`, 400, "domain: is required"},
		{"POST", "", `{"domain": "nowhere", "descriptors": [{"entries": [{"key": "a"}]}]}`, 404, "is not in the policy"},
		{"POST", "", `{"domain": "edge", "descriptors": [{"entries": [{"key": "a"}], "isNegativeHits": true}]}`, 403, "operate"},
		{"POST", "", `"` + strings.Repeat("x", MaxBody) + `"`, 413, "65536"},
	} {
		if w := send(c.method, c.kind, c.body); w.Code != c.status || !strings.Contains(w.Body.String(), c.words) || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %.50s: %d %s", c.method, c.body, w.Code, w.Body)
		}
	}
	r := httptest.NewRequest("POST", "http://localhost/json", strings.NewReader("{}"))
	r.Header.Set("Origin", "https://evil.example")
	w := httptest.NewRecorder()
	if door.ServeHTTP(w, r); w.Code != http.StatusForbidden {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
