package journal

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/headgate/headgate"
)

var start = time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)

func refusal(subject string, at time.Time) *Entry {
	return &Entry{
		At: at, ID: [2]uint64{1, 2}, Application: "a", Rule: "r", Operation: "o", Subject: subject, Plan: "p", Cost: 5,
		Reason: headgate.RateLimited, BoundBy: "r/burst", RetryAfter: 3 * time.Second, Retryable: true, Door: "http",
	}
}

func allowance(subject string, at time.Time) *Entry {
	return &Entry{At: at, Application: "a", Rule: "r", Operation: "o", Subject: subject, Allowed: true, Reason: headgate.OK, Retryable: true, Door: "http"}
}

func subjects(entries []Entry) string {
	var names []string
	for i := range entries {
		names = append(names, entries[i].Subject)
	}
	return strings.Join(names, " ")
}

func weights(entries []Entry) (sum int64) {
	for i := range entries {
		sum += entries[i].Weight
	}
	return sum
}

func TestEntryIsKeptWhole(t *testing.T) {
	j := New(Config{})
	e := refusal("alice", start.Add(123456*time.Microsecond))
	e.WouldDeny, e.Shadow, e.Candidate, e.CandidateAllowed, e.Degraded = headgate.QuotaExceeded, true, headgate.OK, true, "local"
	j.Add(e)
	got, next := j.Query(&Query{})
	if len(got) != 1 || next != 0 {
		t.Fatalf("%d entries, next %d", len(got), next)
	}
	want := *e
	want.Weight = 1
	got[0].At = got[0].At.UTC()
	if got[0] != want {
		t.Errorf("got  %+v\nwant %+v", got[0], want)
	}
}

