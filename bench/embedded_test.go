package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/sqlitestore"
)

// The embedded store writes a mark for so many tokens of a limit that a kill costs at
// most one percent: for limits below 200 with every charge.
var (
	aMillion   = headgate.Per(1_000_000, 24*time.Hour)
	tenMillion = headgate.Per(10_000_000, 24*time.Hour)
	aThousand  = headgate.Per(1_000, 24*time.Hour)
	aHundred   = headgate.Per(100, 24*time.Hour)
)

// embedded opens the contestants, by name.
var embedded = map[string]func(testing.TB) headgate.Store{
	"headgate": func(tb testing.TB) headgate.Store {
		s, err := sqlitestore.Open(context.Background(), sqlitestore.Config{Dir: tb.TempDir(), MaxBytes: 1 << 30})
		if err != nil {
			tb.Fatal(err)
		}
		return s
	},
	"memory": func(testing.TB) headgate.Store { return memstore.New(memstore.Config{MaxBytes: 1 << 30}) },
}

// crowd is how many goroutines there are to a processor where each waits for a
// commit.
const crowd = 32

// filling is how many goroutines ask every key once before.
const filling = 2048

// eachEmbedded has callers per processor take from keys under a limit, all of which
// were asked once before, and checks what is left of them.
func eachEmbedded(b *testing.B, limit headgate.Limit, keys, callers int) {
	for name := range embedded {
		runEmbedded(b, name, name, limit, keys, callers)
	}
}

// reservoir is a contestant all of whose keys were asked once.
type reservoir struct {
	store headgate.Store
	lim   *headgate.Limiter
	names []string
	since time.Time

	asked, refused, failed atomic.Int64 // so far
}

func newReservoir(tb testing.TB, s headgate.Store, limit headgate.Limit, keys int) *reservoir {
	lim, err := headgate.New(s, limit.WithName("embedded"))
	if err != nil {
		tb.Fatal(err)
	}
	f := &reservoir{store: s, lim: lim, names: make([]string, keys), since: time.Now()}
	for i := range f.names {
		f.names[i] = fmt.Sprintf("user:%011x", i)
	}
	var group sync.WaitGroup
	for g := range filling {
		group.Go(func() {
			n := int64(0)
			for i := g; i < keys; i += filling {
				f.ask(f.names[i])
				n++
			}
			f.asked.Add(n)
		})
	}
	group.Wait()
	return f
}

func (f *reservoir) ask(key string) {
	switch d, err := f.lim.Take(context.Background(), key, 1); {
	case err != nil:
		f.failed.Add(1)
	case !d.Allowed:
		f.refused.Add(1)
	}
}

// check compares what is used of all keys with what was asked.
func (f *reservoir) check(tb testing.TB, limit headgate.Limit) {
	used := int64(0)
	for _, name := range f.names {
		d, err := f.lim.Peek(context.Background(), name, 0)
		if err != nil {
			tb.Fatal(err)
		}
		used += d.Limit - d.Remaining
	}
	// A token may have come back to each key, for every one that does in this time.
	back := int64(time.Since(f.since)/(24*time.Hour/time.Duration(limit.Count))+1) * int64(len(f.names))
	total := f.asked.Load() - f.refused.Load()
	if f.failed.Load() != 0 || used > total || used < total-back {
		tb.Fatalf("%d used of %d that passed, of which %d may be back; %d refused, %d failed", used, total, back, f.refused.Load(), f.failed.Load())
	}
}

// runEmbedded is one contestant's turn under a name. Its keys are asked once, however
// often its time is tried to be filled.
func runEmbedded(parent *testing.B, name, contestant string, limit headgate.Limit, keys, callers int) {
	var f *reservoir
	defer func() {
		if f != nil {
			f.store.Close()
		}
	}()
	parent.Run(name, func(b *testing.B) {
		if f == nil {
			f = newReservoir(b, embedded[contestant](parent), limit, keys)
			runtime.GC()
		}
		o := someOf(keys)
		var next, asked atomic.Int64
		written := writtenBytes(b)
		b.SetParallelism(callers)
		b.ReportAllocs()
		b.ResetTimer()
		began := cpu(b)
		b.RunParallel(func(pb *testing.PB) {
			at, n := next.Add(7919), int64(0)
			for pb.Next() {
				f.ask(o.keys[(at+n)%cycle])
				n++
			}
			asked.Add(n)
		})
		reportCPU(b, began, asked.Load())
		b.StopTimer()
		f.asked.Add(asked.Load())
		b.ReportMetric(float64(writtenBytes(b)-written)/float64(asked.Load()), "written-B/op")
		if e, ok := f.store.(*sqlitestore.Store); ok {
			st := e.Stats()
			b.ReportMetric(float64(st.FileBytes+st.LogBytes)/float64(keys), "disk-B/key")
		}
		f.check(b, limit)
	})
}

// writtenBytes is what the process has sent to the disk.
func writtenBytes(b *testing.B) int64 {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if n, ok := bytes.CutPrefix(line, []byte("write_bytes: ")); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(n)), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("the system does not say what was written")
	return 0
}

const warmKeys = 100_000

func BenchmarkEmbeddedWarm(b *testing.B)     { eachEmbedded(b, aMillion, warmKeys, 1) }
func BenchmarkEmbeddedThousand(b *testing.B) { eachEmbedded(b, aThousand, warmKeys, crowd) }
func BenchmarkEmbeddedHundred(b *testing.B)  { eachEmbedded(b, aHundred, warmKeys, crowd) }

// BenchmarkEmbeddedKeys takes from a limit so large that no mark is passed, from one
// of so many keys.
func BenchmarkEmbeddedKeys(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000, 5_000_000} {
		for name := range embedded {
			runEmbedded(b, fmt.Sprintf("%s-%dk", name, n/1000), name, tenMillion, n, 1)
		}
	}
}
