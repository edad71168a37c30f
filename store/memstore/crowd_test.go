package memstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/racetest"
)

// In a store full of live state there is an answer for every key of every
// limit: with many limits, all keys of a limit and shard share one last cell.
func TestEveryLimitHasARoomForNewKeys(t *testing.T) {
	racetest.Alone(t)
	s := New(Config{MaxBytes: 1 << 20})
	now := s.Now()
	var limits []*headgate.Prepared
	for i := range 6 {
		for _, l := range []headgate.Limit{
			headgate.Sliding(5, time.Hour).WithName(fmt.Sprintf("sliding-%d", i)),
			headgate.QuotaPer(5, headgate.Year).WithName(fmt.Sprintf("quota-%d", i)),
			headgate.PerHour(5).WithName(fmt.Sprintf("bucket-%d", i)),
		} {
			p, err := l.Prepare()
			if err != nil {
				t.Fatal(err)
			}
			limits = append(limits, p)
		}
	}
	passed := make(map[string]int)
	for i := range 120_000 {
		l := limits[i%len(limits)]
		b, err := s.attempt(headgate.Take, now, headgate.Charge{Limit: l, Owner: fmt.Sprint(i), Cost: 1})
		if err != nil {
			t.Fatalf("key %d of %s: %v", i, l.Name, err)
		}
		if b.Allowed {
			passed[l.Name]++
		}
	}
	if st := s.Stats(); st.Bytes > st.MaxBytes || st.Overflow == 0 {
		t.Errorf("%+v: want at most MaxBytes, and overflow cells", st)
	}
	// A key that has spent its limit in a shared cell is refused for good.
	for _, l := range limits {
		if passed[l.Name] == 0 {
			t.Errorf("%s: nothing passed", l.Name)
		}
		got := 0
		for range 50 {
			b, err := s.attempt(headgate.Take, now, headgate.Charge{Limit: l, Owner: "late", Cost: 1})
			if err != nil {
				t.Fatal(err)
			}
			if b.Allowed {
				got++
			}
		}
		if got > 5 {
			t.Errorf("%s: a late key got %d of 5", l.Name, got)
		}
	}
}
