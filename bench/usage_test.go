package bench

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	policies "github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/follow"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/records"
)

// atUsage asks for the month of all that openOffice has filled in.
const atUsage = "/v1/usage?application=shop&from=2026-03&to=2026-04&"

// usageList is a page of usage, on the wire.
type usageList struct {
	Items []struct {
		Subject, From string
		Cost          int64
	}
	Next *string
}

// BenchmarkAdminUsageDay shows a month of a subject by the day.
func BenchmarkAdminUsageDay(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		n -= n % 10 // a regular one
		var l usageList
		took := a.do(b, "GET", atUsage+"period=day&subject="+key(n), "", &l)
		right := len(l.Items) == usageDays && l.Next == nil
		for i := range l.Items {
			right = right && l.Items[i].Cost == costOf(n) && l.Items[i].From == theDay.AddDate(0, 0, i).Format(time.RFC3339)
		}
		return took, right
	})
}

// BenchmarkAdminUsageMonth shows it as one row.
func BenchmarkAdminUsageMonth(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		n -= n % 10
		var l usageList
		took := a.do(b, "GET", atUsage+"period=month&subject="+key(n), "", &l)
		return took, len(l.Items) == 1 && l.Next == nil && l.Items[0].Cost == usageDays*costOf(n) && l.Items[0].From == "2026-03-01T00:00:00Z"
	})
}

// BenchmarkAdminUsageRegular shows the first hundred rows of a day on which one of ten
// subjects has used something.
func BenchmarkAdminUsageRegular(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var l usageList
		took := a.do(b, "GET", "/v1/usage?application=shop&from=2026-03-12&to=2026-03-13&limit=100", "", &l)
		right := len(l.Items) == 100 && l.Next != nil
		for i := range l.Items {
			right = right && l.Items[i].Subject == key(uint32(10*i))
		}
		return took, right
	})
}

// BenchmarkAdminUsageVacant looks for usage of a day that has none.
func BenchmarkAdminUsageVacant(b *testing.B) {
	eachAnswer(b, func(a *administration, n uint32) (time.Duration, bool) {
		var l usageList
		took := a.do(b, "GET", "/v1/usage?application=shop&from=2026-03-14&to=2026-03-15&limit=100", "", &l)
		return took, l.Items != nil && len(l.Items) == 0 && l.Next == nil
	})
}

// table counts the lines of an answer, and the heap meanwhile.
type table struct {
	header       http.Header
	status       int
	lines, bytes int64
	live, inUse  uint64 // the most, in bytes
}

func (t *table) Header() http.Header    { return t.header }
func (t *table) WriteHeader(status int) { t.status = status }
func (t *table) Flush()                 {}

func (t *table) Write(p []byte) (int, error) {
	t.lines += int64(bytes.Count(p, []byte{'\n'}))
	t.bytes += int64(len(p))
	t.look()
	return len(p), nil
}

func (t *table) look() {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(samples)
	t.live, t.inUse = max(t.live, samples[0].Value.Uint64()), max(t.inUse, samples[1].Value.Uint64())
}

// BenchmarkAdminExport sends what a million subjects have used on a day, as CSV.
func BenchmarkAdminExport(b *testing.B) {
	b.Run("headgate", func(b *testing.B) {
		a := openOffice(b)
		var t *table
		var live, inUse uint64
		for b.Loop() {
			b.StopTimer()
			before := heap()
			r := httptest.NewRequest("GET", "/v1/usage?application=shop&from=2026-03-09&to=2026-03-10&format=csv", nil)
			r.Header.Set("Authorization", "Bearer "+officeToken)
			t = &table{header: http.Header{}}
			b.StartTimer()
			a.handler.ServeHTTP(t, r)
			if t.lines != million+1 || t.bytes < 80*million {
				b.Fatalf("%d lines, %d bytes", t.lines, t.bytes)
			}
			live, inUse = max(live, t.live-min(t.live, before)), max(inUse, t.inUse-min(t.inUse, before))
		}
		b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N)/million, "us/row")
		b.ReportMetric(float64(b.N)*million/b.Elapsed().Seconds(), "rows/s")
		b.ReportMetric(float64(live)/1e6, "peak-MB")
		b.ReportMetric(float64(inUse)/1e6, "inuse-MB")
	})
}

