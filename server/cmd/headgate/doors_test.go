package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	grpcclient "github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate"
)

const everyDoorPolicy = `
version: 1
applications:
  a: {rules: [{name: r, match: {operation: x}, limits: [{name: w, algorithm: quota, rate: 10/day}]}]}
  b: {rules: [{name: r, match: {operation: x}, limits: [{name: w, algorithm: quota, rate: 10/day}]}]}
`

// addresses returns where each door listens.
func (s *server) addresses(t *testing.T, doors ...string) map[string]string {
	t.Helper()
	at := map[string]string{}
	for len(at) < len(doors) {
		line := s.await(t, "msg=listening")
		_, rest, _ := strings.Cut(line, "door=")
		door, address, _ := strings.Cut(rest, " address=")
		at[door] = address
	}
	return at
}

// redis is a connection to the Redis door.
type redis struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func dialRedis(t *testing.T, address string, c *tls.Config) *redis {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if c != nil {
		conn = tls.Client(conn, c)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &redis{t, conn, bufio.NewReader(conn)}
}

// do sends a command of words and returns the reply: elements apart by a space, errors
// with their minus.
func (r *redis) do(command string) string {
	r.t.Helper()
	if _, err := io.WriteString(r, command+"\r\n"); err != nil {
		r.t.Fatal(err)
	}
	return r.reply()
}

func (r *redis) reply() string {
	r.t.Helper()
	line, err := r.in.ReadString('\n')
	if err != nil {
		r.t.Fatal(err)
	}
	line = strings.TrimSuffix(line, "\r\n")
	n, _ := strconv.Atoi(line[1:])
	switch line[0] {
	case '$':
		if n < 0 {
			return "null"
		}
		data := make([]byte, n+2)
		if _, err := io.ReadFull(r.in, data); err != nil {
			r.t.Fatal(err)
		}
		return string(data[:n])
	case '*':
		words := make([]string, max(n, 0))
		for i := range words {
			words[i] = r.reply()
		}
		return strings.Join(words, " ")
	case '-':
		return line
	default:
		return line[1:]
	}
}

// envoys is a connection of Envoy's.
func envoys(t *testing.T, address string, with credentials.TransportCredentials) rls.RateLimitServiceClient {
	t.Helper()
	c, err := grpc.NewClient(address, grpc.WithTransportCredentials(with))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return rls.NewRateLimitServiceClient(c)
}

// call asks for application a, operation x, subject alice, as its descriptor.
var call = &rls.RateLimitRequest{Domain: "a", Descriptors: []*pb.RateLimitDescriptor{{
	Entries: []*pb.RateLimitDescriptor_Entry{{Key: "operation", Value: "x"}, {Key: "subject", Value: "alice"}},
}}}

func dialGate(t *testing.T, address string, o grpcclient.Options) *grpcclient.Client {
	t.Helper()
	o.Timeout = patience
	c, err := grpcclient.New(address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

const everyDoor = "http grpc resp"

// startEveryDoor starts a server with all doors, on the network or on sockets.
func startEveryDoor(t *testing.T, args ...string) (*server, map[string]string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, file, everyDoorPolicy)
	s := startServe(t, append([]string{"--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--resp", "127.0.0.1:0", "--policy", file, "--store", "memory"}, args...)...)
	return s, s.addresses(t, strings.Fields(everyDoor)...)
}

// TestEveryDoor: all doors charge the same budgets, and count by the names that were said.
func TestEveryDoor(t *testing.T) {
	s, at := startEveryDoor(t)
	if status, _, answer := asked(t, "POST", "http://"+at["http"]+"/v1/take", `{"application":"a","operation":"x","subject":"alice"}`); status != 200 || !strings.Contains(answer, `"remaining":9`) {
		t.Errorf("http: %d %s", status, answer)
	}
	var d gate.Decision
	if err := dialGate(t, at["grpc"], grpcclient.Options{}).Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "alice"}, &d); err != nil || d.Remaining != 8 || d.BoundByID() != "r/w" {
		t.Errorf("grpc: %v, %d left of %s", err, d.Remaining, d.BoundByID())
	}
	r := dialRedis(t, at["resp"], nil)
	if got := r.do("HG.TAKE a x alice"); !strings.HasPrefix(got, "1 ") && !strings.HasPrefix(got, "allowed 1 ") || !strings.Contains(got, " remaining 7 ") {
		t.Errorf("resp: %s", got)
	}
	got, err := envoys(t, at["grpc"], insecure.NewCredentials()).ShouldRateLimit(t.Context(), call)
	if err != nil || got.GetOverallCode() != rls.RateLimitResponse_OK || got.GetStatuses()[0].GetLimitRemaining() != 6 {
		t.Errorf("envoy: %v, %v", got, err)
	}
	// The strings of a command are gone when the next one is read.
	for _, name := range []string{"bob", "eve", "joe", "ann"} {
		r.do("HG.TAKE a x " + name)
	}
	r.do("PING xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
	_, _, top := asked(t, "GET", "http://"+at["http"]+"/v1/top?application=a", "", "Authorization: Bearer "+tokenIn(t, s.data))
	for _, name := range []string{"alice", "bob", "eve", "joe", "ann"} {
		if !strings.Contains(top, `"subject":"`+name+`"`) {
			t.Errorf("top lacks %s: %s", name, top)
		}
	}
	_, _, metrics := asked(t, "GET", "http://"+at["http"]+"/metrics", "")
	for door, n := range map[string]int{"http": 1, "grpc": 1, "resp": 5, "envoy": 1} {
		if line := fmt.Sprintf(`headgate_decisions_total{application="a",door="%s",plan="",reason="ok",rule="r"} %d`, door, n); !strings.Contains(metrics, line) {
			t.Errorf("metrics lack %s", line)
		}
	}
	for _, line := range []string{`headgate_connections{door="resp"} 1`, `headgate_connections{door="grpc"} 2`, `headgate_connections_refused_total{door="http"} 0`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("metrics lack %s", line)
		}
	}
	s.stop(t) // with all these connections open
}

