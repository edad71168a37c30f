package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/records"
	"github.com/headgate/headgate/store/memstore"
)

// office is an administration, where the verbs look for it.
type office struct {
	gate    *gate.Gate
	records *records.DB
	meter   *meter.Meter
	node    admin.NodeState
	// broken, if it is set, ends answers in the middle.
	broken atomic.Bool
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{node: admin.NodeState{
		Name: "node-1", Started: time.Now().Add(-50 * time.Hour), Version: "v1.0.0", Ready: true, PolicyRevision: 7, PolicyOK: true, Store: "redis", StoreUp: true,
		Breaker: "closed", Leases: 3, Records: "sqlite", RecordsOK: true, DecisionsPerSecond: 12.34, MemoryBytes: 1 << 20, MemoryLimit: 1 << 30,
	}}
	var err error
	store := memstore.New(memstore.Config{MaxBytes: 1 << 20})
	if o.gate, err = gate.Open(t.Context(), gate.Config{Policy: []byte(scriptPolicy), Store: store}); err != nil {
		t.Fatal(err)
	}
	if o.records, err = records.Open(t.Context(), records.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "records.db")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.records.Close() })
	o.meter = meter.New(meter.Config{Records: o.records})
	limiter, err := headgate.New(store, headgate.PerMinute(10))
	if err != nil {
		t.Fatal(err)
	}
	const token = "hga_0123456789abcdef0123456789abcdef"
	mux := http.NewServeMux()
	for pattern, h := range admin.Routes(admin.Config{
		Gate: o.gate, Journal: journal.New(journal.Config{}), Guard: access.New(access.Config{Token: token, Failures: limiter}),
		Records: o.records, Meter: o.meter, Node: func() admin.NodeState { return o.node },
	}) {
		mux.Handle(pattern, h)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.broken.Load() {
			w = &breaking{ResponseWriter: w}
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Setenv("HEADGATE_SERVER", server.URL)
	t.Setenv("HEADGATE_TOKEN", token)
	return o
}

// breaking is a connection that breaks with the second write.
type breaking struct {
	http.ResponseWriter
	writes int
}

func (b *breaking) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b *breaking) Write(p []byte) (int, error) {
	if b.writes++; b.writes > 1 {
		panic(http.ErrAbortHandler)
	}
	return b.ResponseWriter.Write(p)
}

// use puts some usage on record: an hour of each subject.
func (o *office) use(t *testing.T, subjects ...string) {
	t.Helper()
	at := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)
	var rows []records.Usage
	for i, name := range subjects {
		rows = append(rows, records.Usage{
			Application: "email", Subject: name, Operation: "sendEmail", Plan: "free", Unit: "requests", Timezone: "UTC", Anchor: 1,
			Period: at, Day: at.Unix() / 86400, Month: at.Unix()/86400 - 8, Allowed: int64(i), Denied: 1, Cost: 5,
		})
	}
	if err := o.records.Report(t.Context(), "test", 1, rows); err != nil {
		t.Fatal(err)
	}
}

// runVerb runs a verb and returns what it writes.
func runVerb(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, fault bytes.Buffer
	if code := run(t.Context(), args, &out, &fault); code != want {
		t.Errorf("%q: exit code %d, want %d\n%s%s", args, code, want, out.String(), fault.String())
	}
	return out.String(), fault.String()
}

// wants runs a verb whose output, or for failures standard error, matches.
func wants(t *testing.T, code int, pattern string, args ...string) {
	t.Helper()
	out, fault := runVerb(t, code, args...)
	if code != exitDone {
		out = fault
	}
	if !regexp.MustCompile("(?m)" + pattern).MatchString(out) {
		t.Errorf("%q: no %s in\n%s", args, pattern, out)
	}
}

