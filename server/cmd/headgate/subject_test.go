package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestParseOverride(t *testing.T) {
	zone := time.FixedZone("", 5*3600)
	now := time.Date(2026, 3, 9, 12, 0, 0, 999, time.UTC).In(zone)
	tests := []struct{ in, want string }{
		{"plan/daily=5000/day", `{"limit":"plan/daily","rate":"5000/day"}`},
		{"daily=unlimited", `{"limit":"daily","rate":"unlimited"}`},
		{"r/inflight=007", `{"limit":"r/inflight","max":7}`},
		{"r/inflight=0", `{"limit":"r/inflight","max":0}`},
		{"b=7/h,burst=9", `{"limit":"b","rate":"7/h","burst":9}`},
		{"b=7/h,for=48h", `{"limit":"b","rate":"7/h","until":"2026-03-11T17:00:00+05:00"}`},
		{"b=7/h,for=1h,from=2026-12-24T00:00:00Z", `{"limit":"b","rate":"7/h","from":"2026-12-24T00:00:00Z","until":"2026-12-24T01:00:00Z"}`},
		{"b=7/h,from=2026-12-24,until=2026-12-24T18:30", `{"limit":"b","rate":"7/h","from":"2026-12-24T00:00:00+05:00","until":"2026-12-24T18:30:00+05:00"}`},
		{"b=7/h,burst=9,note=a, b=c, d", `{"limit":"b","rate":"7/h","burst":9,"note":"a, b=c, d"}`},
		{"", "must be LIMIT=NUMBERS"},
		{"b", "must be LIMIT=NUMBERS"},
		{"=7/h", "must be LIMIT=NUMBERS"},
		{"b=", "must be LIMIT=NUMBERS"},
		{"b=7/h,burst=x", `burst "x": must be a whole number from 1`},
		{"b=7/h,burst=0", `burst "0": must be`},
		{"b=7/h,burst=1,burst=2", "burst is given twice"},
		{"b=7/h,until=tomorrow", `until "tomorrow": must be an instant such as`},
		{"b=7/h,from=2026-13-01", `from "2026-13-01": must be`},
		{"b=7/h,for=2d", `for "2d": must be a time from 1s, such as 48h`},
		{"b=7/h,for=-1h", `for "-1h": must be`},
		{"b=7/h,for=1h,until=2026-12-24", "for and until are both given"},
		{"b=7/h,colour=red", `"colour=red": must be burst=, from=, until=, for= or note=`},
		{"b=7/h,", `"": must be burst=`},
		{"b=7/h,note=x,for=48h", "the note would end with ,for=...: say note= last"},
	}
	for _, tt := range tests {
		o, err := parseOverride(tt.in, now)
		if err != nil {
			if strings.HasPrefix(tt.want, "{") || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %s", tt.in, err, tt.want)
			}
			continue
		}
		got, err := json.Marshal(o)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: got %s, %v; want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestOverlaps(t *testing.T) {
	at := func(h int) time.Time {
		if h == 0 {
			return time.Time{}
		}
		return now.Add(time.Duration(h) * time.Hour)
	}
	tests := []struct {
		a, b [2]int // from and until; 0 for no bound
		want bool
	}{
		{[2]int{0, 0}, [2]int{0, 0}, true},
		{[2]int{0, 0}, [2]int{3, 4}, true},
		{[2]int{1, 3}, [2]int{2, 4}, true},
		{[2]int{1, 2}, [2]int{2, 4}, false},
		{[2]int{0, 2}, [2]int{2, 0}, false},
		{[2]int{0, 3}, [2]int{2, 0}, true},
		{[2]int{1, 5}, [2]int{2, 3}, true},
	}
	for _, tt := range tests {
		a, b := subjectOverride{From: at(tt.a[0]), Until: at(tt.a[1])}, subjectOverride{From: at(tt.b[0]), Until: at(tt.b[1])}
		if a.overlaps(&b) != tt.want || b.overlaps(&a) != tt.want {
			t.Errorf("%v, %v: got %v and %v, want %v", tt.a, tt.b, a.overlaps(&b), b.overlaps(&a), tt.want)
		}
	}
}

// busy is a server on which somebody else changes a record before each of the first
// writes.
type busy struct {
	version int
	others  int
	reads   int
	wrote   string
}

func (b *busy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodPut {
		if b.others > 0 {
			b.others--
			b.version++
		}
		if r.Header.Get("If-Match") != fmt.Sprintf(`"%d"`, b.version) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusPreconditionFailed)
			io.WriteString(w, `{"type":"urn:headgate:problem:stale","detail":"send If-Match"}`)
			return
		}
		body, _ := io.ReadAll(r.Body)
		b.wrote = string(body)
	} else {
		b.reads++
	}
	fmt.Fprintf(w, `{"application":"a","subject":"s","known":true,"plan":"free","note":"note %d","version":%d,"overrides":[{"limit":"r/inflight","max":20,"note":"n"}]}`, b.version, b.version)
}

