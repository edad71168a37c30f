package resp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
)

func TestSession(t *testing.T) {
	_, address := start(t, Config{Version: "1.2.3"})
	p := dial(t, "tcp", address)
	for _, tt := range []struct {
		args []string
		want any
	}{
		{[]string{"PING"}, simple("PONG")},
		{[]string{"pInG", "a\r\nb"}, "a\r\nb"},
		{[]string{"PING", "a", "b"}, refusal("ERR wrong number of arguments for 'ping' command: PING [message]")},
		{[]string{"ECHO", ""}, ""},
		{[]string{"SELECT", "0"}, simple("OK")},
		{[]string{"SELECT", "1"}, refusal("ERR DB index is out of range: there is only 0")},
		{[]string{"CLIENT", "GETNAME"}, nil},
		{[]string{"CLIENT", "SETNAME", "worker-1"}, simple("OK")},
		{[]string{"client", "getname"}, "worker-1"},
		{[]string{"CLIENT", "SETNAME", "a b"}, refusal("ERR Client names cannot contain spaces, newlines or special characters, and have at most 128 bytes")},
		{[]string{"CLIENT", "ID"}, int64(1)},
		{[]string{"CLIENT", "SETINFO", "LIB-NAME", "x"}, simple("OK")},
		{[]string{"CLIENT", "SETINFO", "lib-ver", "1"}, simple("OK")},
		{[]string{"CLIENT", "SETINFO", "LIB", "1"}, refusal(`ERR Unrecognized option "LIB"`)},
		{[]string{"CLIENT", "NO-EVICT", "on"}, simple("OK")},
		{[]string{"CLIENT", "TRACKING", "ON", "OPTIN"}, simple("OK")},
		{[]string{"CLIENT", "KILL"}, refusal(`ERR unknown subcommand or wrong number of arguments for "KILL"`)},
		{[]string{"CONFIG", "GET", "save"}, []any{"save", ""}},
		{[]string{"CONFIG", "GET", "nothing", "APPENDONLY"}, []any{"appendonly", "no"}},
		{[]string{"CONFIG", "SET", "a", "b"}, refusal("ERR there is CONFIG GET name only: Headgate is configured by its own file")},
		{[]string{"DBSIZE"}, int64(0)},
		{[]string{"COMMAND", "COUNT"}, int64(len(commands))},
		{[]string{"COMMAND", "INFO", "ping", "no"}, []any{[]any{"ping", int64(-1), []any{simple("fast")}, int64(0), int64(0), int64(0)}, nil}},
		{[]string{"COMMAND", "DOCS", "echo"}, []any{"echo", []any{"summary", "Answers the message: ECHO message", "since", "1.0.0", "group", "headgate"}}},
		{[]string{"AUTH", "x"}, refusal("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")},
		{[]string{"GET", "a", "b\n"}, refusal(`ERR unknown command "GET", with args beginning with: "a" "b\n"`)},
		{[]string{""}, refusal(`ERR unknown command ""`)},
		{[]string{"HELLO", "4"}, refusal("NOPROTO unsupported protocol version")},
		{[]string{"HELLO", "3", "NAME", "x"}, refusal(`ERR Syntax error in HELLO option "NAME"`)},
		{[]string{"HELLO", "3", "SETNAME", "y"}, dict{"server", "headgate", "version", redisVersion, "proto", int64(3), "id", int64(1), "mode", "standalone", "role", "master", "modules", []any{}}},
		{[]string{"CLIENT", "GETNAME"}, "y"},
		{[]string{"CONFIG", "GET", "save"}, dict{"save", ""}},
		{[]string{"RESET"}, simple("RESET")},
		{[]string{"CLIENT", "GETNAME"}, nil},
		{[]string{"HELLO"}, []any{"server", "headgate", "version", redisVersion, "proto", int64(2), "id", int64(1), "mode", "standalone", "role", "master", "modules", []any{}}},
	} {
		equal(t, p.do(tt.args...), tt.want)
	}
	if got := p.do("INFO").(string); !strings.Contains(got, "\r\nloading:0\r\n") || !strings.Contains(got, "\r\nheadgate_version:1.2.3\r\n") {
		t.Errorf("INFO: %q", got)
	}
	if got := p.do("CLIENT", "INFO").(string); !strings.HasPrefix(got, "id=1 addr=127.0.0.1:") || !strings.Contains(got, " lib-name=x lib-ver=1") {
		t.Errorf("CLIENT INFO: %q", got)
	}
	if got := p.do("COMMAND").([]any); len(got) != len(commands) {
		t.Errorf("COMMAND lists %d", len(got))
	}
	if got := p.do("COMMAND", "LIST").([]any); len(got) != len(commands) {
		t.Errorf("COMMAND LIST lists %d", len(got))
	}
	equal(t, p.do("QUIT"), simple("OK"))
	p.ended()
}

