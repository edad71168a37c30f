package main

import (
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// asked is what a server answers a request with header fields, "Name: value" each.
func asked(t *testing.T, method, url, body string, fields ...string) (status int, header http.Header, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Add(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(got)
}

// makeToken makes a token on record, as the administration at address does for bearer.
func makeToken(t *testing.T, address, bearer, fields string) (id, token string) {
	t.Helper()
	var made struct{ ID, Token string }
	if err := json.Unmarshal([]byte(administer(t, address, bearer, "POST", "/v1/tokens", `{"name":"test",`+fields+`}`, 201)), &made); err != nil {
		t.Fatal(err)
	}
	return made.ID, made.Token
}

const takeOfA = `{"application":"a","operation":"o","subject":"s"}`

// asProxy is what a proxy says of its client.
var asProxy = []string{"X-Forwarded-Method: GET", "X-Forwarded-Uri: /x", "X-Forwarded-For: 198.51.100.9"}

// twoApplications has a, of which requests need a subject, and web, for forward-auth.
const twoApplications = `version: 1
applications:
  a: {rules: [{name: o, match: {operation: o}, limits: [{name: burst, rate: 1000/h}]}]}
  web: {trusted_proxies: [127.0.0.0/8], identity: [{header: headgate-token}, ip], rules: [{name: all, match: {path: "/{rest...}"}, limits: [{name: burst, rate: 1000/h}]}]}
`

func TestServeDecisionAuth(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, file, twoApplications)
	s := startServe(t, "--http", "127.0.0.1:0", "--policy", file, "--decision-auth", "token")
	s.await(t, "decisions need a token")
	address := s.address(t)
	base := "http://" + address
	admin := tokenIn(t, s.data)
	id, decider := makeToken(t, address, admin, `"scopes":["decide"]`)
	_, ofWeb := makeToken(t, address, admin, `"scopes":["decide"],"applications":["web"]`)
	_, reader := makeToken(t, address, admin, `"scopes":["read"]`)
	_, readerOfWeb := makeToken(t, address, admin, `"scopes":["read"],"applications":["web"]`)
	bearer := func(token string) string { return "Authorization: Bearer " + token }

	for _, tt := range []struct {
		name, method, path, body string
		fields                   []string
		want                     int
		part                     string
	}{
		{"no token", "POST", "/v1/take", takeOfA, nil, 401, "unauthorized"},
		{"wrong token", "POST", "/v1/take", takeOfA, []string{bearer(decider + "x")}, 401, "not known"},
		{"in the field of proxies", "POST", "/v1/take", takeOfA, []string{"Headgate-Token: " + decider}, 401, "unauthorized"},
		{"another scope", "POST", "/v1/take", takeOfA, []string{bearer(reader)}, 403, "lacks the scope decide"},
		{"another application", "POST", "/v1/take", takeOfA, []string{bearer(ofWeb)}, 404, `\"a\" is not in the policy`},
		{"decide", "POST", "/v1/take", takeOfA, []string{bearer(decider)}, 200, `"allowed":true`},
		{"the admin token", "POST", "/v1/take", takeOfA, []string{bearer(admin)}, 200, `"allowed":true`},
		{"throttle", "POST", "/v1/throttle", `{"key":"k","rate":"5/1s","burst":9}`, []string{bearer(decider)}, 200, `"allowed":true`},
		{"throttle for one application", "POST", "/v1/throttle", `{"key":"k","rate":"5/1s","burst":9}`, []string{bearer(ofWeb)}, 403, "not for all"},

		{"forward-auth without", "GET", "/v1/forward-auth/web", "", asProxy, 401, "send one in Headgate-Token"},
		{"the client's Authorization", "GET", "/v1/forward-auth/web", "", append(asProxy, bearer(decider)), 401, "send one in Headgate-Token"},
		{"the client's Authorization, denying", "GET", "/v1/forward-auth/web?deny=403", "", append(asProxy, bearer(decider)), 403, `"status":401`},
		{"forward-auth", "GET", "/v1/forward-auth/web", "", append(asProxy, "Headgate-Token: "+ofWeb, "Authorization: Basic client"), 204, ""},
		{"forward-auth of another", "GET", "/v1/forward-auth/a", "", append(asProxy, "Headgate-Token: "+ofWeb), 404, "no such application"},
		{"forward-auth with another scope", "GET", "/v1/forward-auth/web", "", append(asProxy, "Headgate-Token: "+reader), 403, "lacks the scope decide"},

		{"health", "GET", "/healthz", "", nil, 200, "ok"},
		{"readiness", "GET", "/readyz", "", nil, 200, "ok"},
		{"metrics", "GET", "/metrics", "", nil, 401, "unauthorized"},
		{"metrics for a decider", "GET", "/metrics", "", []string{bearer(decider)}, 403, "lacks the scope read"},
		{"metrics for one application", "GET", "/metrics", "", []string{bearer(readerOfWeb)}, 403, "not for all"},
		{"metrics for a reader", "GET", "/metrics", "", []string{bearer(reader)}, 200, "headgate_decisions_total"},
	} {
		status, header, answer := asked(t, tt.method, base+tt.path, tt.body, tt.fields...)
		if status != tt.want || !strings.Contains(answer, tt.part) {
			t.Errorf("%s: %d, want %d with %q: %s", tt.name, status, tt.want, tt.part, answer)
		}
		if (status == 401) != (header.Get("WWW-Authenticate") != "") && tt.name != "the client's Authorization, denying" {
			t.Errorf("%s: %d with WWW-Authenticate %q", tt.name, status, header.Get("WWW-Authenticate"))
		}
		for _, f := range tt.fields {
			if _, secret, _ := strings.Cut(f, ": "); strings.Contains(answer, secret) && !strings.HasPrefix(f, "X-") {
				t.Errorf("%s: the answer repeats %s", tt.name, f)
			}
		}
	}

	// The proxy's token is no fact about its client.
	if recent := administer(t, address, admin, "GET", "/v1/top?application=web", "", 200, `"subject":"198.51.100.9"`); strings.Contains(recent, ofWeb) {
		t.Errorf("the token became a subject: %s", recent)
	}

	// The verbs send one where they are told.
	if out := verb(t, exitCouldNot, "take", "--server", address, "a", "o", "s"); !strings.Contains(out, "--token-file") {
		t.Errorf("take without a token:\n%s", out)
	}
	write(t, s.data+"/decider", decider)
	verb(t, exitDone, "take", "--server", address, "--token-file", s.data+"/decider", "a", "o", "s")
	t.Setenv("HEADGATE_TOKEN", decider)
	verb(t, exitDone, "peek", "--server", address, "a", "o", "s")
	verb(t, exitDone, "explain", "--server", address, "a", "o", "s")
	t.Setenv("HEADGATE_TOKEN", ofWeb)
	if out := verb(t, exitCouldNot, "take", "--server", address, "a", "o", "s"); !strings.Contains(out, `"a" is not in the policy`) {
		t.Errorf("take of another application:\n%s", out)
	}

	// Revoked is refused within 2 s.
	administer(t, address, admin, "DELETE", "/v1/tokens?id="+id, "", 200)
	for start := time.Now(); ; {
		status, _, _ := asked(t, "POST", base+"/v1/take", takeOfA, bearer(decider))
		if time.Since(start) > 2*time.Second {
			t.Fatalf("status %d after 2 s", status)
		}
		if status == 401 || status == 429 { // too many wrong ones came from here
			break
		}
	}
	s.stop(t)
	for line := range s.lines {
		for _, secret := range []string{admin, decider, ofWeb, reader} {
			if strings.Contains(line, secret) {
				t.Errorf("a token was logged: %s", line)
			}
		}
	}
}

// Proxies are admitted by their address, and that may change while the server runs.
func TestServeAllowFrom(t *testing.T) {
	dir := t.TempDir()
	replace(t, dir+"/policy.yaml", twoApplications)
	replace(t, dir+"/config.yaml", "version: 1\nauth: {decision: token, allow_from: [192.0.2.0/24]}\n")
	s := startServe(t, "--http", "127.0.0.1:0", "--policy", dir+"/policy.yaml", "--config", dir+"/config.yaml")
	address := s.address(t)
	base := "http://" + address
	check := func(proxy, metrics, take int) {
		t.Helper()
		// What clients say of themselves admits nobody, and is not looked at where the proxy is.
		fields := append(asProxy, "X-Real-Ip: 198.51.100.9", "Authorization: Bearer "+strings.Repeat("x", 40), "Headgate-Token: "+strings.Repeat("y", 40))
		if got, _, answer := asked(t, "GET", base+"/v1/forward-auth/web", "", fields...); got != proxy {
			t.Errorf("forward-auth: %d, want %d: %s", got, proxy, answer)
		}
		if got, _, _ := asked(t, "GET", base+"/metrics", ""); got != metrics {
			t.Errorf("metrics: %d, want %d", got, metrics)
		}
		if got, _, _ := asked(t, "POST", base+"/v1/take", takeOfA); got != take {
			t.Errorf("take: %d, want %d", got, take)
		}
		// A token that is shown is looked at all the same.
		if got, _, _ := asked(t, "POST", base+"/v1/take", takeOfA, "Authorization: Bearer hgt_"+strings.Repeat("x", 40)); got != 401 {
			t.Errorf("take with a wrong token: %d, want 401", got)
		}
	}
	check(401, 401, 401)
	replace(t, dir+"/config.yaml", "version: 1\nauth: {decision: token, allow_from: [192.0.2.0/24, 127.0.0.0/8]}\n")
	s.await(t, `msg="configuration in force"`)
	check(204, 200, 200)
	s.stop(t)
}

// Where others can ask, decisions need a token unless somebody says otherwise, and an
// administration that is turned off takes no token from the records away.
func TestServeBeyondThisMachine(t *testing.T) {
	data, sock := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "s")
	s := startServe(t, "--http", "127.0.0.1:0", "--data", data)
	address := s.address(t)
	if status, _, answer := asked(t, "POST", "http://"+address+"/v1/take", takeOfA); status != 404 { // of the built-in policy
		t.Errorf("on loopback: %d %s", status, answer)
	}
	_, decider := makeToken(t, address, tokenIn(t, data), `"scopes":["decide"]`)
	s.stop(t)

	for _, tt := range []struct {
		name string
		args []string
		want int
	}{
		{"elsewhere", []string{"--http", "0.0.0.0:0"}, 401},
		{"open elsewhere", []string{"--http", "0.0.0.0:0", "--decision-auth", "open"}, 404},
		{"unix socket", []string{"--http", "unix:" + sock}, 404},
		{"token on a unix socket", []string{"--http", "unix:" + sock, "--decision-auth", "token"}, 401},
	} {
		s := startServe(t, append(tt.args, "--admin", "", "--data", data)...)
		if tt.name == "elsewhere" {
			s.await(t, "decisions need a token")
			s.await(t, "tokens cross the network in clear")
		}
		address := s.address(t)
		address = strings.Replace(address, "[::]", "127.0.0.1", 1)
		r := remote{address: address}
		_, err := r.call(t.Context(), "POST", "/v1/take", []byte(takeOfA), patience)
		if refusedAs(err, "unauthorized") != (tt.want == 401) || refusedAs(err, "not_found") != (tt.want == 404) {
			t.Errorf("%s: %v, want %d", tt.name, err, tt.want)
		}
		r.token = decider
		if _, err := r.call(t.Context(), "POST", "/v1/take", []byte(takeOfA), patience); !refusedAs(err, "not_found") {
			t.Errorf("%s with a token: %v, want 404", tt.name, err)
		}
		s.stop(t)
	}
}

// On the default loopback door nothing is made for tokens.
func TestAdmissionOpen(t *testing.T) {
	var a admission
	h := http.NewServeMux()
	if a.decisions() != nil || a.proxies() != nil || a.metrics(h) != http.Handler(h) {
		t.Error("an open door asks who it is")
	}
	got := map[string]bool{}
	for _, auth := range []string{"", authOpen, authToken} {
		for _, at := range []net.Addr{&net.TCPAddr{IP: net.IPv6loopback}, &net.TCPAddr{IP: net.IPv4zero}, &net.UnixAddr{Name: "/s"}} {
			got[auth+" "+at.String()] = (&settings{auth: auth}).wantsTokens(at)
		}
	}
	want := map[string]bool{
		" [::1]:0": false, " 0.0.0.0:0": true, " /s": false, "open [::1]:0": false, "open 0.0.0.0:0": false, "open /s": false,
		"token [::1]:0": true, "token 0.0.0.0:0": true, "token /s": true,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := os.Stat(defaultData); err == nil {
		t.Error("a data directory was made here")
	}
}
