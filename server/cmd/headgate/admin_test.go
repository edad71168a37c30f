package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// get returns the status and the body of an answer.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestServeAdministration refuses somebody, looks who it was, and stops
// enforcing.
func TestServeAdministration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	replace(t, file, policyOf("5/h"))
	s := startServe(t, "--policy", file, "--http", "127.0.0.1:0")
	s.await(t, "msg=\"made an admin token\" file="+s.data+"/admin-token")
	address := s.address(t)
	take := []string{"take", "--server", address, "a", "o", "alice", "5"}
	verb(t, exitDone, take...)
	verb(t, exitDenied, take...)
	verb(t, exitDenied, take...)

	reach := []string{"--server", address, "--data", s.data}
	denials := append([]string{"denials"}, reach...)
	if out := verb(t, exitDone, denials...); !strings.Contains(out, "alice  a o   2 x rate_limited by o/burst  ") {
		t.Errorf("denials:\n%s", out)
	}
	if out := verb(t, exitDone, append(denials, "--subject", "bob")...); out != "nobody was refused\n" {
		t.Errorf("denials of bob:\n%s", out)
	}
	mode := append([]string{"mode", "shadow", "--application", "a", "--for", "30m"}, reach...)
	if out := verb(t, exitDone, mode...); !strings.Contains(out, "a            (all)  shadow  ") {
		t.Errorf("mode:\n%s", out)
	}
	s.await(t, `level=WARN msg="mode override in force" application=a rule="" mode=shadow`)
	if out := verb(t, exitDone, take...); !strings.Contains(out, "shadow limits would refuse: rate_limited") {
		t.Errorf("take in shadow mode:\n%s", out)
	}
	verb(t, exitCouldNot, "mode", "--server", address, "--data", t.TempDir())
	wrong := filepath.Join(t.TempDir(), "token")
	write(t, wrong, strings.Repeat("x", 32))
	if out := verb(t, exitCouldNot, "mode", "--server", address, "--token-file", wrong); !strings.Contains(out, "this token is not known") {
		t.Errorf("wrong token:\n%s", out)
	}

	_, metrics := get(t, "http://"+address+"/metrics")
	for _, line := range []string{
		`headgate_mode_override{application="a",mode="shadow",rule=""} 1`,
		`headgate_shadow_denials_total{application="a",rule="o"} 1`,
		`headgate_request_errors_total{code="unauthorized",door="admin"} 1`,
		"headgate_memory_limit_bytes 2.68435456e+08", "headgate_overflow_cells 0", "headgate_waiting 0",
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("no line %s in\n%s", line, metrics)
		}
	}
	s.stop(t)
	token, err := os.ReadFile(s.data + "/admin-token")
	if err != nil {
		t.Fatal(err)
	}
	for line := range s.lines {
		if strings.Contains(line, strings.TrimSpace(string(token))) {
			t.Errorf("the token was logged: %s", line)
		}
	}
}

func TestServeErrorsAreCounted(t *testing.T) {
	s := startServe(t, "--http", "127.0.0.1:0")
	base := "http://" + s.address(t)
	get(t, base+"/v1/take")                 // 405
	get(t, base+"/v1/forward-auth/nowhere") // 404
	get(t, base+"/v1/forward-auth/nowhere") // 404
	get(t, base+"/favicon.ico")             // 404
	if status, body := get(t, base+"/v1/policy/schema.json"); status != 200 || !strings.Contains(body, `"$schema"`) {
		t.Errorf("schema: %d %.100s", status, body)
	}
	if status, body := get(t, base+"/v1/openapi.json"); status != 200 || !strings.Contains(body, `"openapi"`) {
		t.Errorf("openapi: %d %.100s", status, body)
	}
	_, metrics := get(t, base+"/metrics")
	for _, line := range []string{
		`headgate_request_errors_total{code="method_not_allowed",door="http"} 1`,
		`headgate_request_errors_total{code="not_found",door="forward_auth"} 2`,
		`headgate_request_errors_total{code="not_found",door="http"} 1`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("no line %s in\n%s", line, metrics)
		}
	}
	s.stop(t)
}