func TestQuery(t *testing.T) {
	j := New(Config{})
	second := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	j.Add(refusal("alice", second(0)))
	j.Add(refusal("bob", second(1)))
	other := refusal("carol", second(2))
	other.Application, other.Rule, other.Reason = "b", "q", headgate.QuotaExceeded
	j.Add(other)
	j.Add(allowance("dave", second(3)))
	shadow := allowance("erin", second(4))
	shadow.Shadow, shadow.WouldDeny = true, headgate.RateLimited
	j.Add(shadow)
	no, yes := false, true
	tests := []struct {
		name  string
		query Query
		want  string
	}{
		{"all, newest first", Query{}, "erin dave carol bob alice"},
		{"application", Query{Application: "b"}, "carol"},
		{"rule", Query{Rule: "q"}, "carol"},
		{"another rule", Query{Application: "a", Rule: "q"}, ""},
		{"subject", Query{Subject: "bob"}, "bob"},
		{"part of a subject", Query{Subject: "bo"}, ""},
		{"reason", Query{Reason: headgate.QuotaExceeded}, "carol"},
		{"refused", Query{Allowed: &no}, "carol bob alice"},
		{"allowed", Query{Allowed: &yes}, "erin dave"},
		{"since", Query{Since: second(2)}, "erin dave carol"},
		{"limit", Query{Limit: 2}, "erin dave"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			entries, _ := j.Query(&tt.query)
			if got := subjects(entries); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPages(t *testing.T) {
	j := New(Config{})
	for i := range 25 {
		j.Add(refusal(fmt.Sprint(i), start.Add(time.Duration(i)*time.Second)))
	}
	var got []string
	q := Query{Limit: 10}
	for {
		entries, next := j.Query(&q)
		got = append(got, subjects(entries))
		if next == 0 {
			break
		}
		q.Before = next
		j.Add(refusal("new", start.Add(time.Hour))) // later pages do not move
	}
	want := "24 23 22 21 20 19 18 17 16 15|14 13 12 11 10 9 8 7 6 5|4 3 2 1 0"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
	if entries, next := j.Query(&Query{Limit: 5, Before: 6}); len(entries) != 5 || next != 0 {
		t.Errorf("the last page was full: %d entries, next %d; want 5 and no further page", len(entries), next)
	}
}

func TestTextsAreCut(t *testing.T) {
	j := New(Config{})
	long := strings.Repeat("x", 511)
	for _, last := range []string{"1", "2"} {
		e := refusal(long+last, start)
		e.Application, e.Rule, e.Plan, e.Operation, e.BoundBy, e.Door, e.Degraded = long, long, long, long, long, long, long
		j.Add(e)
	}
	entries, _ := j.Query(&Query{Subject: long + "1"})
	if len(entries) != 1 {
		t.Fatalf("%d entries of a subject that is cut, want 1", len(entries))
	}
	e := entries[0]
	for _, f := range []struct {
		name, text string
		want       int
	}{
		{"application", e.Application, nameBytes}, {"rule", e.Rule, nameBytes}, {"plan", e.Plan, nameBytes}, {"operation", e.Operation, operationBytes},
		{"bound_by", e.BoundBy, boundBytes}, {"subject", e.Subject, subjectBytes}, {"door", e.Door, doorBytes}, {"degraded", e.Degraded, degradedBytes},
	} {
		if f.text != long[:f.want] {
			t.Errorf("%s has %d bytes, want %d", f.name, len(f.text), f.want)
		}
	}
	if size := unsafe.Sizeof(slot{}); size > 760 {
		t.Errorf("a slot takes %d bytes, more than Config says", size)
	}
}

func TestAlikeShareAnEntry(t *testing.T) {
	j := New(Config{})
	for i := range 1000 {
		j.Add(refusal("bot", start.Add(time.Duration(i)*time.Millisecond)))
	}
	j.Add(refusal("alice", start))
	another := refusal("bot", start)
	another.Reason = headgate.QuotaExceeded
	j.Add(another)
	j.Add(refusal("bot", start.Add(time.Second))) // the first second is over
	entries, _ := j.Query(&Query{})
	if got := subjects(entries); got != "bot bot alice bot" {
		t.Fatalf("got %q", got)
	}
	if entries[3].Weight != 1000 || entries[0].Weight != 1 {
		t.Errorf("weights %d and %d, want 1000 and 1", entries[3].Weight, entries[0].Weight)
	}
	// A clock that was set back does not glue decisions to old ones.
	j.Add(refusal("alice", start.Add(-time.Hour)))
	if entries, _ := j.Query(&Query{Subject: "alice"}); len(entries) != 2 {
		t.Errorf("%d entries of alice, want 2", len(entries))
	}
}

// TestFlood refuses more subjects than there is room for: the ring keeps more
// than the last moment, and weights add up to about the truth.
func TestFlood(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(string, time.Time) *Entry
		most int // entries a second once the interval has settled
	}{{"refusals", refusal, 200}, {"allowances", allowance, 32}} {
		t.Run(tt.name, func(t *testing.T) {
			j := New(Config{Notable: 1 << 14, Allowances: 1 << 14})
			const seconds, each = 20, 20_000
			for s := range seconds {
				for i := range each {
					at := start.Add(time.Duration(s)*time.Second + time.Duration(i)*time.Second/each)
					j.Add(tt.make(fmt.Sprint(s, "-", i), at))
				}
			}
			total, sum := 0, int64(0)
			q := Query{Limit: MaxPage, Since: start.Add(10 * time.Second)}
			for {
				entries, next := j.Query(&q)
				total += len(entries)
				sum += weights(entries)
				if next == 0 {
					break
				}
				q.Before = next
			}
			if total == 0 || total > 10*tt.most {
				t.Errorf("%d entries in 10 s, want at most %d", total, 10*tt.most)
			}
			if truth := int64(10 * each); sum < truth/2 || sum > truth*2 {
				t.Errorf("the weights add up to %d, far from %d", sum, truth)
			}
			// When the flood is over every decision is kept again.
			quiet := start.Add(time.Hour)
			for i := range 5 {
				j.Add(tt.make(fmt.Sprint("quiet", i), quiet.Add(time.Duration(i)*time.Second)))
			}
			entries, _ := j.Query(&Query{Since: quiet})
			if len(entries) != 5 || weights(entries) != 5 {
				t.Errorf("%d entries that stand for %d after the flood, want 5 and 5", len(entries), weights(entries))
			}
		})
	}
}

// TestRace adds and queries from many goroutines at once.
func TestRace(t *testing.T) {
	j := New(Config{Notable: 64, Allowances: 64, PerSecond: 1000})
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				entries, _ := j.Query(&Query{Limit: 50})
				for i := range entries {
					e := &entries[i]
					if e.Subject != e.Operation || e.Weight < 1 {
						t.Errorf("torn entry %+v", e)
						return
					}
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for g := range 8 {
		writers.Go(func() {
			for i := range 5000 {
				name := fmt.Sprint(g, "-", i)
				for _, e := range []*Entry{refusal(name, start), allowance(name, start)} {
					e.Operation = name
					j.Add(e)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if entries, _ := j.Query(&Query{}); len(entries) == 0 {
		t.Error("nothing was kept")
	}
}

// TestAddDoesNotWait holds every lock: the next entry stands for what was
// missed.
func TestAddDoesNotWait(t *testing.T) {
	j := New(Config{})
	for i := range shards {
		j.notable[i].mu.Lock()
	}
	for range 9 {
		j.Add(refusal("alice", start))
	}
	for i := range shards {
		j.notable[i].mu.Unlock()
	}
	j.Add(refusal("alice", start))
	if entries, _ := j.Query(&Query{}); len(entries) != 1 || entries[0].Weight != 10 {
		t.Errorf("%+v, want one entry that stands for 10", entries)
	}
}

func TestAddAllocations(t *testing.T) {
	j := New(Config{})
	r, a := refusal("alice", start), allowance("alice", start)
	if n := testing.AllocsPerRun(1000, func() {
		r.At = r.At.Add(time.Second) // an entry of its own each time
		j.Add(r)
		j.Add(a)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	bench := func(b *testing.B, e *Entry, step time.Duration) {
		j := New(Config{})
		b.ReportAllocs()
		for b.Loop() {
			e.At = e.At.Add(step)
			j.Add(e)
		}
		if entries, _ := j.Query(&Query{Limit: 1}); len(entries) != 1 {
			b.Error("nothing was kept")
		}
	}
	b.Run("new", func(b *testing.B) { bench(b, refusal("203.0.113.195", start), 2*time.Second) })
	b.Run("alike", func(b *testing.B) { bench(b, refusal("203.0.113.195", start), time.Microsecond) })
	b.Run("allowance", func(b *testing.B) { bench(b, allowance("203.0.113.195", start), time.Microsecond) })
}
