package resp

import (
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
)

// clone is r with maps and strings of its own: those of the door are gone after the
// call.
func clone(r *gate.Request) gate.Request {
	q := *r
	for _, s := range []*string{&q.Application, &q.Operation, &q.Subject, &q.Plan, &q.IdempotencyKey, &q.Method, &q.Path, &q.Host} {
		*s = strings.Clone(*s)
	}
	q.Costs, q.Headers = nil, r.Headers.Clone()
	if r.Costs != nil {
		q.Costs = maps.Collect(func(yield func(string, int64) bool) {
			for k, v := range r.Costs {
				yield(strings.Clone(k), v)
			}
		})
	}
	if r.Attributes != nil {
		q.Attributes = make(map[string]string)
		for k, v := range r.Attributes {
			q.Attributes[strings.Clone(k)] = strings.Clone(v)
		}
	}
	return q
}

// TestAsked: everything that a command says reaches the gate, and nothing of the one
// before it.
func TestAsked(t *testing.T) {
	f := new(fakeGate)
	var got gate.Request
	f.seen = func(r *gate.Request) { got = clone(r) }
	_, address := start(t, Config{Gate: f, Now: func() int64 { return 77 }})
	p := dial(t, "tcp", address)
	all := strings.Split("a|o|s|COST|5|COSTS|tokens|3|costs|bytes|0|PLAN|p|ID|k|WAIT|250|ATTR|org|acme|attr|COST|9|METHOD|POST|PATH|/x?y|HOST|h|IP|::ffff:203.0.113.9|HEADER|x-a|1|HEADER|X-A|2", "|")
	want := gate.Request{
		Application: "a", Operation: "o", Subject: "s", Cost: 5, CostSaid: true, Costs: map[string]int64{"tokens": 3, "bytes": 0}, Plan: "p",
		IdempotencyKey: "k", MaxWait: 250 * time.Millisecond, MaxWaitSaid: true, Attributes: map[string]string{"org": "acme", "COST": "9"},
		Method: "POST", Path: "/x?y", Host: "h", IP: netip.MustParseAddr("203.0.113.9"), Headers: http.Header{"X-A": {"1", "2"}}, Releases: true,
	}
	bare := gate.Request{Application: "a", Operation: "", Subject: "", Releases: true}
	for _, name := range []string{"HG.TAKE", "HG.PEEK", "HG.RESERVE"} {
		want, bare := want, bare
		if name == "HG.PEEK" {
			want.Now, bare.Now = 77, 77
		}
		p.do(append([]string{name}, all...)...)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: asked %+v\nwant %+v", name, got, want)
		}
		p.do(name, "a", "", "")
		if !reflect.DeepEqual(got, bare) {
			t.Errorf("%s: asked %+v\nwant %+v", name, got, bare)
		}
	}
	p.do("HG.RESERVE", "a", "o", "s", "TTL", "86400000")
	if f.ttl != 24*time.Hour {
		t.Errorf("held for %v", f.ttl)
	}
	for _, tt := range []struct {
		args []string
		want gate.Claim
		held int64
	}{
		{[]string{"HG.SETTLE", "open", "COST", "0", "COSTS", "tokens", "9", "APPLICATION", "a"}, gate.Claim{Application: "a", Ticket: "open", CostSaid: true, Now: 77}, 1},
		{[]string{"HG.SETTLE", "over"}, gate.Claim{Ticket: "over", Now: 77}, 0},
		{[]string{"HG.RENEW", "open", "TTL", "1"}, gate.Claim{Ticket: "open", TTL: time.Millisecond, Now: 77}, 1},
		{[]string{"HG.RELEASE", "open"}, gate.Claim{Ticket: "open", Now: 77}, 1},
	} {
		m, err := fields(p.do(tt.args...))
		f.claim.Costs = nil // empty by now
		if err != nil || m["held"] != tt.held || !reflect.DeepEqual(f.claim, tt.want) {
			t.Errorf("%v: %v %v: asked %+v", tt.args, m, err, f.claim)
		}
	}
}