// tenant is a caller for some applications, nil for all.
type tenant struct {
	applications []string
	operates     bool
}

func (c *tenant) Reaches(application string) bool {
	return c.applications == nil || slices.Contains(c.applications, application)
}
func (c *tenant) Everywhere() bool { return c.applications == nil }
func (c *tenant) Operates() bool   { return c.operates }

var errToken = errors.New("this token is not known")

// tokens are known by a door that admits nobody else.
func tokens(f func(token string) (front.Caller, error)) Config {
	return Config{
		Admit: func(string) front.Caller { return nil },
		Login: func(_ context.Context, peer, token string) (front.Caller, error) {
			if !strings.HasPrefix(peer, "127.0.0.1:") && peer != "" && peer != "pipe" {
				return nil, fmt.Errorf("peer %q", peer)
			}
			return f(token)
		},
	}
}

func known(token string) (front.Caller, error) {
	switch token {
	case "all":
		return &tenant{}, nil
	case "of-a":
		return &tenant{applications: []string{"a"}}, nil
	case "op":
		return &tenant{operates: true}, nil
	}
	return nil, errToken
}

func TestAuth(t *testing.T) {
	g, _ := realGate(t, testPolicy)
	c := tokens(known)
	c.Gate = g
	var reset Reset
	c.Resetting = func(_ context.Context, r *Reset) error {
		reset = *r
		if r.Subject == "kept" {
			return errors.New("secret of the records")
		}
		return nil
	}
	_, address := start(t, c)
	noAuth := refusal("NOAUTH Authentication required.")
	p := dial(t, "tcp", address)
	for _, name := range []string{"PING", "CL.THROTTLE", "HG.TAKE", "COMMAND", "INFO", "CLIENT", "SELECT"} {
		equal(t, p.do(name, "a", "b", "c", "d"), noAuth)
	}
	if got, ok := p.do("HELLO", "3").(refusal); !ok || !strings.HasPrefix(string(got), "NOAUTH HELLO must be called") {
		t.Errorf("HELLO: %v", got)
	}
	equal(t, p.do("GET", "secret"), refusal(`ERR unknown command "GET"`))
	equal(t, p.do("AUTH", "wrong"), refusal("WRONGPASS this token is not known"))
	equal(t, p.do("AUTH", ""), refusal("WRONGPASS a token has 1 to 512 bytes"))
	equal(t, p.do("HELLO", "3", "AUTH", "default", "wrong"), refusal("WRONGPASS this token is not known"))
	equal(t, p.do("PING"), noAuth)
	if got := p.do("HELLO", "3", "AUTH", "default", "of-a", "SETNAME", "x"); fmt.Sprintf("%T", got) != "resp.dict" {
		t.Errorf("HELLO: %v", got)
	}
	equal(t, p.do("PING"), simple("PONG"))
	equal(t, p.do("AUTH", "wrong"), refusal("WRONGPASS this token is not known"))
	equal(t, p.do("PING"), simple("PONG")) // as before
	notAll := refusal("NOPERM the keys of this command belong to no application, and this token is not for all of them")
	equal(t, p.do("CL.THROTTLE", "k", "1", "1", "1"), notAll)
	equal(t, p.do("THROTTLE", "k", "1", "1", "1"), notAll)
	equal(t, p.do("HG.THROTTLE", "k", "1", "1", "1"), notAll)
	m, err := fields(p.do("HG.TAKE", "a", "o", "alice"))
	if err != nil || m["allowed"] != int64(1) {
		t.Errorf("%v %v", m, err)
	}
	for _, name := range []string{"HG.TAKE", "HG.PEEK", "HG.RESERVE"} {
		equal(t, p.do(name, "b", "o", "alice"), refusal(`NOTFOUND application: "b" is not in the policy`))
		equal(t, p.do(name, "c", "o", "alice"), refusal(`NOTFOUND application: "c" is not in the policy`))
	}
	equal(t, p.do("HG.RESET", "a", "alice"), refusal("NOPERM resetting takes a token with the scope operate"))
	equal(t, p.do("RESET"), simple("RESET"))
	equal(t, p.do("PING"), noAuth)

	equal(t, p.do("AUTH", "anybody", "all"), simple("OK"))
	m, _ = fields(p.do("HG.RESERVE", "b", "o", "bob"))
	ticket, _ := m["ticket"].(string)
	equal(t, p.do("AUTH", "of-a"), simple("OK"))
	for _, name := range []string{"HG.SETTLE", "HG.RENEW", "HG.RELEASE"} {
		equal(t, p.do(name, ticket), refusal(`NOTFOUND ticket: is of application "b"`))
	}
	equal(t, p.do("AUTH", "op"), simple("OK"))
	m, err = fields(p.do("HG.RELEASE", ticket))
	if err != nil || m["held"] != int64(1) {
		t.Errorf("%v %v", m, err)
	}
	m, err = fields(p.do("HG.PEEK", "a", "o", "alice"))
	if err != nil || m["remaining"] != int64(1) {
		t.Errorf("%v %v", m, err)
	}
	for subject, want := range map[string]string{"": "is required", strings.Repeat("x", gate.MaxSubject+1): "513 bytes: at most 512", "a\n": "has a line break or NUL", "\x00": "has a line break or NUL"} {
		equal(t, p.do("HG.RESET", "a", subject), refusal("ERR subject: "+want))
	}
	if reset.Application != "" {
		t.Errorf("noted %+v, which nothing comes of", reset)
	}
	equal(t, p.do("HG.RESET", "a", "kept"), refusal("INTERNAL the server could not decide; its log says why"))
	equal(t, p.do("HG.RESET", "a", "alice", "LIMIT", "no"), refusal(`NOTFOUND limits: the subject has no limit "no"`))
	equal(t, p.do("HG.RESET", "a", "alice", "LIMIT", ""), refusal("ERR limits: an id must not be empty"))
	equal(t, p.do("HG.RESET", "a", "alice", "COST", "1"), refusal(`ERR "COST": unknown option`))
	v, err := fields(p.do("HG.RESET", "a", "alice", "limit", "o/burst", "LIMIT", "w"))
	if err != nil || v["reset"] != int64(2) || len(v["limits"].([]any)) != 2 || reset.Subject != "alice" || !slices.Equal(reset.Limits, []string{"o/burst", "w"}) || reset.Peer == "" || !reset.Caller.Operates() {
		t.Errorf("%v %v, noted %+v", v, err, reset)
	}
	m, err = fields(p.do("HG.PEEK", "a", "o", "alice"))
	if err != nil || m["remaining"] != int64(2) {
		t.Errorf("%v %v", m, err)
	}
}