func TestUsageTable(t *testing.T) {
	o := newOffice(t)
	wants(t, 0, `^nothing was used$`, "usage")
	o.use(t, "alice", "bob\x1b[31m")
	tokens := records.Usage{
		Application: "email", Subject: "carol", Operation: "sendEmail", Plan: "free", Unit: "tokens", Timezone: "Asia/Kathmandu", Anchor: 15,
		Period: time.Now().Truncate(time.Hour), Day: time.Now().Unix() / 86400, Month: time.Now().Unix() / 86400, Allowed: 1, Cost: 3000, Overage: 20,
	}
	if err := o.records.Report(t.Context(), "test", 2, []records.Usage{tokens}); err != nil {
		t.Fatal(err)
	}
	const day = `^DAY         WHO       WHAT             PLAN  ALLOWED  DENIED  COST\n2026-03-09  alice     email sendEmail  free  0        1       5\n2026-03-09  bob\?\[31m  email sendEmail  free  1        1       5\n$`
	wants(t, 0, day, "usage", "--to", "2026-04")
	wants(t, 0, `^2026-03-09 12:00  alice `, "usage", "--period", "hour", "--subject", "alice")
	wants(t, 0, `^MONTH    WHO    WHAT             PLAN  ALLOWED  DENIED  COST\n2026-03  alice  `, "usage", "--period", "month", "--subject", "alice", "--limit", "1")
	wants(t, 0, `^\d\d\d\d-\d\d-\d\d\*  carol .* 3000 tokens  20$`, "usage", "--unit", "tokens", "--from", "240h")
	wants(t, 0, `^\* is not final yet\.$`, "usage", "--unit", "tokens")
	wants(t, 0, `^MONTH +WHO .* OVER\n\d\d\d\d-\d\d-15\*  carol`, "usage", "--unit", "tokens", "--period", "month")
	out, _ := runVerb(t, 0, "usage", "--limit", "1")
	next := regexp.MustCompile(`--after=(\S+) goes on`).FindStringSubmatch(out)
	if next == nil {
		t.Fatal(out)
	}
	wants(t, 0, `bob`, "usage", "--limit", "1", "--after", next[1])
	wants(t, 0, `^\{"items":\[\{"application":"email","subject":"alice",`, "usage", "--json", "--application", "email", "--plan", "free", "--operation", "sendEmail")
	for line := range strings.SplitSeq(out, "\n") {
		if n := len([]rune(line)); n > columns && !strings.Contains(line, "--after") {
			t.Errorf("%d characters: %s", n, line)
		}
	}

	wants(t, 1, `^headgate: application: "mail" is not in the policy$`, "usage", "--application", "mail")
	wants(t, 64, `^headgate: --period "week": must be hour, day or month$`, "usage", "--period", "week")
	wants(t, 64, `^headgate: --from "yesterday": must be an instant such as`, "usage", "--from", "yesterday")
	wants(t, 64, `^headgate: --to "-1h": must be an instant`, "usage", "--to", "-1h")
	wants(t, 64, `^headgate: --to 2026-03: must be later than --from 2026-03:`, "usage", "--from", "2026-03", "--to", "2026-03")
	wants(t, 64, `^headgate: --limit 501: must be 1 to 500$`, "usage", "--limit", "501")
	wants(t, 64, `^headgate: cursor "x": must be the next of an answer$`, "usage", "--after", "x")
	wants(t, 64, `^headgate: usage: headgate usage`, "usage", "alice")
}

