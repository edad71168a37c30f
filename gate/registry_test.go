package gate

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

func TestRegistry(t *testing.T) {
	r := newRegistry()
	if r.find("") != nil || r.find("alice") != nil {
		t.Error("an empty registry knows somebody")
	}
	known := make(map[string]*record)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		name := fmt.Sprint("subject ", rng.IntN(5_000))
		switch rng.IntN(3) {
		case 0:
			r.put(name, nil)
			delete(known, name)
		case 1:
			x := new(record)
			r.put(name, x)
			known[name] = x
		default:
			if got := r.find(name); got != known[name] {
				t.Fatalf("%s: %p, want %p", name, got, known[name])
			}
		}
		if int(r.count.Load()) != len(known) {
			t.Fatalf("%d records, want %d", r.count.Load(), len(known))
		}
	}
	for i := range 5_000 {
		if name := fmt.Sprint("subject ", i); r.find(name) != known[name] {
			t.Errorf("%s is lost or not", name)
		}
	}
	slots := 0
	for i := range r.shards {
		s := &r.shards[i]
		if 4*s.used > 3*len(s.table.Load().slots) {
			t.Errorf("shard %d has %d slots of %d in use", i, s.used, len(s.table.Load().slots))
		}
		slots += len(s.table.Load().slots)
	}
	if slots > 4*5_000 {
		t.Errorf("%d slots for %d subjects at most", slots, 5_000)
	}
}

// TestRegistryReaders finds who stays at all times, while others come and go.
func TestRegistryReaders(t *testing.T) {
	r := newRegistry()
	const stay = 1_000
	records := make([]*record, stay)
	for i := range records {
		records[i] = new(record)
		r.put(fmt.Sprint("stays ", i), records[i])
	}
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for i := 0; ; i = (i + 1) % stay {
				select {
				case <-done:
					return
				default:
				}
				if r.find(fmt.Sprint("stays ", i)) != records[i] {
					t.Errorf("%d is lost", i)
					return
				}
			}
		})
	}
	for round := range 20 {
		for i := range 2_000 {
			r.put(fmt.Sprint("comes ", i+round*500), new(record))
		}
		for i := range 2_000 {
			r.put(fmt.Sprint("comes ", i+round*500), nil)
		}
	}
	close(done)
	readers.Wait()
	if n := r.count.Load(); n != stay {
		t.Errorf("%d records, want %d", n, stay)
	}
}

func TestRegistryAllocatesNothingToFind(t *testing.T) {
	r := newRegistry()
	r.put("alice", new(record))
	if n := testing.AllocsPerRun(100, func() { _, _ = r.find("alice"), r.find("bob") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRegistry(b *testing.B) {
	const n = 1_000_000
	r := newRegistry()
	same := new(record)
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("customer-%d", i)
		r.put(names[i], same)
	}
	slots := 0
	for i := range r.shards {
		slots += len(r.shards[i].table.Load().slots)
	}
	b.ReportAllocs()
	b.ResetTimer()
	found, i := 0, 0
	for b.Loop() {
		if r.find(names[i*7919%n]) == same {
			found++
		}
		i++
	}
	b.ReportMetric(float64(24*slots)/n, "B/subject")
	if found != b.N {
		b.Errorf("%d of %d were found", found, b.N)
	}
}