// TestTokensAtEveryDoor: where decisions need a token, every door wants one, and answers
// about nothing that is not the token's.
func TestTokensAtEveryDoor(t *testing.T) {
	s, at := startEveryDoor(t, "--decision-auth", "token")
	admin := tokenIn(t, s.data)
	id, token := makeToken(t, at["http"], admin, `"scopes":["decide"],"applications":["a"]`)
	ask := func(token string) map[string]error {
		var d gate.Decision
		ctx := t.Context()
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		}
		_, envoy := envoys(t, at["grpc"], insecure.NewCredentials()).ShouldRateLimit(ctx, call)
		c := dialGate(t, at["grpc"], grpcclient.Options{Token: token})
		return map[string]error{
			"a": c.Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "alice"}, &d),
			"b": c.Take(t.Context(), &gate.Request{Application: "b", Operation: "x", Subject: "alice"}, &d), "envoy": envoy,
		}
	}
	if got := ask(""); got["a"] == nil || grpcstatus.Code(got["envoy"]) != codes.Unauthenticated {
		t.Errorf("without a token: %v", got)
	}
	if got := ask(token); got["a"] != nil || headgate.CodeOf(got["b"]) != headgate.NotFound || got["envoy"] != nil {
		t.Errorf("with one: %v", got)
	}
	if got := ask("hgt_wrong"); got["a"] == nil || grpcstatus.Code(got["envoy"]) != codes.Unauthenticated {
		t.Errorf("with a wrong one: %v", got)
	}
	r := dialRedis(t, at["resp"], nil)
	for _, step := range []struct{ command, want string }{
		{"HG.TAKE a x alice", "-NOAUTH"}, {"AUTH wrong", "-WRONGPASS"}, {"AUTH " + token, "OK"}, {"HG.TAKE a x alice", "allowed 1"},
		{"HG.TAKE b x alice", "-NOTFOUND"}, {"CL.THROTTLE k 1 1 1", "-NOPERM"}, {"HG.RESET a alice", "-NOPERM"},
	} {
		if got := r.do(step.command); !strings.HasPrefix(got, step.want) {
			t.Errorf("%s: %s, want %s", step.command, got, step.want)
		}
	}
	// Who may operate may forgive, and that is on record.
	o := dialRedis(t, at["resp"], nil)
	if got := o.do("HELLO 2 AUTH default " + admin); strings.HasPrefix(got, "-") {
		t.Fatal(got)
	}
	if got := o.do("HG.RESET a alice"); !strings.HasPrefix(got, "reset 1") {
		t.Errorf("reset: %s", got)
	}
	_, _, audit := asked(t, "GET", "http://"+at["http"]+"/v1/audit?action=subject.reset", "", "Authorization: Bearer "+admin)
	if !strings.Contains(audit, `"via":"resp"`) || !strings.Contains(audit, `"subject":"alice"`) {
		t.Errorf("audit: %s", audit)
	}
	// A token that is revoked ends within 2 s, also on a connection that has shown it.
	if code, _, answer := asked(t, "DELETE", "http://"+at["http"]+"/v1/tokens?id="+id, "", "Authorization: Bearer "+admin); code != http.StatusOK && code != http.StatusNoContent {
		t.Fatalf("revoke: %d %s", code, answer)
	}
	revoked := time.Now()
	for got := ""; !strings.HasPrefix(got, "-"); got = r.do("HG.TAKE a x alice") {
		if time.Since(revoked) > patience {
			t.Fatal("a revoked token goes on")
		}
	}
	s.stop(t)
}