// TestRevoked: a token that was revoked ends, on connections too that showed it long
// ago.
func TestRevoked(t *testing.T) {
	valid := true
	c := tokens(func(string) (front.Caller, error) {
		if !valid {
			return nil, errToken
		}
		return front.Anybody{}, nil
	})
	c.Gate = new(fakeGate)
	s := New(c)
	var w work
	mine, its := net.Pipe()
	defer mine.Close()
	x := newConn(s, its)
	if !x.greet() || x.caller != nil {
		t.Fatal("a stranger is known")
	}
	w.args = []string{"AUTH", "t"}
	x.do(&w)
	valid = false
	if x.check(); x.caller == nil {
		t.Error("asked again at once")
	}
	s.began = s.began.Add(-2 * time.Second) // as if they had passed
	if x.check(); x.caller != nil || x.token != "" {
		t.Error("a revoked token still opens")
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var peer = "none"
	startOn(t, l, Config{Admit: func(p string) front.Caller { peer = p; return front.Anybody{} }})
	p := dial(t, "unix", path)
	equal(t, p.do("PING"), simple("PONG"))
	if peer != "" {
		t.Errorf("peer %q", peer)
	}
}

// TestForeign: what a web page can make a browser send ends the connection before it
// is taken for commands.
func TestForeign(t *testing.T) {
	f := new(fakeGate)
	_, address := start(t, Config{Gate: f})
	for _, s := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\n\r\nHG.TAKE a o s\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\nHG.TAKE a o s\r\n",
		"post x\r\nHG.TAKE a o s\r\n",
		wire("HOST:", "x") + wire("HG.TAKE", "a", "o", "s"),
	} {
		p := dial(t, "tcp", address)
		p.write(s)
		rest, _ := io.ReadAll(p.Conn)
		if strings.Contains(string(rest), "allowed") {
			t.Errorf("%q: %q", s, rest)
		}
	}
	if n := f.asked.Load(); n != 0 {
		t.Errorf("%d commands were decided", n)
	}
}

