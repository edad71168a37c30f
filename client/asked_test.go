package client

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/certtest"
	"google.golang.org/protobuf/proto"
)

// certify makes a certificate for 127.0.0.1 and the pool that believes it.
func certify(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	root := certtest.New(t, "root")
	pair, err := tls.X509KeyPair(root.Server(t, "server"))
	if err != nil {
		t.Fatal(err)
	}
	return pair, root.Pool()
}

// TestAsked: everything that a request says is sent, and nothing of the one before.
func TestAsked(t *testing.T) {
	c, f := start(t)
	r := &gate.Request{
		Application: "a", Operation: "o", Subject: "s", Plan: "p", Cost: 0, CostSaid: true, Costs: map[string]int64{"tokens": 3},
		Method: "POST", Path: "/x?y", Host: "h", IP: netip.MustParseAddr("203.0.113.9"), Headers: http.Header{"X-A": {"1", "2"}}, Stranger: true,
		Attributes: map[string]string{"org": "acme"}, IdempotencyKey: "k", MaxWait: 1500 * time.Microsecond, MaxWaitSaid: true,
		NoWait: true, WaitCap: 1500 * time.Microsecond, Descriptor: []gate.Entry{{Key: "k", Value: "v"}},
	}
	want := &headgatev1.TakeRequest{
		Application: "a", Operation: "o", Subject: "s", Plan: "p", Cost: new(int64(0)), Costs: map[string]int64{"tokens": 3},
		Request: &headgatev1.HttpRequest{
			Method: "POST", Path: "/x?y", Host: "h", Ip: "203.0.113.9", Stranger: true, Headers: []*headgatev1.Header{{Name: "X-A", Values: []string{"1", "2"}}},
		},
		Attributes: map[string]string{"org": "acme"}, IdempotencyKey: "k", MaxWaitMs: new(int64(1)), NoWait: true, WaitCapMs: 2, NoRelease: true,
		Descriptor_: []*headgatev1.DescriptorEntry{{Key: "k", Value: "v"}},
	}
	var d gate.Decision
	var e gate.Explanation
	check := func(want proto.Message, err error) {
		t.Helper()
		if err != nil || !proto.Equal(f.last(), want) {
			t.Errorf("asked %v\nwant %v; %v", f.last(), want, err)
		}
	}
	check(want, c.Take(t.Context(), r, &d))
	if d.Reason != headgate.Reason(200) || !d.Allowed || d.Subject != "s" {
		t.Errorf("decision %+v", d.Decision) // the reason is of a newer server
	}
	check(want, c.Peek(t.Context(), r, &d))
	check(want, c.Explain(t.Context(), r, &d, &e))
	if e.Verdict != "Refused." || !slices.Equal(e.Steps, []gate.Step{{About: "match", Text: "No rule."}}) || d.Subject != "s" {
		t.Errorf("explanation %+v", e)
	}
	check(&headgatev1.ReserveRequest{Take: want, TtlMs: 2}, c.Reserve(t.Context(), r, 1500*time.Microsecond, &d))
	if !d.HasTicket() || string(d.AppendTicket(nil)) != "t" {
		t.Error("no ticket")
	}
	for range 10 { // one of those before is used again
		check(&headgatev1.TakeRequest{}, c.Take(t.Context(), &gate.Request{Releases: true}, &d))
	}
	check(&headgatev1.SettleRequest{Ticket: "t", Application: "a", Cost: new(int64(0)), Costs: map[string]int64{"tokens": 1}},
		c.Settle(t.Context(), &gate.Claim{Ticket: "t", Application: "a", CostSaid: true, Costs: map[string]int64{"tokens": 1}}, &d))
	check(&headgatev1.SettleRequest{Ticket: "t"}, c.Settle(t.Context(), &gate.Claim{Ticket: "t", Cost: 5}, &d))
	check(&headgatev1.RenewRequest{Ticket: "t", TtlMs: 1000}, c.Renew(t.Context(), &gate.Claim{Ticket: "t", TTL: time.Second}, &d))
	check(&headgatev1.ReleaseRequest{Ticket: "t", Application: "a"}, c.Release(t.Context(), &gate.Claim{Ticket: "t", Application: "a"}, &d))
	if !d.Held {
		t.Error("not held")
	}
	check(&headgatev1.ThrottleRequest{Key: "k", Count: 5, PeriodUs: 1500, Burst: 9, Cost: new(int64(0)), Peek: true},
		c.Throttle(t.Context(), &gate.Throttle{Key: "k", Count: 5, Period: 1500 * time.Microsecond, Burst: 9, Peek: true}, &d))
	failed, err := c.TakeAll(t.Context(), []*gate.Request{{Subject: "x"}, {Subject: "y"}}, []*gate.Decision{&d, new(gate.Decision)})
	check(&headgatev1.TakeBatchRequest{Atomic: true, Items: []*headgatev1.TakeRequest{{Subject: "x", NoRelease: true}, {Subject: "y", NoRelease: true}}}, err)
	if failed != -1 || d.Subject != "x" {
		t.Errorf("failed %d, %+v", failed, d.Decision)
	}
}