// A change is made on what is on record, and a second time where somebody else was
// faster, so that the change of neither is lost.
func TestSubjectChangeStale(t *testing.T) {
	tests := []struct {
		name         string
		others       int
		version      *int64
		reads        int
		wrote, fault string
	}{
		{"alone", 0, nil, 1, `{"plan":"premium","note":"note 5","overrides":[{"limit":"r/inflight","max":20,"note":"n"}]}`, ""},
		{"once", 1, nil, 2, `{"plan":"premium","note":"note 6","overrides":[{"limit":"r/inflight","max":20,"note":"n"}]}`, ""},
		{"always", 9, nil, 2, "", "others change a s at the same time, and nothing was written: try again"},
		{"expected", 0, new(int64(5)), 1, `{"plan":"premium","note":"note 5","overrides":[{"limit":"r/inflight","max":20,"note":"n"}]}`, ""},
		{"overtaken", 1, new(int64(5)), 1, "", "somebody else has just changed a s, and nothing was written: look at it with 'headgate subject get'"},
		{"late", 0, new(int64(4)), 1, "", "a s has version 5, not 4: look at it with 'headgate subject get' before you change it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &busy{version: 5, others: tt.others}
			server := httptest.NewServer(b)
			defer server.Close()
			c := subjectChange{plan: new("premium"), version: tt.version}
			_, err := c.make(t.Context(), &subjectAt{&remote{address: server.URL}, "a", "s"})
			if b.reads != tt.reads || b.wrote != tt.wrote || fmt.Sprint(err) != tt.fault && (err != nil || tt.fault != "") {
				t.Errorf("%d reads, wrote %s, error %v", b.reads, b.wrote, err)
			}
		})
	}
}

func TestPrintSubject(t *testing.T) {
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
	body := `{"application":"email","subject":"al\u001bice","known":true,"plan":"gone","effective_plan":"free","timezone":"Asia/Kathmandu","anchor":31,
		"note":"` + strings.Repeat("pays by invoice, ", 8) + `","ban":{"until":"` + at(90*time.Minute) + `","reason":"spam\u0007"},"version":7,
		"changed_at":"` + at(-time.Hour) + `","changed_by":"support",
		"overrides":[{"limit":"plan/daily","rate":"5000/day","until":"` + at(-time.Minute) + `","note":"over"},
			{"limit":"plan/daily","rate":"9/day","from":"` + at(-time.Hour) + `"},{"limit":"r/inflight","max":1000000,"from":"` + at(time.Hour) + `"},
			{"limit":"r/slots","max":"unlimited","from":"` + at(400*24*time.Hour) + `","until":"` + at(401*24*time.Hour) + `"}],
		"limits":[{"id":"plan/daily","unit":"requests","allowed":false,"limit":5,"used":7,"remaining":0,"reset_after_ms":60000,"mode":"enforce","exact":true},
			{"id":"r/tokens","unit":"tokens","allowed":true,"limit":50,"used":48,"remaining":2,"reset_after_ms":0,"mode":"shadow","exact":false},
			{"id":"r/large","allowed":false,"limit":9,"remaining":1,"mode":"enforce","exact":true},
			{"id":"r/ban","algorithm":"ban","allowed":false,"limit":2,"used":2,"remaining":0,"reset_after_ms":900000,"mode":"enforce","exact":true}]}`
	var s subjectRecord
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	s.print(&b, now)
	const want = `email al?ice
  plan     gone on record, free in force
  zone     Asia/Kathmandu
  anchor   months begin on day 31
  note     pays by invoice, pays by invoice, pays by invoice, pays by invoice,
           pays by invoice, pays by invoice, pays by invoice, pays by invoice,
  banned   until 03-09 13:30, in 1 h 30 min: spam?; by its refusals of r, for
           another 15 min
  changed  03-09 11:00 by support, version 7

OVERRIDE    NUMBERS        HOLDS                                 NOTE
plan/daily  5000/day       over since 03-09 11:59                over
plan/daily  9/day          since 03-09 11:00
r/inflight  max 1000000    from 03-09 13:00
r/slots     max unlimited  2027-04-13 12:00 to 2027-04-14 12:00

LIMIT       STATE              USED             LEFT       FULL AGAIN
plan/daily  used up            7 of 5           0          in 1 min
r/tokens    passes, in shadow  48 of 50 tokens  2 or more  now
r/large     refuses            0 of 9           1          now
r/ban       bans               2 of 2           0          in 15 min
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	(&subjectRecord{Application: "a", Subject: "s", Ban: &subjectBan{Until: now.Add(-time.Second)}}).print(&b, now)
	if want := "a s is not on record\n  plan     none\n\nno limit of its own bounds it\n"; b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
