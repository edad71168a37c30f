package gate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

var update = flag.Bool("update", false, "write the golden files")

// explained is one line of a golden file: requests to take, or the one, the
// last, to explain.
type explained struct {
	At                        string // after the origin
	Take                      int    // how often to take it; 0 is to explain it
	App, Op, Subject, Plan    string
	Cost                      *int64
	Costs                     map[string]int64
	Method, Path, IP          string
	Headers, Attributes       map[string]string
	MaxWait, WaitCap, OwnTime string

	Mode *struct { // to set instead of a request
		App, Rule string
		Shadow    bool
		For       string
	}
	// Store is away, full or crowded from here on; alone is away, and Local decides
	// by memory of its own; unmet is away, and it does not.
	Store string
}

// stoppedStore decides at the instant that its test says.
type stoppedStore struct {
	headgate.Store
	now int64
	err error

	crowded bool // as if no key had room of its own
}

func (s *stoppedStore) Now() int64 { return s.now }

func (s *stoppedStore) Apply(ctx context.Context, b *headgate.Batch) error {
	if s.err != nil {
		return s.err
	}
	b.Now = s.now
	err := s.Store.Apply(ctx, b)
	for i, c := range b.Charges() {
		b.Outcomes()[i].Shared = s.crowded && c.Limit.Algorithm != headgate.Ban
	}
	return err
}

func after(t testing.TB, s string) time.Duration {
	t.Helper()
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (l *explained) request(t testing.TB) *gate.Request {
	t.Helper()
	r := &gate.Request{
		Application: l.App, Operation: l.Op, Subject: l.Subject, Plan: l.Plan, Costs: l.Costs, Method: l.Method, Path: l.Path,
		Attributes: l.Attributes, Releases: true, MaxWaitSaid: l.MaxWait != "", MaxWait: after(t, l.MaxWait), WaitCap: after(t, l.WaitCap),
	}
	if l.Cost != nil {
		r.Cost, r.CostSaid = *l.Cost, true
	}
	if l.IP != "" {
		r.IP = netip.MustParseAddr(l.IP)
	}
	if l.OwnTime != "" {
		r.Now = origin + after(t, l.OwnTime).Microseconds()
	}
	for name, value := range l.Headers {
		if r.Headers == nil {
			r.Headers = make(http.Header)
		}
		r.Headers.Set(name, value)
	}
	return r
}

// scene plays a golden file and returns the gate, and the request to explain.
func scene(t testing.TB, input string) (*gate.Gate, *gate.Request) {
	t.Helper()
	policy, lines, ok := strings.Cut(input, "\n-- requests --\n")
	if !ok {
		t.Fatal("no requests")
	}
	memory := memstore.Config{Origin: origin}
	store, local := &stoppedStore{Store: memstore.New(memory), now: origin}, &stoppedStore{Store: memstore.New(memory), now: origin}
	c := gate.Config{Policy: []byte(policy), Store: store}
	if strings.Contains(lines, `"alone"`) || strings.Contains(lines, `"unmet"`) {
		c.Local = local
	}
	g, err := gate.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	away := &headgate.Error{Code: headgate.Unavailable, Err: errors.New("connection refused")}
	decoder := json.NewDecoder(strings.NewReader(lines))
	decoder.DisallowUnknownFields()
	for {
		var l explained
		if err := decoder.Decode(&l); err == io.EOF {
			t.Fatal("nothing to explain")
		} else if err != nil {
			t.Fatal(err)
		}
		if l.At != "" {
			store.now = origin + after(t, l.At).Microseconds()
			local.now = store.now
		}
		switch l.Store {
		case "away", "alone":
			store.err = away
		case "unmet":
			store.err, local.err = away, away
		case "back":
			store.err = nil
		case "full":
			store.err = &headgate.Error{Code: headgate.Overloaded, Err: errors.New("no room")}
		case "crowded":
			store.crowded = true
		}
		if m := l.Mode; m != nil {
			until := time.UnixMicro(store.now).Add(after(t, m.For))
			if err := g.SetMode(gate.Mode{Application: m.App, Rule: m.Rule, Shadow: m.Shadow, Until: until}); err != nil {
				t.Fatal(err)
			}
		}
		if l.App == "" {
			continue
		}
		r := l.request(t)
		if l.Take == 0 {
			return g, r
		}
		for range l.Take {
			var d gate.Decision
			if err := g.Take(t.Context(), r, &d); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func readable(e *gate.Explanation) string {
	var b strings.Builder
	fmt.Fprintln(&b, e.Verdict)
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "%s: %s\n", s.About, s.Text)
	}
	return b.String()
}

// checkText fails for text that could forge a log or confuse a terminal.
func checkText(t *testing.T, e *gate.Explanation) {
	t.Helper()
	texts := []string{e.Verdict}
	for _, s := range e.Steps {
		texts = append(texts, s.About, s.Text)
	}
	for _, s := range texts {
		if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("not plain text: %q", s)
		}
	}
}

// exported returns what others can see of a decision, but for its ID.
func exported(d *gate.Decision) map[string]any {
	fields := make(map[string]any)
	v := reflect.ValueOf(d).Elem()
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() && f.Name != "ID" {
			fields[f.Name] = v.Field(i).Interface()
		}
	}
	fields["limits"] = append([]gate.LimitState{}, d.Limits()...)
	fields["costs"] = append([]gate.UnitCost{}, d.Costs()...)
	fields["bound"] = d.BoundByID()
	fields["ticket"] = d.HasTicket()
	sum, limits, ok := d.Candidate()
	fields["candidate"] = []any{sum, append([]gate.LimitState{}, limits...), ok}
	return fields
}

