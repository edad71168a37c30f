package cas

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// BenchmarkStore measures what the engine costs over a table that costs next to
// nothing: 64 callers on many owners, and on one.
func BenchmarkStore(b *testing.B) {
	l := prepare(b, headgate.PerSecond(1000).WithBurst(1_000_000_000))
	for _, owners := range []int{1, 10_000} {
		b.Run(fmt.Sprint(owners, " owners"), func(b *testing.B) {
			s := New(Config{Table: newMemTable()})
			b.Cleanup(func() { _ = s.Close() })
			names := make([]string, owners)
			for i := range names {
				names[i] = fmt.Sprint("owner ", i)
			}
			var next, allowed atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				batch := new(headgate.Batch)
				for pb.Next() {
					batch.Reset(headgate.Take)
					batch.Patience = time.Second.Microseconds()
					if _, err := batch.Add(headgate.Charge{Limit: l, Owner: names[next.Add(1)%int64(owners)], Cost: 1}); err != nil {
						b.Error(err)
						return
					}
					if err := s.Apply(b.Context(), batch); err != nil {
						b.Error(err)
						return
					}
					if batch.Allowed {
						allowed.Add(1)
					}
				}
			})
			b.StopTimer()
			if allowed.Load() != int64(b.N) {
				b.Errorf("%d of %d were allowed", allowed.Load(), b.N)
			}
			st := s.Stats()
			b.ReportMetric(float64(st.Calls)/float64(st.Groups), "calls/group")
			b.ReportMetric(float64(st.Rounds)/float64(st.Groups), "rounds/group")
		})
	}
}