// BenchmarkAdminReport puts usage of 5,000 subjects on record, as a node does at a time.
func BenchmarkAdminReport(b *testing.B) {
	b.Run("headgate", func(b *testing.B) {
		a := openOffice(b)
		r := rand.New(rand.NewPCG(13, 17))
		at := theDay.AddDate(0, 0, 30)
		for b.Loop() {
			b.StopTimer()
			at = at.Add(time.Hour)
			rows := make([]records.Usage, aTransaction)
			for i, n := range r.Perm(million)[:aTransaction] {
				rows[i] = hourOf("shop", key(uint32(n)), at, costOf(uint32(n)))
			}
			slices.SortFunc(rows, func(a, b records.Usage) int { return bytes.Compare([]byte(a.Subject), []byte(b.Subject)) })
			b.StartTimer()
			a.report(b, rows)
			b.StopTimer()
			some := &rows[r.IntN(len(rows))]
			q := records.UsageQuery{Span: records.Hour, Application: "shop", Subject: some.Subject, From: at, To: at.Add(time.Hour), Limit: 10}
			if list, _, err := a.records.Usage(context.Background(), q); err != nil || len(list) != 1 || list[0].Cost != some.Cost {
				b.Fatalf("%+v, %v", list, err)
			}
			b.StartTimer()
		}
		b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N)/aTransaction, "us/row")
		b.ReportMetric(float64(b.N)*aTransaction/b.Elapsed().Seconds(), "rows/s")
	})
}

// BenchmarkAdminFold makes days of the hours of a day, 24 of each of 2,000 subjects.
func BenchmarkAdminFold(b *testing.B) {
	const subjects, rows = 2_000, 24 * 2_000
	b.Run("headgate", func(b *testing.B) {
		a := openOffice(b)
		ctx, day := context.Background(), theDay.AddDate(0, -2, 0)
		m := meter.New(meter.Config{Records: a.records, Now: func() time.Time { return theDay }})
		m.Set(meter.Live{Retention: meter.Retention{Hours: 14 * 24 * time.Hour}})
		n := int64(0)
		for b.Loop() {
			b.StopTimer()
			n++
			list := make([]records.Usage, 0, rows)
			for s := range uint32(subjects) {
				for h := range 24 {
					list = append(list, hourOf("past", key(s), day.Add(time.Duration(h)*time.Hour), 1))
				}
			}
			for part := range slices.Chunk(list, aTransaction) {
				a.report(b, part)
			}
			b.StartTimer()
			if err := m.Sweep(ctx); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			hours, err := a.records.CountUsage(ctx, records.UsageQuery{Span: records.Hour, Application: "past"})
			days, _, err2 := a.records.Usage(ctx, records.UsageQuery{Span: records.Day, Application: "past", Subject: key(subjects - 1), Limit: 2})
			if err != nil || err2 != nil || hours != 0 || len(days) != 1 || days[0].Allowed != 24*n {
				b.Fatalf("%d hours, days %+v, %v, %v", hours, days, err, err2)
			}
			b.StartTimer()
		}
		b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N)/rows, "us/row")
		b.ReportMetric(float64(b.N)*rows/b.Elapsed().Seconds(), "rows/s")
	})
}

// BenchmarkAdminLoad brings the records of a million subjects to a gate.
func BenchmarkAdminLoad(b *testing.B) {
	b.Run("headgate", func(b *testing.B) {
		a := openOffice(b)
		ctx, before := context.Background(), heap()
		var g *gate.Gate
		var f *follow.Follower
		for b.Loop() {
			g = openOfficeGate(b)
			f = follow.New(follow.Config{Records: a.records, Gate: g})
			if err := f.Load(ctx); err != nil {
				b.Fatal(err)
			}
		}
		grown := heap() - before
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s")
		b.ReportMetric(float64(grown)/million, "B/subject")
		for n := uint32(0); n < million; n += 997 {
			s, err := g.Inspect(ctx, "shop", key(n))
			if err != nil || s.Plan != planOf(n) {
				b.Fatalf("%+v, %v", s, err)
			}
		}
		runtime.KeepAlive(f)
	})
}

