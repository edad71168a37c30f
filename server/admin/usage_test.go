package admin

import (
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // where the machine has none

	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/records"
)

// ledger is a site with usage on record.
type ledger struct {
	*site
	meter   *meter.Meter
	now     time.Time
	reports int64
}

// began is when usage begins in the tests.
var began = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func newLedger(t *testing.T) *ledger {
	l := &ledger{site: newSite(t), now: began.AddDate(0, 2, 0)}
	l.meter = meter.New(meter.Config{Records: l.records, Now: func() time.Time { return l.now }})
	l.serve(l.meter)
	return l
}

// serve makes the routes those of a server with that meter.
func (l *ledger) serve(m counting) {
	mux := http.NewServeMux()
	for pattern, h := range Routes(Config{
		Gate: l.gate, Journal: journal.New(journal.Config{}), Guard: l.guard, Records: l.records, Meter: m,
		Node: func() NodeState { return NodeState{Name: "node-1", Started: began, Version: "v1"} },
	}) {
		mux.Handle(pattern, h)
	}
	l.handler = mux
}

// used is an hour of usage of email, of a subject in a zone.
func used(t *testing.T, subject, zone string, at time.Time, cost int64) records.Usage {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	days := func(y int, m time.Month, d int) int64 { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400 }
	local := at.In(loc)
	return records.Usage{
		Application: "email", Subject: subject, Operation: "send", Plan: "free", Unit: "requests", Timezone: zone, Anchor: 1, Period: at,
		Day: days(local.Date()), Month: days(local.Year(), local.Month(), 1), Allowed: 1, Denied: 2, Cost: cost, Overage: 1,
	}
}

func (l *ledger) report(rows ...records.Usage) {
	l.t.Helper()
	l.reports++
	if err := l.records.Report(l.t.Context(), "test", l.reports, rows); err != nil {
		l.t.Fatal(err)
	}
}

// lines asks for usage as JSON lines.
func (l *ledger) lines(parameters string) []string {
	l.t.Helper()
	w := l.do("GET", "/v1/usage?format=jsonl"+parameters, "", 200)
	return slices.Collect(strings.Lines(w.Body.String()))
}

// many is some weeks of usage of some subjects.
func (l *ledger) many(subjects int) {
	l.t.Helper()
	var rows []records.Usage
	for s := range subjects {
		zone := []string{"UTC", "Asia/Kathmandu", "America/New_York"}[s%3]
		for h := range 4 {
			at := began.Add(time.Duration(h*260) * time.Hour)
			if zone == "Asia/Kathmandu" {
				at = at.Add(15 * time.Minute)
			}
			rows = append(rows, used(l.t, fmt.Sprintf("s%04d", s), zone, at, int64(s)))
		}
	}
	l.report(rows...)
}