const explanationMark = "\n-- explanation --\n"

// TestExplain reads testdata/explain: each file holds a policy, requests of
// which the last is explained, and the explanation.
func TestExplain(t *testing.T) {
	files, err := filepath.Glob("testdata/explain/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	seen := make(map[any]bool)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(raw), explanationMark)
			g, r := scene(t, input)
			var d gate.Decision
			var e gate.Explanation
			if err := g.Explain(t.Context(), r, &d, &e); err != nil {
				t.Fatal(err)
			}
			checkText(t, &e)
			got := readable(&e)
			if *update {
				if err := os.WriteFile(file, []byte(input+explanationMark+got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if strings.Contains(strings.ToLower(got), "bob") {
				t.Error("names bob, whose request it is not")
			}
			if prefix := map[bool]string{true: "Allowed", false: "Refused"}[d.Allowed]; !strings.HasPrefix(e.Verdict, prefix) {
				t.Errorf("the verdict %q contradicts the decision", e.Verdict)
			}
			if !d.Allowed && d.Retryable == strings.Contains(e.Verdict, "for good") {
				t.Errorf("retryable %v contradicts %q", d.Retryable, e.Verdict)
			}
			for _, v := range []any{d.Reason, d.SubjectFrom, d.PlanFrom, d.CostFrom} {
				seen[v] = true
			}
			for _, s := range d.Limits() {
				seen[s.ShadowBy], seen[s.Numbers], seen[s.Limit.Algorithm] = true, true, true
				if !s.Allowed && !strings.Contains(got, s.ID) {
					t.Errorf("does not name %s, which refuses", s.ID)
				}
			}
			explainLikePeek(t, g, r, &e)
		})
	}
	for reason := headgate.OK; int(reason) < headgate.Reasons; reason++ {
		// The first is what only a Take in line gets, the second an atomic batch.
		if reason != headgate.WaitTimeout && reason != headgate.BatchRefused && !seen[reason] {
			t.Errorf("no case has the reason %v", reason)
		}
	}
	for v := gate.NoSubject; v <= gate.SubjectAttribute; v++ {
		if !seen[v] {
			t.Errorf("no case has the subject's source %d", v)
		}
	}
	for v := gate.NoPlan; v <= gate.PlanDefault; v++ {
		if !seen[v] {
			t.Errorf("no case has the plan's source %d", v)
		}
	}
	for v := gate.CostOfRule; v <= gate.CostOfExpression; v++ {
		if !seen[v] {
			t.Errorf("no case has the cost's source %d", v)
		}
	}
	for v := gate.NotShadow; v <= gate.ShadowByOperator; v++ {
		if !seen[v] {
			t.Errorf("no case has the cause of shadow %d", v)
		}
	}
	for v := gate.NumbersOfLimit; v <= gate.NumbersOfOverride; v++ {
		if !seen[v] {
			t.Errorf("no case has the numbers' source %d", v)
		}
	}
	for v := headgate.TokenBucket; v <= headgate.Ban; v++ {
		if !seen[v] {
			t.Errorf("no case has the algorithm %v", v)
		}
	}
}

// explainLikePeek fails unless explaining again charges nothing, says the same,
// and decides as Peek does.
func explainLikePeek(t *testing.T, g *gate.Gate, r *gate.Request, first *gate.Explanation) {
	t.Helper()
	var d, before, later gate.Decision
	var again gate.Explanation
	if err := g.Peek(t.Context(), r, &before); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := g.Explain(t.Context(), r, &d, &again); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Peek(t.Context(), r, &later); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(exported(&d), exported(&before)) {
		t.Errorf("explained\n%+v\npeeked\n%+v", exported(&d), exported(&before))
	}
	if !reflect.DeepEqual(exported(&later), exported(&before)) {
		t.Errorf("after\n%+v\nbefore\n%+v", exported(&later), exported(&before))
	}
	if readable(first) != readable(&again) {
		t.Errorf("first\n%s\nthen\n%s", readable(first), readable(&again))
	}
}

func TestExplainErrors(t *testing.T) {
	g := open(t, threeLimits)
	e := gate.Explanation{Verdict: "old", Steps: []gate.Step{{About: "old", Text: "old"}}}
	for _, r := range []*gate.Request{
		{},
		{Application: "nobody", Operation: "x"},
		{Application: "email"},
		{Application: "email", Operation: "sendEmail"},
		{Application: "email", Operation: "sendEmail", Subject: "a\nb"},
		{Application: "email", Operation: "sendEmail", Subject: "a", Cost: -1, CostSaid: true},
	} {
		var d gate.Decision
		want := g.Peek(t.Context(), r, &d)
		err := g.Explain(t.Context(), r, &d, &e)
		if want == nil || err == nil || err.Error() != want.Error() || headgate.CodeOf(err) != headgate.CodeOf(want) {
			t.Errorf("%+v: %v, want %v", r, err, want)
		}
		if e.Verdict != "" || len(e.Steps) != 0 {
			t.Errorf("%+v: an error was explained: %+v", r, e)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	var d gate.Decision
	if err := g.Explain(t.Context(), &gate.Request{Application: "email", Operation: "x", Subject: "a"}, &d, &e); headgate.CodeOf(err) != headgate.Closed {
		t.Errorf("closed gate: %v", err)
	}
}

// FuzzExplain: no request makes Explain panic, emit what could forge a line, or
// fail where Peek does not.
func FuzzExplain(f *testing.F) {
	policy, err := os.ReadFile("testdata/explain/fuzz.yaml")
	if err != nil {
		f.Fatal(err)
	}
	store := &stoppedStore{Store: memstore.New(memstore.Config{Origin: origin}), now: origin}
	local := &stoppedStore{Store: memstore.New(memstore.Config{Origin: origin}), now: origin}
	g, err := gate.Open(f.Context(), gate.Config{Policy: policy, Store: store, Local: local})
	if err != nil {
		f.Fatal(err)
	}
	away := errors.New("away\r\n")
	f.Add("web", "send", "alice", "free", "GET", "/api/x", "acme", "10.0.0.1", int64(1), int64(0), false)
	f.Add("web", "send\x1b[2J", "al\u202eice", "no\tplan", "GE\nT", "/api/%41?x=\x00", "a\u2028b\xff", "fe80::1%\x1b]0;x", int64(1<<40), int64(3), false)
	f.Add("web", "", "", "", "HEAD", "/api/y", "", "2001:db8::1", int64(0), int64(-1), true)
	f.Add("other", strings.Repeat("x", 3000), strings.Repeat("y", 512), strings.Repeat("z", 700), "", "", "", "", int64(5), int64(9), false)
	f.Fuzz(func(t *testing.T, app, operation, subject, plan, method, path, value, ip string, cost, tokens int64, down bool) {
		r := &gate.Request{
			Application: app, Operation: operation, Subject: subject, Plan: plan, Method: method, Path: path, Cost: cost, CostSaid: cost != 1,
			Attributes: map[string]string{"org": value}, Headers: http.Header{"X-Api-Key": {value}, "Cookie": {"session=" + value}}, Releases: true,
		}
		if tokens != 0 {
			r.Costs = map[string]int64{"tokens": tokens}
		}
		r.IP, _ = netip.ParseAddr(ip)
		store.err = nil
		if down {
			store.err = away
		}
		var d, peeked gate.Decision
		var e gate.Explanation
		err, want := g.Explain(t.Context(), r, &d, &e), g.Peek(t.Context(), r, &peeked)
		if (err == nil) != (want == nil) {
			t.Fatalf("%v, Peek %v", err, want)
		}
		if err != nil {
			return
		}
		checkText(t, &e)
		if !reflect.DeepEqual(exported(&d), exported(&peeked)) {
			t.Errorf("explained %+v, peeked %+v", exported(&d), exported(&peeked))
		}
		if !bytes.HasPrefix([]byte(e.Verdict), []byte(map[bool]string{true: "Allowed", false: "Refused"}[d.Allowed])) {
			t.Errorf("the verdict %q contradicts %+v", e.Verdict, d.Decision)
		}
		if err := g.Take(t.Context(), r, &d); err != nil && headgate.CodeOf(err) != headgate.InvalidRequest {
			t.Fatal(err)
		}
	})
}