// TestReply: the bytes of a decision, in both versions.
func TestReply(t *testing.T) {
	s := New(Config{Gate: new(fakeGate)})
	entries := "$7\r\nallowed\r\n:1\r\n$11\r\ndecision_id\r\n$32\r\n0123456789abcdef000000000000000f\r\n$6\r\nreason\r\n$2\r\nok\r\n$8\r\nbound_by\r\nNULL$9\r\nretryable\r\n:1\r\n" +
		"$11\r\napplication\r\n$1\r\na\r\n$4\r\nrule\r\n$0\r\n\r\n$9\r\noperation\r\n$1\r\no\r\n$7\r\nsubject\r\n$2\r\né\r\n$4\r\nplan\r\n$0\r\n\r\n$4\r\ncost\r\n:12345\r\n" +
		"$5\r\ncosts\r\nEMPTY$5\r\nlimit\r\nNULL$9\r\nremaining\r\nNULL$14\r\nretry_after_ms\r\nNULL$14\r\nreset_after_ms\r\nNULL$6\r\nlimits\r\n*0\r\n$4\r\nmode\r\n$7\r\nenforce\r\n" +
		"$10\r\nwould_deny\r\nNULL$9\r\ncandidate\r\nNULL$8\r\ndegraded\r\nNULL$8\r\nreplayed\r\n:0\r\n$9\r\nwaited_ms\r\n:0\r\n$6\r\nticket\r\nNULL$15\r\npolicy_revision\r\n:7\r\n"
	take := wire("HG.TAKE", "a", "o", "é", "COST", "12345")
	if got, want := talk(t, s, []byte(take)), "*50\r\n"+strings.NewReplacer("NULL", "$-1\r\n", "EMPTY", "*0\r\n").Replace(entries); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	_, got, _ := strings.Cut(talk(t, s, []byte("HELLO 3\r\n"+take)), "modules\r\n*0\r\n")
	if want := "%25\r\n" + strings.NewReplacer("NULL", "_\r\n", "EMPTY", "%0\r\n").Replace(entries); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestBrief: a brief reply is that without BRIEF, but for limits.
func TestBrief(t *testing.T) {
	_, address := start(t, Config{Gate: new(fakeGate)})
	g, _ := realGate(t, threePolicy)
	_, real := start(t, Config{Gate: g})
	for _, version := range []string{"2", "3"} {
		p := dial(t, "tcp", address)
		p.do("HELLO", version)
		for _, args := range [][]string{
			{"HG.TAKE", "a", "o", "s", "COST", "5"}, {"HG.PEEK", "a", "o", "s"}, {"HG.RESERVE", "a", "o", "s", "TTL", "1000"},
			{"HG.SETTLE", "open", "COST", "1"}, {"HG.RENEW", "open", "TTL", "1000", "APPLICATION", "a"}, {"HG.RELEASE", "open", "APPLICATION", "a"},
		} {
			short, err := fields(p.do(append(args, "brief")...))
			if err != nil {
				t.Fatalf("%q: %v", args, err)
			}
			whole, err := fields(p.do(args...)) // and the next one is whole again
			if _, is := whole["limits"]; err != nil || !is {
				t.Fatalf("%q: %v, %v", args, whole, err)
			}
			delete(whole, "limits")
			if !reflect.DeepEqual(short, whole) {
				t.Errorf("%q:\n%v, want\n%v", args, short, whole)
			}
		}
		p = dial(t, "tcp", real)
		p.do("HELLO", version)
		m, err := fields(p.do("HG.TAKE", "a", "three", "s", "BRIEF", "COST", "2"))
		if _, is := m["limits"]; err != nil || is || m["allowed"] != int64(1) || m["cost"] != int64(2) || m["limit"] != int64(1000000) {
			t.Errorf("%v, %v", m, err)
		}
		equal(t, p.do("HG.TAKE", "a", "three", "s", "BRIEF", "COST", "2", "brief"), refusal("ERR brief is given twice"))
	}
}

// TestMessage: what a rule has to say is told to who is refused, and to nobody else.
func TestMessage(t *testing.T) {
	g, _ := realGate(t, `{version: 1, applications: {a: {rules: [{name: o, match: {operation: o}, limits: [{name: one, rate: 1/h}], message: "Slow down"}]}}}`)
	_, address := start(t, Config{Gate: g})
	for _, version := range []string{"2", "3"} {
		p := dial(t, "tcp", address)
		p.do("HELLO", version)
		for i, want := range []any{nil, "Slow down"} {
			m, err := fields(p.do("HG.TAKE", "a", "o", "s"+version))
			if err != nil || m["message"] != want || m["allowed"] != int64(1-i) {
				t.Errorf("RESP%s, request %d: %v, %v", version, i, m, err)
			}
		}
	}
}

func TestTakeFaults(t *testing.T) {
	g, _ := realGate(t, testPolicy)
	_, address := start(t, Config{Gate: g})
	p := dial(t, "tcp", address)
	for _, tt := range []struct{ want, args string }{
		{"ERR wrong number of arguments for 'hg.take' command: HG.TAKE application operation subject " + takeOptions, "a o"},
		{`NOTFOUND application: "x" is not in the policy`, "x o s"},
		{`ERR "COSTLY": unknown option`, "a o s COSTLY 1"},
		{`ERR "a\nb": unknown option`, "a o s a\nb 1"},
		{`ERR "TTL": unknown option`, "a o s TTL 1"},
		{`ERR "": unknown option`, "a o s  1"},
		{"ERR COST: its value is missing", "a o s COST"},
		{"ERR ATTR: its value is missing", "a o s ATTR k"},
		{"ERR cost is given twice", "a o s COST 1 cost 1"},
		{`ERR cost: "-1": must be a whole number from 0 to 9007199254740991`, "a o s COST -1"},
		{`ERR cost: "1.5": must be a whole number from 0 to 9007199254740991`, "a o s COST 1.5"},
		{`ERR cost: "9007199254740992": must be a whole number from 0 to 9007199254740991`, "a o s COST 9007199254740992"},
		{`ERR costs.t: "x": must be a whole number from 0 to 9007199254740991`, "a o s COSTS t x"},
		{"ERR costs.t: given twice", "a o s COSTS t 1 COSTS t 2"},
		{"ERR costs: more than 16 units", "a o s" + strings.Repeat(" COSTS uN 1", 17)},
		{"ERR attributes.k: given twice", "a o s ATTR k 1 ATTR k 2"},
		{`ERR max_wait_ms: "x": must be a whole number from 0 to 9007199254740991`, "a o s WAIT x"},
		{"ERR max_wait_ms: 300001: must be 0 to 300000, which is 5m0s", "a o s WAIT 300001"},
		{`ERR request.ip: "1.2.3.4:5": must be an IPv4 or IPv6 address, without port or zone`, "a o s IP 1.2.3.4:5"},
		{"ERR argument 3 is not UTF-8", "a o \xff"},
		{"ERR subject: has a line break or NUL", "a o a\r\n-OK"},
		{"ERR subject: 513 bytes: at most 512", "a o " + strings.Repeat("x", 513)},
	} {
		args := strings.Split(tt.args, " ")
		n := 'a'
		for i := range args {
			if args[i] == "uN" { // a unit of its own
				args[i] = "u" + string(n)
				n++
			}
		}
		equal(t, p.do(append([]string{"HG.TAKE"}, args...)...), refusal(tt.want))
	}
	equal(t, p.do("HG.RESERVE", "a", "o", "s", "TTL", "0"), refusal(`ERR ttl_ms: 0: must be 1 to 86400000, which is 24h0m0s`))
	equal(t, p.do("HG.SETTLE", ""), refusal("ERR ticket: is required"))
	equal(t, p.do("HG.SETTLE", strings.Repeat("x", gate.MaxTicket+1)), refusal("ERR ticket: 24577 bytes: at most 24576"))
	equal(t, p.do("HG.RELEASE", "t", "COST", "1"), refusal(`ERR "COST": unknown option`))
	if e, ok := p.do("HG.RENEW", "t").(refusal); !ok || !strings.HasPrefix(string(e), "ERR ticket: ") {
		t.Errorf("%v", e)
	}
}

// TestInside: what goes wrong inside is not told.
func TestInside(t *testing.T) {
	_, address := start(t, Config{})
	p := dial(t, "tcp", address)
	equal(t, p.do("HG.TAKE", "a", "o", "broken"), refusal("INTERNAL the server could not decide; its log says why"))
	equal(t, p.do("HG.TAKE", "a", "o", "store away"), refusal("UNAVAILABLE the store cannot decide at the moment"))
}

// TestNoAllocations: decisions leave nothing to the collector.
func TestNoAllocations(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"CL.THROTTLE", wire("CL.THROTTLE", "k", "1000000", "1000000", "1"), "*5\r\n:0\r\n"},
		{"THROTTLE", wire("THROTTLE", "k", "1000000", "1000000", "1"), "*5\r\n:1\r\n"},
		{"HG.THROTTLE", wire("HG.THROTTLE", "k", "1000000", "1000000", "1"), "*50\r\n"},
		{"HG.TAKE", wire("hg.take", "a", "three", "alice", "COST", "1", "PLAN", "p"), "*50\r\n$7\r\nallowed\r\n:1\r\n"},
		{"HG.PEEK", wire("HG.PEEK", "a", "three", "alice", "IP", "1.2.3.4", "METHOD", "GET"), "*50\r\n$7\r\nallowed\r\n:1\r\n"},
		{"HG.TAKE with facts", wire("HG.TAKE", "a", "three", "alice", "ATTR", "k", "v", "ATTR", "l", "w"), "*50\r\n$7\r\nallowed\r\n:1\r\n"},
		{"HG.TAKE by turns", wire("HG.TAKE", "a", "three", "alice") + wire("HG.TAKE", "a", "other", "bob", "BRIEF"), "*50\r\n$7\r\nallowed\r\n:1\r\n"},
		{"HG.TAKE with fields", wire("HG.TAKE", "a", "three", "alice", "FIELDS"), "*54\r\n$7\r\nallowed\r\n:1\r\n"},
		{"PING", "PING\r\n", "+PONG\r\n"},
	} {
		c, sc := threeLimits(t)
		c.w = new(work) // that of a pool may have to be made
		c.w.in = make([]byte, inSize)
		in := strings.Repeat(tt.in, 8)
		round := func() {
			sc.out.Reset()
			c.w.at, c.w.end = 0, copy(c.w.in, in)
			c.later()
			if c.answer(); c.flush() != nil || c.over || c.w.at != len(in) {
				t.Fatal("not answered")
			}
		}
		round()
		if n := testing.AllocsPerRun(100, round); n > 0 {
			t.Errorf("%s: %v allocations for 8 of them", tt.name, n)
		}
		if got := sc.out.String(); !strings.HasPrefix(got, tt.want) || strings.Contains(got, "\r\n-") {
			t.Errorf("%s: %.200q", tt.name, got)
		}
	}
}