// TestNotAsked: what the server would not understand is an error here.
func TestNotAsked(t *testing.T) {
	c, f := start(t)
	var d gate.Decision
	for name, err := range map[string]error{
		"ttl_ms: 500µs: must be 1 ms to 24h0m0s":                   c.Reserve(t.Context(), &gate.Request{}, 500*time.Microsecond, &d),
		"ttl_ms: -1s: must be 1 ms to 24h0m0s":                     c.Renew(t.Context(), &gate.Claim{TTL: -time.Second}, &d),
		"rate: period 1ns: must be whole microseconds":             c.Throttle(t.Context(), &gate.Throttle{Period: 1}, &d),
		"descriptor: a limit that the caller says crosses no wire": c.Take(t.Context(), &gate.Request{Said: &gate.SaidLimit{}}, &d),
	} {
		if headgate.CodeOf(err) != headgate.InvalidRequest || err.Error() != name {
			t.Errorf("%v, want %s", err, name)
		}
	}
	if len(f.asked) != 0 {
		t.Errorf("asked %v", f.asked)
	}
	if err := c.Explain(t.Context(), &gate.Request{Subject: "half"}, &d, new(gate.Explanation)); headgate.CodeOf(err) != headgate.Unavailable {
		t.Errorf("half an answer: %v", err)
	}
}

func TestTakeAll(t *testing.T) {
	c, _ := start(t)
	for _, tt := range []struct {
		subjects string
		failed   int
		field    string
		code     headgate.Code
	}{
		{"x,bad", 1, "cost", headgate.InvalidRequest},
		{"x,odd", -1, "items.9.cost", headgate.InvalidRequest},
		{"x,short", -1, "", headgate.Unavailable},
		{"x,problem", -1, "", headgate.Unavailable},
		{strings.Repeat(",", gate.MaxAtomic), -1, "items", headgate.InvalidRequest},
	} {
		var rs []*gate.Request
		var ds []*gate.Decision
		for s := range strings.SplitSeq(tt.subjects, ",") {
			rs, ds = append(rs, &gate.Request{Subject: s}), append(ds, new(gate.Decision))
		}
		failed, err := c.TakeAll(t.Context(), rs, ds)
		e, _ := err.(*headgate.Error)
		if failed != tt.failed || e == nil || e.Code != tt.code || e.Field != tt.field || ds[0].Allowed || ds[0].Subject != "" {
			t.Errorf("%s: %d, %v", tt.subjects, failed, err)
		}
	}
	failed, err := c.TakeAll(t.Context(), []*gate.Request{{}, {Releases: true}}, make([]*gate.Decision, 2))
	if failed != 1 || err == nil || err.Error() != "items: requests of an atomic batch get no tickets" {
		t.Errorf("%d, %v", failed, err)
	}
}

// TestStrangeAnswers: what no server of ours says leads to no panic.
func TestStrangeAnswers(t *testing.T) {
	m := &headgatev1.Decision{
		DecisionId: "xyz", Reason: -5, BoundBy: "nothing", RetryAfterUs: 1 << 62, ResetAfterUs: -1 << 62, Timezone: "../../etc/passwd",
		SubjectFrom: 1 << 20, Headers: []headgatev1.HeaderStyle{99}, Limits: []*headgatev1.LimitState{nil, {}, {Numbers: &headgatev1.LimitNumbers{Count: -1}}},
		Candidate: &headgatev1.Candidate{BoundBy: "x"},
	}
	m.Limits = m.Limits[1:]
	var a answer
	var d gate.Decision
	d.Receive(a.read(m))
	if d.Allowed || d.ID != [2]uint64{} || d.Reason != 255 || d.BoundBy != -1 || d.RetryAfter <= 0 || d.ResetAfter >= 0 || d.Zone != nil || len(d.Limits()) != 2 {
		t.Errorf("%+v", d.Decision)
	}
	for i := range 3 * maxZones {
		zone("Nowhere/" + strings.Repeat("x", i))
	}
	if len(zones.loaded) > maxZones {
		t.Errorf("%d zones are kept", len(zones.loaded))
	}
}