func TestUsage(t *testing.T) {
	l := newLedger(t)
	bob := used(t, "bob", "UTC", began.Add(time.Hour), 3)
	bob.Application, bob.Unit, bob.Operation, bob.Plan = "web", "tokens", "x", ""
	l.report(used(t, "alice", "Asia/Kathmandu", began.Add(15*time.Minute), 5), used(t, "alice", "Asia/Kathmandu", began.Add(75*time.Minute), -1), bob)
	row := func(subject, from, to string) string {
		if subject == "bob" {
			return `{"application":"web","subject":"bob","operation":"x","plan":"","unit":"tokens","from":"` + from + `","to":"` + to +
				`","timezone":"UTC","allowed":1,"denied":2,"cost":3,"overage":1,"revision":1,"final":true}`
		}
		return `{"application":"email","subject":"alice","operation":"send","plan":"free","unit":"requests","from":"` + from + `","to":"` + to +
			`","timezone":"Asia/Kathmandu","allowed":2,"denied":4,"cost":4,"overage":2,"revision":1,"final":true}`
	}
	alice := row("alice", "2026-03-01T00:00:00+05:45", "2026-03-02T00:00:00+05:45")
	both := alice + "," + row("bob", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z")
	list := func(items string) string { return `{"items":[` + items + `],"next":null}` + "\n" }
	for parameters, want := range map[string]string{
		"": list(both),
		"?period=month": list(row("alice", "2026-03-01T00:00:00+05:45", "2026-04-01T00:00:00+05:45") + "," +
			row("bob", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z")),
		"?period=hour&application=web":   list(row("bob", "2026-03-01T01:00:00Z", "2026-03-01T02:00:00Z")),
		"?subject=alice&total=true":      `{"items":[` + alice + `],"next":null,"total":1}` + "\n",
		"?operation=send":                list(alice),
		"?plan=free&unit=requests":       list(alice),
		"?unit=tokens":                   list(row("bob", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z")),
		"?subject=nobody":                list(""),
		"?application=web&subject=alice": list(""),
		"?from=2026-03-01&to=2026-03-02": list(both), // the day of each
		"?from=2026-03-02":               list(""),
		"?to=2026-03":                    list(""),
		"?period=hour&from=2026-03-01&to=2026-03-02&application=web": list(row("bob", "2026-03-01T01:00:00Z", "2026-03-01T02:00:00Z")),
		"?from=2026-02-28T18:15:00Z&to=2026-03-01T00:00:00Z":         list(alice),
		"?from=2026-03-01T00:00:00%2B05:45":                          list(both),
		"?from=2026-02-28T18:15:00.000001Z":                          list(row("bob", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z")),
		"?from=2026-02&to=2026-03&period=month":                      list(""),
		"?from=2026-03&to=2026-04&period=month&application=email":    list(row("alice", "2026-03-01T00:00:00+05:45", "2026-04-01T00:00:00+05:45")),
		"?from=1h": list(""),
		"?to=1h&format=json&total=false&application": list(both),
	} {
		w := l.do("GET", "/v1/usage"+parameters, "", 200)
		if got := w.Body.String(); got != want {
			t.Errorf("%s:\n got %s\nwant %s", parameters, got, want)
		}
		if kind := w.Header().Get("Content-Type"); kind != typeJSON {
			t.Errorf("%s: Content-Type %q", parameters, kind)
		}
	}
	w := l.do("GET", "/v1/usage?format=jsonl", "", 200)
	if got, want := w.Body.String(), strings.ReplaceAll(both, "},{", "}\n{")+"\n"; got != want || w.Header().Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("got %q %s\nwant %s", w.Header(), got, want)
	}
	w = l.do("GET", "/v1/usage?format=csv", "", 200)
	const table = `application,subject,operation,plan,unit,from,to,timezone,allowed,denied,cost,overage,revision,final
email,alice,send,free,requests,2026-03-01T00:00:00+05:45,2026-03-02T00:00:00+05:45,Asia/Kathmandu,2,4,4,2,1,true
web,bob,x,,tokens,2026-03-01T00:00:00Z,2026-03-02T00:00:00Z,UTC,1,2,3,1,1,true
`
	if got := w.Body.String(); got != table || w.Header().Get("Content-Type") != "text/csv; charset=utf-8; header=present" {
		t.Errorf("got %q %s\nwant %s", w.Header(), got, table)
	}
	if w := l.do("GET", "/v1/usage?format=csv&subject=nobody", "", 200); w.Body.String() != table[:strings.Index(table, "\n")+1] {
		t.Errorf("nothing: %s", w.Body)
	}
	if w := l.as(testToken, "HEAD", "/v1/usage?format=csv", ""); w.Code != 200 || w.Body.Len() != 0 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/csv") {
		t.Errorf("HEAD: %d, %q, %q", w.Code, w.Header(), w.Body)
	}
}

// The columns of a table are the fields of a row.
func TestUsageColumns(t *testing.T) {
	var fields []string
	for f := range reflect.TypeFor[usageItem]().Fields() {
		fields = append(fields, f.Tag.Get("json"))
	}
	if !slices.Equal(fields, usageColumns) {
		t.Errorf("columns %q, fields %q", usageColumns, fields)
	}
}

func TestUsageAccept(t *testing.T) {
	l := newLedger(t)
	for accept, want := range map[string]string{
		"":                                       typeJSON,
		"*/*":                                    typeJSON,
		"text/html, */*;q=0.8":                   typeJSON,
		"text/csv":                               typeCSV,
		"TEXT/CSV; header=present":               typeCSV,
		"application/x-ndjson":                   typeLines,
		"text/csv;q=0.5, application/json;q=0.9": typeJSON,
		"text/csv, application/x-ndjson;q=0.9":   typeCSV,
		"text/csv;q=0":                           typeJSON,
		"text/csv;q=x, application/x-ndjson":     typeLines,
		";;, application/x-ndjson;q=0.1":         typeLines,
	} {
		w := l.as(testToken, "GET", "/v1/usage", "", "Accept", accept)
		if got, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";"); got != want || w.Code != 200 {
			t.Errorf("Accept %q: %d %s, want %s", accept, w.Code, got, want)
		}
	}
	w := l.as(testToken, "GET", "/v1/usage?format=json", "", "Accept", "text/csv")
	wantAnswer(t, w, 200, `{"items":[],"next":null}`)
}

// Pages and streams have every row once, in one order.
func TestUsagePages(t *testing.T) {
	l := newLedger(t)
	l.many(210) // more than the records read in one go
	for _, period := range []string{"hour", "day", "month"} {
		for _, q := range []string{"", "&from=2026-03-05&to=2026-04-02"} {
			q = "&period=" + period + q
			want := l.lines(q)
			if len(want) < 210 {
				t.Fatalf("%s: %d rows", q, len(want))
			}
			var got []string
			cursor, pages := "", 0
			for {
				total := cursor == ""
				w := l.do("GET", fmt.Sprintf("/v1/usage?limit=97&total=%t%s&cursor=%s", total, q, cursor), "", 200)
				var page struct {
					Items []json.RawMessage
					Next  string
					Total int
				}
				if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
					t.Fatal(err)
				}
				for _, item := range page.Items {
					got = append(got, string(item)+"\n")
				}
				// Where a range begins and ends within rows it is about so many.
				if exact := q == "&period="+period; exact && total && page.Total != len(want) || total != (page.Total > 0) {
					t.Errorf("%s: total %d of %d", q, page.Total, len(want))
				}
				if pages++; page.Next == "" {
					break
				}
				if len(page.Items) != 97 {
					t.Errorf("%s: a page of %d", q, len(page.Items))
				}
				cursor = page.Next
			}
			if !slices.Equal(got, want) || pages != (len(want)+96)/97 {
				t.Errorf("%s: %d rows on %d pages, want %d", q, len(got), pages, len(want))
			}
			w := l.do("GET", "/v1/usage?format=csv"+q, "", 200)
			table, err := csv.NewReader(w.Body).ReadAll()
			if err != nil || len(table) != len(want)+1 {
				t.Fatalf("%s: %d lines, %v", q, len(table), err)
			}
			for i, line := range table[1:] {
				var item usageItem
				if err := json.Unmarshal([]byte(want[i]), &item); err != nil || line[1] != item.Subject || line[5] != item.From || line[10] != strconv.FormatInt(item.Cost, 10) {
					t.Fatalf("%s: %q, %s, %v", q, line, want[i], err)
				}
			}
		}
	}
}

// An export that is made again is the same, byte for byte, but for rows of other
// revisions, and for what has become final.
func TestUsageAgain(t *testing.T) {
	l := newLedger(t)
	l.now = began.Add(900 * time.Hour)
	l.many(30)
	for _, period := range []string{"hour", "day", "month"} {
		before := l.lines("&period=" + period)
		if !slices.Equal(before, l.lines("&period="+period)) {
			t.Error("two exports differ")
		}
		l.report(used(t, "s0003", "UTC", began.Add(2*260*time.Hour), 1))
		changed := 0
		for i, line := range l.lines("&period=" + period) {
			var was, is usageItem
			if json.Unmarshal([]byte(before[i]), &was) != nil || json.Unmarshal([]byte(line), &is) != nil {
				t.Fatalf("%s %s", before[i], line)
			}
			if (was.Revision == is.Revision) != (before[i] == line) {
				t.Errorf("revisions %d, %d: %s%s", was.Revision, is.Revision, before[i], line)
			}
			if before[i] != line {
				changed++
				if is.Subject != "s0003" || is.Revision <= was.Revision || is.Cost != was.Cost+1 {
					t.Errorf("%s%s", before[i], line)
				}
			}
		}
		if changed != 1 {
			t.Errorf("%s: %d rows are others", period, changed)
		}
	}
	before := l.lines("&period=month")
	open := 0
	l.now = began.AddDate(0, 3, 0)
	for i, line := range l.lines("&period=month") {
		if strings.Contains(before[i], `"final":false`) {
			open++
		}
		if line != strings.Replace(before[i], `"final":false`, `"final":true`, 1) {
			t.Errorf("%s%s", before[i], line)
		}
	}
	if open == 0 || open == len(before) {
		t.Errorf("%d rows of %d were not final", open, len(before))
	}
}

func TestUsageFaults(t *testing.T) {
	l := newLedger(t)
	cursor, err := writeUsageCursor(records.Month, &records.Usage{Application: "email", Unit: "requests"})
	if err != nil {
		t.Fatal(err)
	}
	raw := func(s string) string { return "cursor=" + url.QueryEscape(rawCursor(s)) }
	for parameters, want := range map[string][2]string{
		"period=week":                             {"period", "must be hour, day or month"},
		"from=yesterday":                          {"from", `from \"yesterday\": must be an instant such as`},
		"from=-1h":                                {"from", "must be an instant"},
		"from=2026-13":                            {"from", "must be an instant"},
		"from=2026-02-30":                         {"from", "must be an instant"},
		"from=1969-12-31":                         {"from", "from 1970-01-02 on"},
		"from=0001-01-01T00:00:00Z":               {"from", "from 1970-01-02 on"},
		"to=0001-01-01":                           {"to", `to \"0001-01-01\": must be an instant`},
		"to=2026":                                 {"to", "must be an instant"},
		"from=2026-03&to=2026-03":                 {"to", `to \"2026-03\": must be later than from \"2026-03\"`},
		"from=2026-03-02&to=2026-03-01":           {"to", "must be later than from"},
		"format=xml":                              {"format", "must be json, jsonl or csv"},
		"limit=0":                                 {"limit", "must be 1 to 500"},
		"limit=501":                               {"limit", "must be 1 to 500"},
		"limit=many":                              {"limit", "must be 1 to 500"},
		"total=1":                                 {"total", "must be true or false"},
		"format=csv&limit=5":                      {"limit", "limit is for format=json"},
		"format=jsonl&cursor=x":                   {"cursor", "cursor is for format=json"},
		"format=csv&total=true":                   {"total", "total is for format=json"},
		"cursor=x":                                {"cursor", "must be the next of an answer"},
		raw(`{}`):                                 {"cursor", "must be the next of an answer"},
		raw(`[1]`):                                {"cursor", "must be the next of an answer"},
		raw(`{"span":1,"unit":"a","more":1}`):     {"cursor", "must be the next of an answer"},
		raw(`{"span":1,"unit":"a\u0000"}`):        {"cursor", "must be the next of an answer"},
		raw(`{"span":7,"unit":"a"}`):              {"cursor", "another period"},
		"cursor=" + cursor:                        {"cursor", "another period"},
		"subject=%00":                             {"subject", "is no UTF-8, or has NUL"},
		"subject=%ff":                             {"subject", "is no UTF-8, or has NUL"},
		"operation=a%00":                          {"operation", "is no UTF-8"},
		"plan=%ff":                                {"plan", "is no UTF-8"},
		"unit=%ff":                                {"unit", "is no UTF-8"},
		"application=%ff":                         {"application", "is no UTF-8"},
		"colour=red":                              {"colour", "unknown parameter; there are application, subject"},
		"period=day&period=month":                 {"period", "given twice"},
		"format=json&format=json":                 {"format", "given twice"},
		"from=" + strings.Repeat("9", 100):        {"from", "must be an instant"},
		"from=9999999h&period=hour&format=jsonl":  {"from", "from 1970-01-02 on"},
		"from=2026-03-01T00:00:00&period=month":   {"from", "must be an instant"},
		"application=email&period=DAY&subject=ab": {"period", "must be hour, day or month"},
	} {
		l.do("GET", "/v1/usage?"+parameters, "", 400, `"field":"`+want[0]+`"`, `"pointer":"/`+want[0]+`"`, want[1])
	}
	for _, format := range []string{"json", "jsonl", "csv"} {
		l.do("GET", "/v1/usage?application=mail&format="+format, "", 404, `"field":"application"`, `\"mail\" is not in the policy`)
		l.do("GET", "/v1/usage?application=web&format="+format, "", 200)
	}
	l.do("POST", "/v1/usage", "{}", 405, "use GET, HEAD")

	// Of an application that has left the policy what was used is told.
	gone := used(t, "alice", "UTC", began, 1)
	gone.Application = "gone"
	l.report(gone)
	l.do("GET", "/v1/usage?application=gone", "", 200, `"subject":"alice"`)

	wantAnswer(t, l.as("emailer", "GET", "/v1/usage", ""), 400, `"field":"application"`, "not for all applications")
	wantAnswer(t, l.as("emailer", "GET", "/v1/usage?application=gone", ""), 404, "not in the policy")
	wantAnswer(t, l.as("emailer", "GET", "/v1/usage?application=gone&format=csv", ""), 404, "not in the policy")
	if w := l.as("emailer", "GET", "/v1/usage?application=email", ""); w.Code != 200 || strings.Contains(w.Body.String(), "gone") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantAnswer(t, l.as("nobody", "GET", "/v1/usage", ""), 401, "unauthorized")

	l.records.Close()
	for _, format := range []string{"json", "jsonl", "csv"} {
		l.do("GET", "/v1/usage?format="+format, "", 503, "records_unavailable")
	}
}

// flaky is a meter whose records fail after some pages.
type flaky struct {
	counting
	pages int
}

var errFlaky = errors.New("the records are away")

func (f *flaky) Usage(ctx context.Context, q records.UsageQuery) ([]meter.Row, *records.Usage, bool, error) {
	if f.pages--; f.pages < 0 {
		return nil, nil, false, errFlaky
	}
	return f.counting.Usage(ctx, q)
}

// A stream that ends before its end does not look like a whole one, and one that takes
// longer than the server has for an answer is whole.
func TestUsageBreaks(t *testing.T) {
	l := newLedger(t)
	l.many(210)
	whole := l.lines("&period=hour")
	fetch := func(format string) (string, error) {
		server := httptest.NewUnstartedServer(l.handler)
		server.Config.WriteTimeout = time.Nanosecond // is over before anything is written
		server.Start()
		defer server.Close()
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/v1/usage?period=hour&format="+format, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+testToken)
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	if got, err := fetch("jsonl"); err != nil || got != strings.Join(whole, "") {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	l.serve(&flaky{l.meter, 1})
	if got, err := fetch("jsonl"); !errors.Is(err, io.ErrUnexpectedEOF) || got != strings.Join(whole[:500], "") {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	l.serve(&flaky{l.meter, 1})
	if got, err := fetch("csv"); !errors.Is(err, io.ErrUnexpectedEOF) || strings.Count(got, "\n") != 501 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestCell(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "alice": "alice", "a=1": "a=1", "5": "5", "'": "'", "'alice": "'alice", " a-b": " a-b", "é": "é", "a\t=": "a\t=",
		"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "\t=1": "'\t=1", "\rx": "'\rx", "\nx": "'\nx",
		"  =1": "'  =1", " \tx": "' \tx", "\u00a0=1": "'\u00a0=1", "\u3000+1": "'\u3000+1", "\ufeff=1": "'\ufeff=1", "\u200b=1": "'\u200b=1", "\x01=1": "'\x01=1",
		"＝1": "'＝1", "＋1": "'＋1", "－1": "'－1", "＠x": "'＠x", "'=1": "''=1", "''=1": "'''=1", " '=1": "' '=1",
	} {
		if got := cell(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

// FuzzCell: what is written can be read back, and what runs has a ' in front.
func FuzzCell(f *testing.F) {
	for _, s := range []string{"alice", "=1", "'=1", " '\t", "'", "''＝"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := cell(s)
		back := got
		if runs(got) {
			back = got[1:]
		}
		if back != s || strings.HasPrefix(s, "=") && got[0] != '\'' {
			t.Errorf("%q becomes %q and %q", s, got, back)
		}
	})
}

// What stands in names is quoted, and does nothing in a spreadsheet.
func TestUsageInjection(t *testing.T) {
	l := newLedger(t)
	names := []string{`=HYPERLINK("http://evil.example","x")`, "-2+3", `a"b`, "a,b", "@x", "＝1"}
	for _, name := range names {
		u := used(t, name, "UTC", began, -5)
		u.Operation = name
		l.report(u)
	}
	w := l.do("GET", "/v1/usage?format=csv", "", 200)
	body := w.Body.String()
	table, err := csv.NewReader(strings.NewReader(body)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	for i, line := range table[1:] {
		if line[1] != cell(names[i]) || line[2] != line[1] || line[10] != "-5" {
			t.Errorf("%q: %q", names[i], line)
		}
	}
	if !strings.Contains(body, `email,"'=HYPERLINK(""http://evil.example"",""x"")",`) || !strings.Contains(body, `"a,b"`) {
		t.Error(body)
	}
}

func rawCursor(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