// BenchmarkRecord decides for one of a million subjects by what is on record of it,
// beside a floor without records. Every tenth has an override.
func BenchmarkRecord(b *testing.B) {
	for name, plan := range map[string]func(uint32) string{
		"headgate": planOf,
		"floor":    func(uint32) string { return "free" },
	} {
		b.Run(name, func(b *testing.B) {
			g, ctx, o := openOfficeGate(b), context.Background(), uniform()
			if name == "headgate" {
				all := gate.NewRecords()
				for n := range uint32(million) {
					all.Put(recordOf(b, n))
				}
				g.SetRecords(all)
			}
			r, d := &gate.Request{Application: "shop", Operation: "order"}, new(gate.Decision)
			for n := range uint32(million) {
				r.Subject = key(n)
				if err := g.Take(ctx, r, d); err != nil || !d.Allowed {
					b.Fatal(err, d.Decision)
				}
			}
			runtime.GC()
			calls, wrong := int64(0), 0
			b.ReportAllocs()
			began := cpu(b)
			for b.Loop() {
				r.Subject = o.keys[calls%cycle]
				if err := g.Take(ctx, r, d); err != nil || !d.Allowed || d.Plan != plan(o.numbers[calls%cycle]) {
					wrong++
				}
				calls++
			}
			reportCPU(b, began, calls)
			if wrong != 0 {
				b.Fatalf("%d of %d wrong, the last one: %+v", wrong, calls, d.Decision)
			}
		})
	}
}

// recordOf is what is on record of a subject, as a gate wants it.
func recordOf(b *testing.B, n uint32) *gate.Record {
	r := &gate.Record{Application: "shop", Subject: key(n), Known: true, Plan: planOf(n)}
	if isOverridden(n) {
		said, err := policies.ParseSubject(nil, r.Application, r.Subject, []byte(`{"overrides":`+override+`}`))
		if err != nil {
			b.Fatal(err)
		}
		r.Overrides = said.Overrides
	}
	return r
}

// tally takes reports of usage, and keeps none.
type tally struct {
	*records.DB
	rows, allowed int64
}

func (t *tally) Report(_ context.Context, _ string, _ int64, hours []records.Usage) error {
	for i := range hours {
		t.rows++
		t.allowed += hours[i].Allowed
	}
	return nil
}

// counted is how many subjects BenchmarkCount counts.
const counted = 100_000

// BenchmarkCount counts decisions of 100,000 subjects on all cores.
func BenchmarkCount(b *testing.B) {
	b.Run("headgate", func(b *testing.B) {
		g, o := openOfficeGate(b), keysOf(counted)
		decide := func() *gate.Decision {
			d := new(gate.Decision)
			if err := g.Take(context.Background(), &gate.Request{Application: "shop", Operation: "order", Subject: hotKey}, d); err != nil || !d.Allowed {
				b.Fatal(err, d.Decision)
			}
			return d
		}
		t := new(tally)
		m := meter.New(meter.Config{Records: t})
		d := decide()
		for n := range uint32(counted) {
			d.Subject = key(n)
			m.Count(d)
		}
		var next, calls atomic.Int64
		b.ReportAllocs()
		b.ResetTimer()
		began := cpu(b)
		b.RunParallel(func(pb *testing.PB) {
			d, n := decide(), int64(0)
			for at := next.Add(7919); pb.Next(); at++ {
				d.Subject = o.keys[at%int64(len(o.keys))]
				m.Count(d)
				n++
			}
			calls.Add(n)
		})
		b.StopTimer()
		reportCPU(b, began, calls.Load())
		err := m.Flush(context.Background())
		if st := m.Stats(); err != nil || st.Unattributed != 0 || t.allowed != counted+calls.Load() {
			b.Fatalf("%d of %d counted, %+v, %v", t.allowed, counted+calls.Load(), st, err)
		}
	})
}
