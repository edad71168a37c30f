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
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // what is printed is the same everywhere
	for _, name := range unusedDoors {
		if _, said := os.LookupEnv(name); !said { // a script may say something else
			os.Setenv(name, "")
		}
	}
	testscript.Main(m, map[string]func(){"headgate": main})
}

// unusedDoors are the variables of doors whose usual addresses tests beside each other
// would fight for. Set to nothing, they turn them off.
var unusedDoors = []string{"HEADGATE_GRPC", "HEADGATE_RESP"}

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
			where := &settings{data: env.WorkDir + "/" + defaultData, admin: autoAdmin}
			h.apply(readLive(&configFile{}))
			end, err := h.openGuard(where)
			if err != nil {
				return err
			}
			env.Defer(end)
			db, err := h.openRecords(t.Context(), where)
			if err != nil {
				return err
			}
			env.Defer(func() { db.Close() })
			server := httptest.NewUnstartedServer(nil)
			h.at = &listeners{http: server.Listener}
			server.Config = h.httpDoor()
			server.Start()
			env.Defer(server.Close)
			other := httptest.NewServer(http.NotFoundHandler())
			env.Defer(other.Close)
			env.Setenv("HEADGATE_SERVER", server.URL)
			env.Setenv("OTHER", other.URL)
			for _, name := range unusedDoors {
				env.Setenv(name, "")
			}
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
	if got := read(); got != "nothing to serve: --http, --grpc, --resp and --proxy are empty" {
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
