package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/follow"
	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/records"
	"github.com/headgate/headgate/store/memstore"
)

// officePolicy has five plans, of which rare is that of few subjects and vacant
// that of none.
const officePolicy = `
version: 1
plans:
  free:    {limits: [{name: rate, rate: 1/10s, burst: 100000000}, {name: daily, algorithm: quota, rate: 1000000000/day}]}
  pro:     {limits: [{name: rate, rate: 2/10s, burst: 100000000}, {name: daily, algorithm: quota, rate: 1000000000/day}]}
  premium: {limits: [{name: rate, rate: 3/10s, burst: 100000000}, {name: daily, algorithm: quota, rate: 1000000000/day}]}
  rare:    {limits: [{name: rate, rate: 4/10s, burst: 100000000}, {name: daily, algorithm: quota, rate: 1000000000/day}]}
  vacant:  {limits: []}
applications:
  shop:
    default_plan: free
    rules: [{name: order, match: {operation: order}}]
`

const (
	// aTransaction is how many records or rows of usage are written at once.
	aTransaction = 5_000
	// rarely and seldom are every how many subjects there is one of plan rare and one
	// that is banned.
	rarely, seldom = 10_000, 16_384

	officeToken = "hgt_of-the-benchmark"
	override    = `[{"limit":"plan/daily","rate":"2000000000/day"}]`
)

// planOf is the plan of a subject, by its number.
func planOf(n uint32) string {
	if n%rarely == 17 {
		return "rare"
	}
	return [...]string{"free", "pro", "premium"}[n%3]
}

func isOverridden(n uint32) bool { return n%10 == 3 }
func isBanned(n uint32) bool     { return n%seldom == 5 }

// isRegular says of a subject that it has used something on all days.
func isRegular(n uint32) bool { return n%10 == 0 }

// subjectOf is what is on record of a subject.
func subjectOf(n uint32) records.Subject {
	s := records.Subject{Application: "shop", Name: key(n), Known: true, Plan: planOf(n)}
	if isOverridden(n) {
		s.Overrides = json.RawMessage(override)
	}
	if isBanned(n) {
		s.Ban = records.Ban{Until: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), Reason: "benchmark"}
	}
	return s
}

// theDay is the one on which all subjects have used something; the regular ones have
// also on usageDays-1 days that follow.
var theDay = time.Date(2026, 3, 9, 0, 0, 0, 0, time.UTC)

const usageDays = 4

// hourOf is what a subject has used in an hour.
func hourOf(application, subject string, at time.Time, cost int64) records.Usage {
	days := func(t time.Time) int64 { return t.Unix() / 86400 }
	return records.Usage{
		Application: application, Subject: subject, Operation: "order", Plan: "free", Unit: "requests", Timezone: "UTC", Anchor: 1,
		Period: at, Day: days(at), Month: days(time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC)), Allowed: cost, Cost: cost,
	}
}

// costOf is what a subject has used on each of its days.
func costOf(n uint32) int64 { return int64(n%7) + 1 }

// administration is the management API over a million subjects on record.
type administration struct {
	dir     string
	records *records.DB
	reports int64
	handler http.Handler
}

// office is shared by the benchmarks of a process; nil before the first of them.
var office *administration

// openOffice fills the records once, and brings them to a gate.
func openOffice(b *testing.B) *administration {
	b.Helper()
	if office != nil {
		return office
	}
	dir, err := os.MkdirTemp("", "office")
	if err != nil {
		b.Fatal(err)
	}
	office = &administration{dir: dir} // closed even if it fails
	ctx := context.Background()
	if office.records, err = records.Open(ctx, records.Config{URL: "sqlite:" + filepath.Join(dir, "records.db")}); err != nil {
		b.Fatal(err)
	}
	office.fill(b)
	g := openOfficeGate(b)
	if err := follow.New(follow.Config{Records: office.records, Gate: g}).Load(ctx); err != nil {
		b.Fatal(err)
	}
	failures, err := headgate.New(memstore.New(memstore.Config{MaxBytes: 1 << 20}), headgate.PerMinute(10))
	if err != nil {
		b.Fatal(err)
	}
	mux := http.NewServeMux()
	for pattern, h := range admin.Routes(admin.Config{
		Gate: g, Journal: journal.New(journal.Config{}), Records: office.records,
		Guard: access.New(access.Config{Token: officeToken, Failures: failures}),
		Meter: meter.New(meter.Config{Records: office.records, Now: func() time.Time { return theDay.AddDate(0, 1, 0) }}),
	}) {
		mux.Handle(pattern, h)
	}
	office.handler = mux
	return office
}