func TestServeAdminListener(t *testing.T) {
	token := strings.Repeat("t", 40)
	t.Setenv("HEADGATE_ADMIN_TOKEN", token)
	s := startServe(t, "--http", "127.0.0.1:0", "--admin", "localhost:0", "--store", "memory")
	s.await(t, `level=WARN msg="store memory: state is lost at stop"`)
	address := s.address(t)
	_, admin, _ := strings.Cut(s.await(t, "door=admin"), "address=")
	t.Setenv("HEADGATE_TOKEN", token)
	if out := verb(t, exitDone, "mode", "--server", admin); !strings.HasPrefix(out, "no override") {
		t.Errorf("mode:\n%s", out)
	}
	if out := verb(t, exitCouldNot, "mode", "--server", address); !strings.Contains(out, "no such route") {
		t.Errorf("the HTTP door has the administration too:\n%s", out)
	}
	if status, _ := get(t, "http://"+admin+"/metrics"); status != 404 {
		t.Errorf("metrics on the admin listener: %d", status)
	}
	if _, err := os.Stat(s.data + "/admin-token"); !os.IsNotExist(err) {
		t.Errorf("a token was made for nothing: %v", err)
	}
	s.stop(t)
}

func TestServeWithoutAdmin(t *testing.T) {
	s := startServe(t, "--http", "127.0.0.1:0", "--admin", "", "--store", "memory")
	if status, body := get(t, "http://"+s.address(t)+"/v1/mode"); status != 404 {
		t.Errorf("%d %s", status, body)
	}
	if _, err := os.Stat(s.data); !os.IsNotExist(err) {
		t.Errorf("a data directory was made for nothing: %v", err)
	}
	s.stop(t)
}

func TestAdminAt(t *testing.T) {
	loopback, public := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, &net.TCPAddr{IP: net.IPv4zero}
	tests := []struct {
		name, http, admin string
		addr              net.Addr
		want              string
	}{
		{"auto beside loopback", "127.0.0.1:8080", "auto", loopback, ""},
		{"auto beside IPv6 loopback", "[::1]:8080", "auto", &net.TCPAddr{IP: net.IPv6loopback}, ""},
		{"auto beside a unix socket", "unix:/s", "auto", &net.UnixAddr{Name: "/s"}, ""},
		{"auto beside a public door", ":8080", "auto", public, "127.0.0.1:8082"},
		{"off", "127.0.0.1:8080", "", loopback, ""},
		{"off beside a public door", ":8080", "", public, ""},
		{"shared by choice", ":8080", ":8080", public, ""},
		{"own", "127.0.0.1:8080", "127.0.0.1:9", loopback, "127.0.0.1:9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := (&settings{http: tt.http, admin: tt.admin}).adminAt(tt.addr); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFindToken(t *testing.T) {
	data, file := t.TempDir(), filepath.Join(t.TempDir(), "token")
	ours, theirs := strings.Repeat("o", 32), strings.Repeat("t", 32)
	write(t, data+"/admin-token", ours)
	write(t, file, theirs)
	check := func(address, file, want, fault string) {
		t.Helper()
		got, err := findToken(&remote{address: address}, file, data)
		if got != want || (err == nil) != (fault == "") || err != nil && !strings.Contains(err.Error(), fault) {
			t.Errorf("%s: got %q, %v; want %q, %q", address, got, err, want, fault)
		}
	}
	for _, local := range []string{"127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080/", "unix:/s"} {
		check(local, "", ours, "")
	}
	check("http://headgate.example", "", "", "needs a token: name its file with --token-file")
	check("http://127.0.0.1.example", "", "", "needs a token")
	check("http://headgate.example", file, theirs, "")
	check("127.0.0.1:8080", data+"/none", "", "--token-file: open ")
	t.Setenv("HEADGATE_TOKEN_FILE", file)
	check("http://headgate.example", "", theirs, "")
	t.Setenv("HEADGATE_TOKEN", "short")
	check("127.0.0.1:8080", "", "", "are both set")
	t.Setenv("HEADGATE_TOKEN_FILE", "")
	check("127.0.0.1:8080", "", "", "HEADGATE_TOKEN: a token of 5 bytes")
}
