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

// eachEmbedded has callers per processor take from keys under a limit, all of which
// were asked once before, and checks what is left of them.
func eachEmbedded(b *testing.B, limit headgate.Limit, keys, callers int) {
	for name, of := range embedded {
		b.Run(name, func(b *testing.B) { runEmbedded(b, of(b), limit, keys, callers) })
	}
}

func runEmbedded(b *testing.B, s headgate.Store, limit headgate.Limit, keys, callers int) {
	defer s.Close()
	l, err := headgate.New(s, limit.WithName("embedded"))
	if err != nil {
		b.Fatal(err)
	}
	ctx, o := context.Background(), someOf(keys)
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprintf("user:%011x", i)
	}
	since := time.Now()
	var refused, failed atomic.Int64
	ask := func(key string) {
		switch d, err := l.Take(ctx, key, 1); {
		case err != nil:
			failed.Add(1)
		case !d.Allowed:
			refused.Add(1)
		}
	}
	var group sync.WaitGroup
	for g := range crowd {
		group.Go(func() {
			for i := g; i < keys; i += crowd {
				ask(names[i])
			}
		})
	}
	group.Wait()
	runtime.GC()
	var next, asked atomic.Int64
	written := writtenBytes(b)
	b.SetParallelism(callers)
	b.ReportAllocs()
	b.ResetTimer()
	began := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		at, n := next.Add(7919), int64(0)
		for pb.Next() {
			ask(o.keys[(at+n)%cycle])
			n++
		}
		asked.Add(n)
	})
	reportCPU(b, began, asked.Load())
	b.StopTimer()
	b.ReportMetric(float64(writtenBytes(b)-written)/float64(asked.Load()), "written-B/op")
	if e, ok := s.(*sqlitestore.Store); ok {
		st := e.Stats()
		b.ReportMetric(float64(st.FileBytes+st.LogBytes)/float64(keys), "disk-B/key")
	}
	used := int64(0)
	for _, name := range names {
		d, err := l.Peek(ctx, name, 0)
		if err != nil {
			b.Fatal(err)
		}
		used += d.Limit - d.Remaining
	}
	// A token may have come back to each key, for every one that does in this time.
	back := int64(time.Since(since)/(24*time.Hour/time.Duration(limit.Count))+1) * int64(keys)
	total := asked.Load() + int64(keys) - refused.Load()
	if failed.Load() != 0 || used > total || used < total-back {
		b.Fatalf("%d used of %d that passed, of which %d may be back; %d refused, %d failed", used, total, back, refused.Load(), failed.Load())
	}
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
		b.Run(fmt.Sprintf("headgate-%dk", n/1000), func(b *testing.B) { runEmbedded(b, embedded["headgate"](b), tenMillion, n, 1) })
		b.Run(fmt.Sprintf("memory-%dk", n/1000), func(b *testing.B) { runEmbedded(b, embedded["memory"](b), tenMillion, n, 1) })
	}
}