// closeOffice deletes what openOffice has made.
func closeOffice() {
	if office == nil {
		return
	}
	if office.records != nil {
		_ = office.records.Close()
	}
	_ = os.RemoveAll(office.dir)
}

func openOfficeGate(b *testing.B) *gate.Gate {
	b.Helper()
	g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(officePolicy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 30})})
	if err != nil {
		b.Fatal(err)
	}
	return g
}

// fill puts a million subjects on record, and what they have used.
func (a *administration) fill(b *testing.B) {
	b.Helper()
	var list []records.Subject
	var days [usageDays][]records.Usage
	for n := range uint32(million) {
		list = append(list, subjectOf(n))
		for d := range days {
			if d == 0 || isRegular(n) {
				days[d] = append(days[d], hourOf("shop", key(n), theDay.AddDate(0, 0, d).Add(time.Duration(n%24)*time.Hour), costOf(n)))
			}
		}
		last := n == million-1
		if len(list) == aTransaction || last {
			if err := a.records.PutSubjects(context.Background(), list, records.Entry{Actor: records.Actor{Name: "bench"}, Action: "subject.put"}); err != nil {
				b.Fatal(err)
			}
			list = list[:0]
		}
		for d := range days {
			if len(days[d]) == aTransaction || last {
				a.report(b, days[d])
				days[d] = days[d][:0]
			}
		}
	}
}

func (a *administration) report(b *testing.B, rows []records.Usage) {
	a.reports++
	if err := a.records.Report(context.Background(), "bench", a.reports, rows); err != nil {
		b.Fatal(err)
	}
}

// do does a request, whose answer must be 200 and fits in into, and returns how long
// it took.
func (a *administration) do(b *testing.B, method, target, body string, into any) time.Duration {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+officeToken)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	began := time.Now()
	a.handler.ServeHTTP(w, r)
	took := time.Since(began)
	if w.Code != http.StatusOK {
		b.Fatalf("%s %s: %d %s", method, target, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
		b.Fatalf("%s %s: %v in %s", method, target, err, w.Body)
	}
	return took
}

// eachAnswer measures requests: next does one about a subject and says whether its
// answer is right.
func eachAnswer(b *testing.B, next func(a *administration, n uint32) (took time.Duration, right bool)) {
	b.Run("headgate", func(b *testing.B) {
		a := openOffice(b)
		r := rand.New(rand.NewPCG(7, 11))
		var all []time.Duration
		for b.Loop() {
			n := uint32(r.IntN(million))
			took, right := next(a, n)
			if !right {
				b.Fatalf("the answer about %d is wrong", n)
			}
			all = append(all, took)
		}
		slices.Sort(all)
		at := func(q float64) float64 { return all[int(q*float64(len(all)-1))].Seconds() * 1e3 }
		b.ReportMetric(at(0.5), "p50-ms")
		b.ReportMetric(at(0.99), "p99-ms")
	})
}

const atSubjects, atSubject = "/v1/applications/shop/subjects?limit=100", "/v1/applications/shop/subject?subject="

// subjectList is a list on the wire.
type subjectList struct {
	Items []struct {
		Subject, Plan string
		Overrides     []any
		Ban           *struct{ Reason string }
	}
	Next *string
}

// is reports whether a list is that of the first hundred numbers behind after, up to
// end, for which want holds.
func (l *subjectList) is(after, end int, want func(n uint32) bool) bool {
	const most = 100
	i := 0
	for n := after + 1; n < end; n++ {
		if !want(uint32(n)) {
			continue
		}
		if i == most {
			return len(l.Items) == most && l.Next != nil && *l.Next == l.Items[most-1].Subject
		}
		if i >= len(l.Items) {
			return false
		}
		x := &l.Items[i]
		if x.Subject != key(uint32(n)) || x.Plan != planOf(uint32(n)) || len(x.Overrides) > 0 != isOverridden(uint32(n)) || x.Ban != nil != isBanned(uint32(n)) {
			return false
		}
		i++
	}
	return i == len(l.Items) && l.Next == nil
}

