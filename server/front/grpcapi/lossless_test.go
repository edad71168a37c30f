package grpcapi

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/store/memstore"
)

// untold are fields of a decision that do not leave the server.
var untold = []string{"Kept", "Label", "Metadata", "Replaced"}

// same checks that got says all that want does.
func same(t *testing.T, got, want *gate.Decision) {
	t.Helper()
	g, w := reflect.ValueOf(got).Elem(), reflect.ValueOf(want).Elem()
	for i := range g.NumField() {
		f := g.Type().Field(i)
		if f.IsExported() && !slices.Contains(untold, f.Name) && fmt.Sprint(g.Field(i)) != fmt.Sprint(w.Field(i)) {
			t.Errorf("%s: got %v, want %v", f.Name, g.Field(i), w.Field(i))
		}
	}
	if !got.At().Equal(want.At()) || got.BoundByID() != want.BoundByID() || string(got.AppendTicket(nil)) != string(want.AppendTicket(nil)) {
		t.Errorf("at %v, bound by %q, ticket %q; want %v, %q, %q",
			got.At(), got.BoundByID(), got.AppendTicket(nil), want.At(), want.BoundByID(), want.AppendTicket(nil))
	}
	if !slices.Equal(got.Costs(), want.Costs()) {
		t.Errorf("costs %v, want %v", got.Costs(), want.Costs())
	}
	sameLimits(t, got.Limits(), want.Limits())
	sum, tried, ok := got.Candidate()
	wantSum, wantTried, wantOK := want.Candidate()
	if ok != wantOK || sum != wantSum {
		t.Errorf("candidate %+v, %t; want %+v, %t", sum, ok, wantSum, wantOK)
	}
	sameLimits(t, tried, wantTried)
}

func sameLimits(t *testing.T, got, want []gate.LimitState) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d limits, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if !sameNumbers(g.Limit, w.Limit) || !sameNumbers(g.Share, w.Share) {
			t.Errorf("limit %s: numbers %+v, share %+v; want %+v, %+v", w.ID, g.Limit, g.Share, w.Limit, w.Share)
		}
		if g.Rollover() != w.Rollover() {
			t.Errorf("limit %s: %d rolled over, want %d", w.ID, g.Rollover(), w.Rollover())
		}
		g.Limit, g.Share, g.Override, w.Limit, w.Share, w.Override = nil, nil, nil, nil, nil, nil
		for f := range reflect.TypeFor[gate.LimitState]().NumField() {
			name := reflect.TypeFor[gate.LimitState]().Field(f)
			gv, wv := reflect.ValueOf(g).Field(f), reflect.ValueOf(w).Field(f)
			if name.IsExported() && fmt.Sprint(gv) != fmt.Sprint(wv) {
				t.Errorf("limit %s: %s %v, want %v", w.ID, name.Name, gv, wv)
			}
		}
	}
}

func sameNumbers(got, want *headgate.Prepared) bool {
	if got == nil || want == nil {
		return got == want
	}
	return got.SameNumbers(want) && got.Name == want.Name && got.Period == want.Period && got.Burst == want.Burst && got.Slices == want.Slices
}

// saying is a gate whose decisions are an answer.
type saying struct {
	fakeGate
	answer *gate.Answer
}

func (s *saying) Take(_ context.Context, _ *gate.Request, d *gate.Decision) error {
	d.Receive(s.answer)
	return nil
}

// fill gives every field below v a value that is not zero.
func fill(t *testing.T, v reflect.Value, n *int64) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
		if v.Type() == reflect.TypeFor[time.Duration]() {
			v.SetInt(*n * int64(time.Microsecond))
		}
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.String:
		v.SetString("s" + strings.Repeat("x", int(*n)))
	case reflect.Array, reflect.Slice:
		if v.Kind() == reflect.Slice {
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		}
		for i := range v.Len() {
			fill(t, v.Index(i), n)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(t, v.Field(i), n)
			}
		}
	}
}

// full is an answer in which everything says something, with limits of all kinds.
func full(t *testing.T) *gate.Answer {
	t.Helper()
	kathmandu, err := time.LoadLocation("Asia/Kathmandu")
	if err != nil {
		t.Fatal(err)
	}
	limits := []headgate.Limit{
		headgate.PerHour(100).WithBurst(7), {Algorithm: headgate.LeakyBucket, Count: 3, Period: time.Second},
		headgate.Window(5, time.Minute), headgate.Sliding(6, time.Minute).WithSlices(12), headgate.Log(7, time.Hour),
		{Algorithm: headgate.Quota, Count: 9, Calendar: headgate.Calendar{Unit: headgate.Month, Location: kathmandu, Anchor: 31}, Soft: true, Rollover: 4},
		headgate.InFlight(3, time.Minute), {Algorithm: headgate.Ban, Count: 3, Period: time.Minute, TTL: time.Hour},
	}
	a, n := new(gate.Answer), int64(0)
	fill(t, reflect.ValueOf(a).Elem(), &n)
	a.Zone, a.At, a.Headers, a.BoundBy = kathmandu, gatetest.Start, policy.HeadersIETF|policy.HeadersXEpoch, 1
	some := func() (list []gate.AnsweredLimit) {
		for i, l := range limits {
			var one gate.AnsweredLimit
			fill(t, reflect.ValueOf(&one).Elem(), &n)
			one.State.ID = fmt.Sprintf("rule/%d", i)
			part := l.WithName("n")
			part.Count++
			one.Numbers, one.Part = l.WithName("n"), &part
			list = append(list, one)
		}
		return list
	}
	a.Limits, a.Candidate = some(), new(gate.AnsweredCandidate)
	fill(t, reflect.ValueOf(&a.Candidate.Sum).Elem(), &n)
	a.Candidate.Limits, a.Candidate.Sum.BoundBy = some(), 2
	return a
}