// TestTokensWhereNoneIsNeeded: a token of ours counts also at a door that is open: it
// reaches less, or permits more. What else is shown is somebody else's.
func TestTokensWhereNoneIsNeeded(t *testing.T) {
	s, at := startEveryDoor(t)
	admin := tokenIn(t, s.data)
	_, token := makeToken(t, at["http"], admin, `"scopes":["decide"],"applications":["a"]`)
	take := func(application, token string) int {
		status, _, _ := asked(t, "POST", "http://"+at["http"]+"/v1/take", `{"application":"`+application+`","operation":"x","subject":"alice"}`, "Authorization: Bearer "+token)
		return status
	}
	called := func(application, token string) error {
		var d gate.Decision
		return dialGate(t, at["grpc"], grpcclient.Options{Token: token}).Take(t.Context(), &gate.Request{Application: application, Operation: "x", Subject: "alice"}, &d)
	}
	if a, b, foreign, wrong := take("a", token), take("b", token), take("b", "eyJhbGciOi"), take("a", "hgt_wrong"); a != 200 || b != 404 || foreign != 200 || wrong != 401 {
		t.Errorf("http: %d, %d, %d, %d; want 200, 404, 200, 401", a, b, foreign, wrong)
	}
	if a, b, foreign, wrong := called("a", token), called("b", token), called("b", "eyJhbGciOi"), called("a", "hgt_wrong"); a != nil || headgate.CodeOf(b) != headgate.NotFound || foreign != nil || wrong == nil {
		t.Errorf("grpc: %v, %v, %v, %v", a, b, foreign, wrong)
	}
	const back = `{"domain":"a","descriptors":[{"entries":[{"key":"operation","value":"x"},{"key":"subject","value":"alice"}],"hitsAddend":"1","isNegativeHits":true}]}`
	if status, _, answer := asked(t, "POST", "http://"+at["http"]+"/json", back, "Authorization: Bearer "+admin); status != 200 {
		t.Errorf("hits given back by an operator: %d %s", status, answer)
	}
	if status, _, _ := asked(t, "POST", "http://"+at["http"]+"/json", back); status != 403 {
		t.Errorf("by anybody: %d", status)
	}
	s.stop(t)
}

// TestAllowFromAtEveryDoor: an address of auth.allow_from needs no token at any door.
func TestAllowFromAtEveryDoor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	replace(t, file, "version: 1\nauth: {decision: token, allow_from: [127.0.0.0/8]}\n")
	s, at := startEveryDoor(t, "--config", file)
	var d gate.Decision
	if err := dialGate(t, at["grpc"], grpcclient.Options{}).Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "alice"}, &d); err != nil {
		t.Error(err)
	}
	if _, err := envoys(t, at["grpc"], insecure.NewCredentials()).ShouldRateLimit(t.Context(), call); err != nil {
		t.Error(err)
	}
	if got := dialRedis(t, at["resp"], nil).do("HG.TAKE a x alice"); !strings.HasPrefix(got, "allowed 1") {
		t.Error(got)
	}
	s.stop(t)
}

// TestTLSAtEveryDoor: with a certificate every door on the network speaks TLS, and with
// client_ca wants one of the client; sockets of this machine do neither.
func TestTLSAtEveryDoor(t *testing.T) {
	p := newPapers(t)
	s, at := startEveryDoor(t, "--config", p.config("  client_ca: "+filepath.Join(p.dir, "ca.pem")+"\n"))
	cert, key := p.root.Client(t, "ops")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ours := &tls.Config{RootCAs: p.root.Pool(), Certificates: []tls.Certificate{pair}}
	var d gate.Decision
	q := &gate.Request{Application: "a", Operation: "x", Subject: "alice"}
	if err := dialGate(t, at["grpc"], grpcclient.Options{TLS: ours}).Take(t.Context(), q, &d); err != nil {
		t.Error(err)
	}
	if _, err := envoys(t, at["grpc"], credentials.NewTLS(ours)).ShouldRateLimit(t.Context(), call); err != nil {
		t.Error(err)
	}
	theirs := ours.Clone()
	theirs.ServerName = "localhost"
	if got := dialRedis(t, at["resp"], theirs).do("HG.TAKE a x alice"); !strings.HasPrefix(got, "allowed 1") {
		t.Error(got)
	}
	stranger := dialRedis(t, at["resp"], &tls.Config{RootCAs: p.root.Pool(), ServerName: "localhost"})
	io.WriteString(stranger, "PING\r\n")
	if b, err := io.ReadAll(stranger); err == nil || len(b) > 0 {
		t.Errorf("a client without a certificate: %q %v", b, err)
	}
	for name, o := range map[string]grpcclient.Options{"plain": {}, "without a certificate": {TLS: &tls.Config{RootCAs: p.root.Pool()}}} {
		c := dialGate(t, at["grpc"], o)
		if err := c.Take(t.Context(), q, &d); headgate.CodeOf(err) != headgate.Unavailable {
			t.Errorf("grpc, %s: %v", name, err)
		}
	}
	s.stop(t)
}

