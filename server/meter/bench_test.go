package meter

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkCount counts decisions with two quotas and a rate: of one subject, of 100,000,
// and of such that come once.
func BenchmarkCount(b *testing.B) {
	c := &clock{at: start}
	e := newEngine(b, c, `
version: 1
plans:
  free:
    limits:
      - {name: rate, rate: 1000000/s}
      - {name: daily, algorithm: quota, rate: 1000000000/day}
      - {name: monthly, algorithm: quota, rate: 10000000000/month}
applications: {email: {default_plan: free, rules: [{name: send, match: {operation: send}}]}}
`)
	for _, tt := range []struct {
		name     string
		subjects int
	}{{"subjects=1", 1}, {"subjects=100000", 100_000}, {"subjects=any", 5_000_000}} {
		names := make([]string, tt.subjects)
		for i := range names {
			names[i] = fmt.Sprintf("subject-%07d", i)
		}
		check := func(b *testing.B, m *Meter, n int64) {
			if got := m.allowed(); got != n {
				b.Fatalf("%d are counted of %d", got, n)
			}
			b.ReportMetric(float64(m.Stats().Rows), "rows")
		}
		b.Run(tt.name, func(b *testing.B) {
			m := New(Config{Records: newLedger(b, c), Now: c.now})
			d := e.take(sends("x", 1))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				d.Subject = names[n%len(names)]
				m.Count(d)
				n++
			}
			check(b, m, int64(n))
		})
		b.Run(tt.name+"/parallel", func(b *testing.B) {
			m := New(Config{Records: newLedger(b, c), Now: c.now})
			var routines, total atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				d := e.take(sends("x", 1))
				n := int(routines.Add(1)) * len(names) / 3
				first := n
				for pb.Next() {
					d.Subject = names[n%len(names)]
					m.Count(d)
					n++
				}
				total.Add(int64(n - first))
			})
			check(b, m, total.Load())
		})
	}
}

// allowed adds up what waits.
func (m *Meter) allowed() (all int64) {
	for i := range m.shards {
		for _, r := range m.shards[i].rows {
			for ; r != nil; r = r.next {
				all += r.allowed
			}
		}
	}
	return all
}

// BenchmarkFlush reports 100,000 rows to SQLite.
func BenchmarkFlush(b *testing.B) {
	c := &clock{at: start}
	e, db := newEngine(b, c, simple), openRecords(b)
	m := New(Config{Records: db, Now: c.now})
	d := e.take(sends("x", 1))
	const rows = 100_000
	for b.Loop() {
		for n := range rows {
			d.Subject = fmt.Sprintf("subject-%07d", n)
			m.Count(d)
		}
		flush(b, m)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
	if s := m.Stats(); s != (Stats{}) {
		b.Errorf("%+v", s)
	}
}