const threePolicy = `
version: 1
plans:
  p: {limits: [{name: daily, algorithm: quota, rate: 1000000000000/day}]}
applications:
  a:
    default_plan: p
    limits: [{name: all, rate: 1000000/ms, per: application}]
    rules:
      - name: three
        match: {operation: three}
        limits: [{name: burst, rate: 1000000/ms}]
`

// threeLimits returns a connection to a gate on which each request meets three limits
// that let it pass.
func threeLimits(tb testing.TB) (*conn, *script) {
	tb.Helper()
	g, store := realGate(tb, threePolicy)
	sc := new(script)
	c := newConn(New(Config{Gate: g, Now: store.Now, Decided: func(*gate.Decision, time.Duration) {}}), sc)
	if !c.greet() {
		tb.Fatal("turned away")
	}
	return c, sc
}

// TestPlace: what was written last is not written for another decision.
func TestPlace(t *testing.T) {
	var used placeText
	for _, d := range []gate.Decision{
		{Application: "a", Rule: "r", Operation: "o"}, {Application: "a", Rule: "r", Operation: "o"}, {Application: "ar", Rule: "", Operation: "o"},
		{}, {Application: strings.Repeat("x", 300), Rule: "r", Operation: strings.Repeat("y", 500)}, {Application: "a", Rule: "ro"}, {Application: "a", Rule: "r", Operation: "O"},
	} {
		want := appendPair(appendPair(appendPair(nil, "application", d.Application), "rule", d.Rule), "operation", d.Operation)
		want = append(want, keySubject...)
		if got := keyApp + string(used.append(nil, &d)); got != string(want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestDigits(t *testing.T) {
	for n, step := int64(0), int64(1); n >= 0 && n < 1<<62; n, step = n+step, step+step/3+1 {
		for _, n := range []int64{n, -n} {
			if got, want := string(appendDigits(nil, n)), strconv.FormatInt(n, 10); got != want {
				t.Fatalf("%q, want %q", got, want)
			}
		}
	}
}