// TestSocketsAtEveryDoor: every door listens on a unix socket where it is told to.
func TestSocketsAtEveryDoor(t *testing.T) {
	p := newPapers(t)
	at := func(name string) string { return "unix:" + filepath.Join(p.dir, name) }
	file := filepath.Join(p.dir, "policy.yaml")
	replace(t, file, everyDoorPolicy)
	s := startServe(t, "--http", at("h"), "--grpc", at("g"), "--resp", at("r"), "--policy", file, "--store", "memory", "--config", p.config(""))
	s.addresses(t, "http", "grpc", "resp")
	var d gate.Decision
	if err := dialGate(t, at("g"), grpcclient.Options{}).Take(t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: "alice"}, &d); err != nil {
		t.Error(err)
	}
	if got := dialRedis(t, at("r"), nil).do("HG.TAKE a x alice"); !strings.Contains(got, " remaining 8 ") {
		t.Error(got)
	}
	s.stop(t)
	for _, name := range []string{"h", "g", "r"} {
		if exists(filepath.Join(p.dir, name)) {
			t.Errorf("the socket %s is left behind", name)
		}
	}
}

// TestEnvoyConfig: a directory of envoyproxy/ratelimit's configuration is the policy, the
// administration cannot change it, and it is read again; a bad one leaves the old one.
func TestEnvoyConfig(t *testing.T) {
	dir := t.TempDir()
	config := func(n string) {
		replace(t, filepath.Join(dir, "edge.yaml"), "domain: a\ndescriptors:\n  - key: operation\n    descriptors:\n      - key: subject\n        rate_limit: {unit: day, requests_per_unit: "+n+"}\n")
	}
	config("1")
	s := startServe(t, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--envoy-config", dir, "--store", "memory")
	at := s.addresses(t, "http", "grpc")
	c := envoys(t, at["grpc"], insecure.NewCredentials())
	code := func(q *rls.RateLimitRequest) rls.RateLimitResponse_Code {
		t.Helper()
		got, err := c.ShouldRateLimit(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return got.GetOverallCode()
	}
	if a, b := code(call), code(call); a != rls.RateLimitResponse_OK || b != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("of 1: %v, %v", a, b)
	}
	if got := code(&rls.RateLimitRequest{Domain: "other", Descriptors: call.GetDescriptors()}); got != rls.RateLimitResponse_OK {
		t.Errorf("another domain: %v", got)
	}
	admin := "Authorization: Bearer " + tokenIn(t, s.data)
	if status, _, answer := asked(t, "POST", "http://"+at["http"]+"/v1/policy/rollback", `{"revision":1}`, admin); status != http.StatusConflict || !strings.Contains(answer, dir) {
		t.Errorf("a change through the API: %d %s", status, answer)
	}
	config("two")
	s.await(t, "edge.yaml:6:")
	s.await(t, "policy not reloaded, the old one stays in force")
	if got := code(call); got != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("after a bad change: %v", got)
	}
	config("3")
	s.await(t, `msg="policy in force"`)
	if a, b, c := code(call), code(call), code(call); a != rls.RateLimitResponse_OK || b != rls.RateLimitResponse_OK || c != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("of 3 less 1: %v, %v, %v", a, b, c)
	}
	_, _, metrics := asked(t, "GET", "http://"+at["http"]+"/metrics", "")
	if !strings.Contains(metrics, `headgate_envoy_hits_total{application="a",outcome="over_limit",rule="operation.subject"} 3`) {
		t.Errorf("metrics lack the hits over the limit:\n%s", metrics)
	}
	s.stop(t)
}