func TestPanic(t *testing.T) {
	ended := make(chan struct{}, 1)
	_, address := start(t, Config{Panicked: func() { ended <- struct{}{} }})
	p := dial(t, "tcp", address)
	p.write(wire("HG.TAKE", "a", "o", "bug"))
	p.ended()
	<-ended
	equal(t, dial(t, "tcp", address).do("PING"), simple("PONG"))
}

// TestHooks: every decision that may have charged is reported, and nothing else.
func TestHooks(t *testing.T) {
	var decided, corrected []string
	_, address := start(t, Config{
		Decided:   func(d *gate.Decision, took time.Duration) { decided = append(decided, strings.Clone(d.Subject)) },
		Corrected: func(d *gate.Decision) { corrected = append(corrected, strings.Clone(d.Application)) },
	})
	p := dial(t, "tcp", address)
	p.do("HG.TAKE", "a", "o", "s1")
	p.do("HG.RESERVE", "a", "o", "s2")
	p.do("HG.PEEK", "a", "o", "s3")
	p.do("HG.TAKE", "a", "o", "broken")
	p.do("HG.TAKE", "a", "o", "kept")
	p.do("CL.THROTTLE", "s4", "1", "1", "1")
	p.do("HG.SETTLE", "open", "APPLICATION", "b")
	p.do("HG.RENEW", "open", "APPLICATION", "c")
	p.do("HG.RELEASE", "open", "APPLICATION", "d")
	if !slices.Equal(decided, []string{"s1", "s2", "kept", "s4"}) || !slices.Equal(corrected, []string{"b", "c", "d"}) {
		t.Errorf("reported %v, %v", decided, corrected)
	}
}

// TestClockAfterLogin: to look a token up, and to note a reset down, may take a while, and
// what comes behind it is decided after that.
func TestClockAfterLogin(t *testing.T) {
	now := int64(0)
	f := new(fakeGate)
	c := tokens(func(token string) (front.Caller, error) {
		now++
		return known(token)
	})
	c.Gate, c.Now = f, func() int64 { return now }
	c.Admit = func(string) front.Caller { return front.Anybody{} }
	c.Resetting = func(context.Context, *Reset) error {
		now++
		return nil
	}
	s := New(c)
	ask := wire("CL.THROTTLE", "k", "0", "1", "1")
	for said, want := range map[string]int64{wire("AUTH", "op"): 1, wire("AUTH", "op") + ask + wire("HG.RESET", "a", "s"): 2} {
		now = 1000
		talk(t, s, []byte(ask+said+ask))
		if f.throttle.Now != 1000+want {
			t.Errorf("%q: decided at %d, want %d later", said, f.throttle.Now, want)
		}
	}
}
