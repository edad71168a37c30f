package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"headgate": main})
}

const scriptPolicy = `
version: 1
applications:
  email:
    rules:
      - name: sendEmail
        match: {operation: sendEmail}
        limits: [{name: burst, rate: 10/h}]
  web:
    identity: [ip]
    rules:
      - name: api
        match: {path: "/api/{rest...}", methods: [POST]}
        limits:
          - {name: tokens, unit: tokens, rate: 100/h}
          - {name: org, per: {expr: attributes.org}, rate: 50/h}
          - {name: kind, per: {expr: 'request.headers["x-kind"]'}, rate: 60/h}
`

// TestScripts runs the verbs as processes. A script finds a server of
// scriptPolicy in $HEADGATE_SERVER, its data directory where it would be, and
// something that is no Headgate server in $OTHER.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			store := memstore.New(memstore.Config{MaxBytes: 1 << 20})
			g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(scriptPolicy), Store: store})
			if err != nil {
				return err
			}
			h := houseOf(g, store)
			h.journal = nil // openAdmin makes one
			where := &settings{data: env.WorkDir + "/" + defaultData}
			guard, end, err := h.openGuard(where)
			if err != nil {
				return err
			}
			env.Defer(end)
			db, err := h.openRecords(t.Context(), where, guard)
			if err != nil {
				return err
			}
			env.Defer(func() { db.Close() })
			server := httptest.NewUnstartedServer(nil)
			server.Config = h.doors(&listeners{http: server.Listener})[0].server
			server.Start()
			env.Defer(server.Close)
			other := httptest.NewServer(http.NotFoundHandler())
			env.Defer(other.Close)
			env.Setenv("HEADGATE_SERVER", server.URL)
			env.Setenv("OTHER", other.URL)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code},
	})
}

// code N PROGRAM ARG... runs a program that must end with exit code N.
func code(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if neg || got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"1B": 1, "1048576B": 1 << 20, "3KiB": 3 << 10, "256MiB": 256 << 20, "8589934591GiB": 8589934591 << 30,
		"": 0, "5": 0, "MiB": 0, "-1MiB": 0, "0B": 0, "1.5GiB": 0, "1MB": 0, "1kiB": 0, "1 MiB": 0, "8589934592GiB": 0, "1BB": 0, "1MiBB": 0,
	} {
		got, err := parseSize(in)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("parseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestSettingsPrecedence(t *testing.T) {
	dir := t.TempDir()
	config := dir + "/config.yaml"
	if err := os.WriteFile(config, []byte("version: 1\nlisten: {http: '127.0.0.1:1'}\nlog: {level: warn}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(args ...string) string {
		cmd := newServe()
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		s, err := readSettings(cmd)
		if err != nil {
			return err.Error()
		}
		return s.http
	}
	if got := read(); got != "127.0.0.1:8080" {
		t.Errorf("default: %s", got)
	}
	t.Setenv("HEADGATE_CONFIG", config)
	if got := read(); got != "127.0.0.1:1" {
		t.Errorf("file: %s", got)
	}
	t.Setenv("HEADGATE_HTTP", "127.0.0.1:2")
	if got := read(); got != "127.0.0.1:2" {
		t.Errorf("environment over file: %s", got)
	}
	if got := read("--http=127.0.0.1:3"); got != "127.0.0.1:3" {
		t.Errorf("flag over environment: %s", got)
	}
	t.Setenv("HEADGATE_HTTP", "")
	if got := read(); got != "nothing to serve: --http is empty and there is no other door yet" {
		t.Errorf("empty in the environment: %s", got)
	}
	t.Setenv("HEADGATE_HTTP", "unix:x")
	t.Setenv("HEADGATE_STORE_FILE", dir+"/store")
	if err := os.WriteFile(dir+"/store", []byte("postgre://:password@host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(); !strings.HasPrefix(got, "HEADGATE_STORE_FILE: must be embedded, memory, or a URL that begins with redis://") || strings.Contains(got, "password") {
		t.Errorf("secret from a file: %s", got)
	}
	t.Setenv("HEADGATE_STORE", "memory")
	if got := read(); got != "HEADGATE_STORE and HEADGATE_STORE_FILE are both set: keep one" {
		t.Errorf("both: %s", got)
	}
}

func TestConfigFaults(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"good", "version: 1\nlisten:\n  http: unix:/run/headgate\nlog: {level: debug, format: json}\nstore: memory\n", ""},
		{"json", `{"version": 1, "listen": {"http": ""}}`, ""},
		{"many", "version: 2\nlisten: {http: 5.5, grpc: x, htpp: y}\ntls: {}\nauth: {}\nlog: {level: loud, format: xml}\nqueue: 1\ncolour: red\n", `
1:10: version: "2": must be 1
2:16: listen.http: must be a string
2:21: listen.grpc: not supported yet
2:30: listen.htpp: unknown key; there are http, admin
3:1: tls: not supported yet
4:1: auth: not supported yet
5:14: log.level: "loud": must be one of debug, info, warn, error
5:28: log.format: "xml": must be one of text, json
6:1: queue: not supported yet
7:1: colour: unknown key; there are version, listen, log, store, records`},
		{"empty", "", "\n1:1: must be one document that begins with version: 1"},
		{"no version", "store: memory\n", "\n1:1: version: is required: version: 1"},
		{"list", "- version\n", "\n1:1: must be a mapping of keys to values"},
		{"twice", "version: 1\nstore: memory\nstore: memory\n", "\n3:1: mapping key \"store\" already defined at [2:1]"},
		{"broken", "version: [1\n", "\n1:10: sequence end token ']' not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := t.TempDir() + "/c.yaml"
			if err := os.WriteFile(file, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := readConfig(file)
			got := ""
			if err != nil {
				got = strings.ReplaceAll("\n"+err.Error(), "\n"+file+":", "\n")
			}
			if got != tt.want {
				t.Errorf("got%s\nwant%s", got, tt.want)
			}
		})
	}
}

func TestSpan(t *testing.T) {
	for ms, want := range map[int64]string{
		1: "1 ms", 999: "999 ms", 1000: "1 s", 1001: "1.1 s", 59_950: "60 s", 60_000: "1 min", 60_001: "1 min 1 s", 3_599_001: "1 h",
		5_400_000: "1 h 30 min", 86_400_000: "1 d", 90_000_001: "1 d 2 h",
	} {
		if got := span(ms); got != want {
			t.Errorf("span(%d) = %s, want %s", ms, got, want)
		}
	}
}

func TestCoarse(t *testing.T) {
	for ms, want := range map[int64]string{
		1: "1 ms", 1001: "2 s", 90_000: "90 s", 90_001: "2 min", 5_400_000: "90 min", 5_400_001: "2 h", 172_800_000: "48 h", 172_800_001: "3 d",
	} {
		if got := coarse(ms); got != want {
			t.Errorf("coarse(%d) = %s, want %s", ms, got, want)
		}
	}
}