// TestNothingIsLost: whatever a decision says, it says behind a client too, also when
// a fuller one was there before.
func TestNothingIsLost(t *testing.T) {
	g := &saying{}
	c := newClient(t, listen(t, New(Config{Gate: g})), client.Options{Timeout: 10 * time.Second})
	empty := new(gate.Answer)
	empty.BoundBy = -1
	var got, want gate.Decision
	for _, a := range []*gate.Answer{full(t), empty, full(t)} {
		g.answer = a
		want.Receive(a)
		if err := c.Take(t.Context(), &gate.Request{}, &got); err != nil {
			t.Fatal(err)
		}
		same(t, &got, &want)
	}
}

// recording keeps the last decision.
type recording struct {
	*gate.Gate
	last gate.Decision
}

func (r *recording) Take(ctx context.Context, q *gate.Request, d *gate.Decision) error {
	err := r.Gate.Take(ctx, q, d)
	r.last = *d
	return err
}

const richPolicy = `
version: 1
plans:
  free:
    limits:
      - {name: daily, algorithm: quota, rate: 6/day, timezone: Asia/Kathmandu, rollover: {max: 2}}
      - {name: soft, algorithm: quota, rate: 2/month, anchor: 31, soft: true}
applications:
  a:
    default_plan: free
    headers: [ietf, x-epoch]
    retry_jitter: 10%
    identity: [ip]
    limits: [{name: all, rate: 1000/s, per: application}]
    rules:
      - name: o
        match: {operation: o}
        cost: {GET: 1, POST: 2}
        message: "Not now"
        limits:
          - {name: burst, rate: 4/h, burst: 4}
          - {name: tokens, unit: tokens, algorithm: sliding_window, rate: 100/min}
          - {name: inflight, algorithm: concurrency, max: 20, ttl: 30s}
          - {name: leaky, algorithm: leaky_bucket, rate: 1000/s}
          - {name: tried, rate: 1/h, mode: shadow}
        ban: {after: 8, within: 1m, for: 15m}
        candidate: {limits: [{name: c, rate: 1/h}]}
subjects:
  a/alice: {timezone: Europe/Paris, overrides: [{limit: o/burst, rate: 3/h}]}
`

// TestRealDecisions: and so do the decisions of a gate, from the first to a ban.
func TestRealDecisions(t *testing.T) {
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(richPolicy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
	if err != nil {
		t.Fatal(err)
	}
	r := &recording{Gate: g}
	c := newClient(t, listen(t, New(Config{Gate: r})), client.Options{Timeout: 10 * time.Second})
	seen := make(map[headgate.Reason]bool)
	var d gate.Decision
	for i := range 60 {
		q := gate.Request{
			Application: "a", Operation: "o", Subject: "alice", Method: "POST", Costs: map[string]int64{"tokens": int64(i)}, Releases: true,
			CostSaid: i%3 == 0, Cost: int64(i % 4),
		}
		if i%2 == 0 {
			q.Subject, q.IP = "", netip.MustParseAddr("203.0.113.9")
		}
		if i%5 == 4 {
			q.Operation = "other"
		}
		if err := c.Take(t.Context(), &q, &d); err != nil {
			t.Fatal(err)
		}
		same(t, &d, &r.last)
		seen[d.Reason] = true
	}
	for _, want := range []headgate.Reason{headgate.OK, headgate.RateLimited, headgate.QuotaExceeded, headgate.Banned} {
		if !seen[want] {
			t.Errorf("no decision was %v: %v", want, seen)
		}
	}
}

// TestNames: the numbers of the API are those of the library, and their names those
// of the JSON API.
func TestNames(t *testing.T) {
	name := func(s, prefix string) string { return strings.ToLower(strings.TrimPrefix(s, prefix)) }
	if n := len(headgatev1.Reason_name); n != headgate.Reasons {
		t.Errorf("%d reasons, want %d", n, headgate.Reasons)
	}
	for r := range headgate.Reasons {
		if got := reason(headgatev1.Reason(r)); got != headgate.Reason(r).String() {
			t.Errorf("reason %d is %s, want %s", r, got, headgate.Reason(r))
		}
	}
	if n := len(headgatev1.Algorithm_name); n != int(headgate.Idempotency)+2 {
		t.Errorf("%d algorithms", n)
	}
	for a := range headgate.Idempotency + 1 {
		if got := name(algorithm(a).String(), "ALGORITHM_"); got != a.String() {
			t.Errorf("algorithm %d is %s, want %s", a, got, a)
		}
	}
	for u := headgate.Hour; u <= headgate.Year; u++ {
		if got := name(headgatev1.CalendarUnit(u).String(), "CALENDAR_UNIT_"); got != u.String() {
			t.Errorf("unit %d is %s, want %s", u, got, u)
		}
	}
}
