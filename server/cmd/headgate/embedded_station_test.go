package main

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate/headgate"
)

// faultPolicy has limits from which nothing recovers while a test runs.
func faultPolicy() string {
	return "version: 1\napplications:\n  a:\n    rules:\n" +
		"      - {name: few, match: {operation: few}, limits: [" + slowYear("quota", 100) + "]}\n" +
		"      - {name: open, match: {operation: open}, limits: [" + strings.TrimSuffix(slowYear("quota", 100), "}") + ", on_store_error: open}]}\n" +
		"      - {name: many, match: {operation: many}, limits: [" + slowYear("quota", 1_000_000) + "]}\n"
}

// station is where serve is started, and its data directory, which faults befall.
type station struct {
	t                  *testing.T
	name, policy, data string
	attributes         *syscall.SysProcAttr
	client             *http.Client
	env                []string // beside that of the test
}

func newStation(t *testing.T) *station {
	t.Helper()
	return stationIn(t, t.TempDir(), program(t))
}

func stationIn(t *testing.T, base, name string) *station {
	t.Helper()
	t.Setenv(endAtOnce())
	s := &station{t: t, name: name, policy: filepath.Join(base, "policy.yaml"), data: filepath.Join(base, "data"), client: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	must(t, os.WriteFile(s.policy, []byte(faultPolicy()), 0o644))
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// endAtOnce is an environment variable that keeps the race detector from sleeping
// for a second at the end of each process.
func endAtOnce() (name, value string) { return "GORACE", "atexit_sleep_ms=0" }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// try starts serve, behind a command that executes it, if there is one.
func (s *station) try(before ...string) *victim {
	s.t.Helper()
	args := append(before, s.name, "serve", "--http", "127.0.0.1:0", "--policy", s.policy, "--data", s.data)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.SysProcAttr, cmd.Env = filepath.Dir(s.data), s.attributes, append(os.Environ(), s.env...)
	v := spawn(s.t, cmd)
	s.t.Cleanup(func() {
		v.kill()
		if s.t.Failed() {
			s.t.Logf("%v said\n%s", args, v.said())
		}
	})
	return v
}

// serve starts serve, and returns when it listens.
func (s *station) serve(before ...string) *victim {
	s.t.Helper()
	v := s.try(before...)
	v.await(s.t)
	return v
}

// refused fails unless serve does not start, and says one sentence, which matches.
// DATA stands for the data directory.
func (s *station) refused(sentence string) {
	s.t.Helper()
	v := s.try()
	if code := v.end(s.t); code != exitCouldNot {
		s.t.Errorf("ended with %d", code)
	}
	said(s.t, v, `^headgate: --data: sqlitestore: `+strings.ReplaceAll(sentence, "DATA", regexp.QuoteMeta(s.data))+`\n$`)
}

// said fails unless what a process has said matches.
func said(t *testing.T, v *victim, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(v.said()) {
		t.Errorf("said\n%s\nwant %s", v.said(), pattern)
	}
}

// take asks for cost, and returns the answer.
func (s *station) take(v *victim, operation, subject string, cost int64) answered {
	s.t.Helper()
	a, err := v.ask(s.t.Context(), s.client, "/v1/take", bodyOf(subject, operation, fmt.Sprintf(`,"cost":%d`, cost)))
	must(s.t, err)
	return a
}

// passes fails unless cost is admitted.
func (s *station) passes(v *victim, operation, subject string, cost int64) {
	s.t.Helper()
	if a := s.take(v, operation, subject, cost); !a.Allowed || len(a.Limits) != 1 {
		s.t.Errorf("%d of %s for %s: %+v", cost, operation, subject, a)
	}
}

// unavailable fails unless a request for cost is refused as the store cannot decide.
func (s *station) unavailable(v *victim, operation, subject string, cost int64) {
	s.t.Helper()
	if a := s.take(v, operation, subject, cost); a.Allowed || a.Reason != headgate.StoreUnavailable.String() {
		s.t.Errorf("%d of %s for %s: %+v", cost, operation, subject, a)
	}
}

// remain fails unless what remains is from least to most.
func (s *station) remain(v *victim, operation, subject string, least, most int64) {
	s.t.Helper()
	a, err := v.ask(s.t.Context(), s.client, "/v1/peek", bodyOf(subject, operation, ""))
	must(s.t, err)
	if len(a.Limits) != 1 || a.Limits[0].Remaining < least || a.Limits[0].Remaining > most {
		s.t.Errorf("%s of %s: %+v, from %d to %d should remain", operation, subject, a, least, most)
	}
}

// nothingLeft fails unless every limit is empty: also those that nobody has used.
func (s *station) nothingLeft(v *victim) {
	s.t.Helper()
	for _, operation := range []string{"few", "many"} {
		for _, subject := range []string{"ann", "nobody has asked for this one"} {
			if a := s.take(v, operation, subject, 1); a.Allowed || len(a.Limits) != 1 || a.Limits[0].Remaining != 0 {
				s.t.Errorf("%s of %s: %+v", operation, subject, a)
			}
		}
	}
}

// stop ends a process in order.
func (s *station) stop(v *victim) {
	s.t.Helper()
	s.client.CloseIdleConnections()
	v.stop(s.t)
}

// metric fails unless /metrics has the line.
func (s *station) metric(v *victim, line string) {
	s.t.Helper()
	if _, text := get(s.t, v.url+"/metrics"); !strings.Contains(text, "\n"+line+"\n") {
		s.t.Errorf("no line %s in\n%s", line, text)
	}
}

// elsewhere returns a station beside s whose data directory is a copy of that of s,
// made with cp -r.
func (s *station) elsewhere() *station {
	s.t.Helper()
	c := *s
	c.data = filepath.Join(s.t.TempDir(), "data")
	copyTree(s.t, s.data, c.data)
	return &c
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-r", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// database is the file that has the states.
func (s *station) database() string { return filepath.Join(s.data, "limits.db") }

// edit runs a statement on the database, which nobody uses. Package sqlitestore has
// registered the driver.
func (s *station) edit(statement string) {
	s.t.Helper()
	db, err := sql.Open("sqlite", s.database())
	must(s.t, err)
	_, err = db.ExecContext(s.t.Context(), statement)
	must(s.t, err)
	must(s.t, db.Close())
}

// overwrite replaces bytes of the database.
func (s *station) overwrite(at int64, b []byte) {
	s.t.Helper()
	f, err := os.OpenFile(s.database(), os.O_RDWR, 0)
	must(s.t, err)
	_, err = f.WriteAt(b, at)
	must(s.t, err)
	must(s.t, f.Close())
}