func anybody(uint32) bool { return true }

// BenchmarkAdminList lists a hundred subjects from somewhere.
func BenchmarkAdminList(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var l subjectList
		took := a.do(b, "GET", atSubjects+"&cursor="+key(n), "", &l)
		return took, l.is(int(n), million, anybody)
	})
}

// BenchmarkAdminSearch lists the subjects whose names begin in one way: the first
// hundred of 256.
func BenchmarkAdminSearch(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var l subjectList
		took := a.do(b, "GET", atSubjects+"&prefix="+key(n)[:keySize-2], "", &l)
		first := int(n &^ 0xff)
		return took, l.is(first-1, first+256, anybody)
	})
}

// BenchmarkAdminListPlan lists subjects of a plan that every third has.
func BenchmarkAdminListPlan(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var l subjectList
		took := a.do(b, "GET", atSubjects+"&plan=pro&cursor="+key(n), "", &l)
		return took, l.is(int(n), million, func(n uint32) bool { return planOf(n) == "pro" })
	})
}

// BenchmarkAdminListRare lists subjects of a plan that one of ten thousand has.
func BenchmarkAdminListRare(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var l subjectList
		took := a.do(b, "GET", atSubjects+"&plan=rare&cursor="+key(n), "", &l)
		return took, l.is(int(n), million, func(n uint32) bool { return planOf(n) == "rare" })
	})
}

// BenchmarkAdminListVacant lists subjects of a plan that none has.
func BenchmarkAdminListVacant(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var l subjectList
		took := a.do(b, "GET", atSubjects+"&plan=vacant", "", &l)
		return took, l.Items != nil && len(l.Items) == 0 && l.Next == nil
	})
}

// BenchmarkAdminListBanned lists all who are banned, 64.
func BenchmarkAdminListBanned(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var l subjectList
		took := a.do(b, "GET", atSubjects+"&banned=true", "", &l)
		return took, l.is(-1, million, isBanned)
	})
}

// BenchmarkAdminPlan shows a plan with the number of its subjects.
func BenchmarkAdminPlan(b *testing.B) {
	want := 0
	for n := range uint32(million) {
		if planOf(n) == "pro" {
			want++
		}
	}
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var p struct{ Subjects int }
		took := a.do(b, "GET", "/v1/plans/pro", "", &p)
		return took, p.Subjects == want
	})
}

// subjectState is a subject with what stands of it, on the wire.
type subjectState struct {
	EffectivePlan string `json:"effective_plan"`
	Note          string
	Version       int64
	Limits        []struct {
		ID    string
		Limit int64
	}
}

// is reports whether a subject's plan and limits are in force.
func (s *subjectState) is(n uint32) bool {
	daily := int64(1_000_000_000)
	if isOverridden(n) {
		daily *= 2
	}
	return s.EffectivePlan == planOf(n) && len(s.Limits) == 2 && s.Limits[0].ID == "plan/rate" && s.Limits[1].ID == "plan/daily" && s.Limits[1].Limit == daily
}

// BenchmarkAdminSubject shows a subject with what stands of its limits.
func BenchmarkAdminSubject(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var s subjectState
		took := a.do(b, "GET", atSubject+key(n), "", &s)
		return took, s.is(n)
	})
}

// BenchmarkAdminPut changes a subject's note: a write with its line in the audit log,
// on disk.
func BenchmarkAdminPut(b *testing.B) {
	version := int64(0)
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		overrides := "[]"
		if isOverridden(n) {
			overrides = override
		}
		note := fmt.Sprint("the write behind ", version)
		var s subjectState
		took := a.do(b, "PUT", atSubject+key(n), fmt.Sprintf(`{"plan":%q,"note":%q,"overrides":%s}`, planOf(n), note, overrides), &s)
		right := s.is(n) && s.Note == note && s.Version > version
		version = s.Version
		return took, right
	})
}