func TestUsageExport(t *testing.T) {
	o := newOffice(t)
	var names []string
	for i := range 1200 {
		names = append(names, fmt.Sprintf("s%04d", i))
	}
	names[3], names[4] = "=1+1", `a"b`
	o.use(t, names...)
	dir := t.TempDir()
	file := filepath.Join(dir, "out.csv")
	whole, fault := runVerb(t, 0, "usage", "export")
	if table, err := csv.NewReader(strings.NewReader(whole)).ReadAll(); err != nil || len(table) != 1201 || fault != "" {
		t.Errorf("%d lines, %v, %s", len(table), err, fault)
	}
	if !strings.Contains(whole, "\nemail,'=1+1,sendEmail,free,requests,2026-03-09T00:00:00Z,2026-03-10T00:00:00Z,UTC,3,1,5,0,1,true\n") {
		t.Error("no formula made harmless")
	}
	read := func(want string) {
		t.Helper()
		got, err := os.ReadFile(file)
		if err != nil || string(got) != want {
			t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%v, %v", left, err)
		}
	}
	wants(t, 0, `^`+file+`: 1200 rows$`, "usage", "export", "-o", file)
	read(whole)
	if same, _ := runVerb(t, 0, "usage", "export", "-o", "-"); same != whole {
		t.Error("made again it is another one")
	}
	wants(t, 1, `^headgate: `+file+` exists: name a file that does not$`, "usage", "export", "-o", file)
	wants(t, 0, `^`+file+`: 1 row$`, "usage", "export", "-o", file, "--force", "--format", "jsonl", "--subject", "s0007", "--period", "month", "--from", "2026-03", "--to", "2026-04")
	line := `{"application":"email","subject":"s0007","operation":"sendEmail","plan":"free","unit":"requests","from":"2026-03-01T00:00:00Z","to":"2026-04-01T00:00:00Z",` +
		`"timezone":"UTC","allowed":7,"denied":1,"cost":5,"overage":0,"revision":1,"final":true}` + "\n"
	read(line)
	wants(t, 0, `: 0 rows$`, "usage", "export", "-o", filepath.Join(t.TempDir(), "new"), "--force", "--subject", "nobody")

	// A part of an export never looks like a whole one.
	o.broken.Store(true)
	wants(t, 1, `^headgate: the export broke off after 500 rows, it is not whole: unexpected EOF$`, "usage", "export", "-o", file, "--force")
	read(line)
	wants(t, 1, `^headgate: the export broke off after 500 rows, it is not whole`, "usage", "export", "--format", "jsonl")
	o.broken.Store(false)

	wants(t, 1, `^headgate: application: "mail" is not in the policy$`, "usage", "export", "--application", "mail", "-o", file, "--force")
	read(line)
	wants(t, 1, `no directory`, "usage", "export", "-o", filepath.Join(dir, "none", "out.csv"))
	wants(t, 1, `exists`, "usage", "export", "-o", dir)
	wants(t, 1, ` is not replaced: it is no file$`, "usage", "export", "-o", dir, "--force")
	wants(t, 1, ` is not replaced: it is no file$`, "usage", "export", "-o", os.DevNull, "--force")
	wants(t, 64, `^headgate: --format "xml": must be csv or jsonl$`, "usage", "export", "--format", "xml")
	wants(t, 64, `^headgate: --output is empty`, "usage", "export", "-o", "")
	wants(t, 64, `^headgate: --force needs --output`, "usage", "export", "--force")
	wants(t, 64, `^headgate: --period "week"`, "usage", "export", "--period", "week")
	wants(t, 64, `^headgate: --from "x"`, "usage", "export", "--from", "x")
	wants(t, 64, `^headgate: usage: headgate usage export`, "usage", "export", "out.csv")
	t.Setenv("HEADGATE_SERVER", "127.0.0.1:1")
	wants(t, 1, `^headgate: no server at 127.0.0.1:1`, "usage", "export")
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	t.Setenv("HEADGATE_SERVER", other.URL)
	wants(t, 1, `is it a Headgate server\?$`, "usage", "export")
}

// A disk that is full ends an export, and it says so.
func TestUsageExportFull(t *testing.T) {
	o := newOffice(t)
	o.use(t, "alice")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var fault bytes.Buffer
	if code := run(t.Context(), []string{"usage", "export"}, full, &fault); code != 1 || !strings.Contains(fault.String(), "no space left") {
		t.Errorf("%d: %s", code, fault.String())
	}
}

// The bar ends with the work, whatever was thought of how much there is.
func TestProgress(t *testing.T) {
	for _, total := range []int64{-1, 0, 5, 10, 100} {
		var screen bytes.Buffer
		p := showProgress(&screen, total)
		for range 10 {
			p.add(1)
		}
		p.end()
		got := screen.String()
		last := got[strings.LastIndex(got[:max(len(got)-1, 0)], "\r")+1:]
		if (got == "") != (total == 0) || strings.Trim(last, " \r") != "" {
			t.Errorf("total %d: %q", total, got)
		}
		if total > 0 && !strings.Contains(got, fmt.Sprintf("0/%d", total)) {
			t.Errorf("total %d: %q", total, got)
		}
	}
	newProgress(io.Discard, func() int64 {
		t.Error("asked, and nobody looks")
		return 0
	}).end()
}

func TestRowWriter(t *testing.T) {
	for _, tt := range []struct {
		text   string
		quotes bool
		want   int
	}{{"a,b\n\"c\nd\",e\n\"\"\"\n\"\n", true, 3}, {"{\"a\":\"\\\"\"}\n{}\n", false, 2}, {"", true, 0}} {
		for _, size := range []int{1, 3, 100} {
			w := &rowWriter{to: io.Discard, quotes: tt.quotes, bar: new(progress)}
			for part := range slices.Chunk([]byte(tt.text), size) {
				w.Write(part)
			}
			if w.lines != tt.want {
				t.Errorf("%q by %d: %d lines", tt.text, size, w.lines)
			}
		}
	}
}
