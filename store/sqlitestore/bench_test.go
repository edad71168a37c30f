package sqlitestore

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// grown starts a journal with rows of table state, and its other goroutines.
func grown(b *testing.B, dir string, rows int) (*journal, *headgate.Prepared) {
	b.Helper()
	j, l := grow(b, dir, rows)
	j.checkpoint(0)
	j.run()
	return j, l
}

// grow does so without the goroutines.
func grow(b *testing.B, dir string, rows int) (*journal, *headgate.Prepared) {
	b.Helper()
	j, _ := begin(b, dir, noon)
	l := prepare(b, headgate.Per(1000, 24*time.Hour))
	rng := rand.New(rand.NewPCG(1, 17))
	c := memstore.Commit{Now: noon, Limits: []memstore.Use{{ID: l.ID, Limit: l, Since: noon, Durable: true}}}
	for n := range rows {
		c.Records = append(c.Records, bucketAt(uint64(n), l, rng))
		if len(c.Records) == 8192 || n == rows-1 {
			if err := j.Commit(&c); err != nil {
				b.Fatal(err)
			}
			c.Records, c.Limits = c.Records[:0], nil
		}
	}
	return j, l
}

// bucketAt is the state of a token bucket without reservations.
func bucketAt(n uint64, l *headgate.Prepared, rng *rand.Rand) memstore.Record {
	return memstore.Record{
		Key: keyAt(n), Limit: l, Keep: never, Until: noon + 24*hour + rng.Int64N(hour),
		Words: []int64{rng.Int64N(l.Cap), noon - rng.Int64N(hour)},
	}
}

// wrote returns how many bytes this process has written, and how many of them the
// system must write to the disk.
func wrote(b *testing.B) (bytes, disk int64) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, 0 // not Linux
	}
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "wchar: %d", &bytes)
		fmt.Sscanf(line, "write_bytes: %d", &disk)
	}
	return bytes, disk
}

var sizes = []int{1_000, 100_000, 1_000_000}

// Commits of states of random keys that are there.
func BenchmarkCommit(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("rows=%d", size), func(b *testing.B) {
			j, l := grown(b, filepath.Join(b.TempDir(), "d"), size)
			defer end(b, j, noon, true)
			for _, many := range []int{1, 64, 1024} {
				b.Run(fmt.Sprintf("batch=%d", many), func(b *testing.B) {
					rng := rand.New(rand.NewPCG(1, 18))
					var took []time.Duration
					bytes, disk := wrote(b)
					for b.Loop() {
						c := memstore.Commit{Now: noon}
						for range many {
							c.Records = append(c.Records, bucketAt(rng.Uint64N(uint64(size)), l, rng))
						}
						start := time.Now()
						if err := j.Commit(&c); err != nil {
							b.Fatal(err)
						}
						took = append(took, time.Since(start))
					}
					bytes2, disk2 := wrote(b)
					slices.Sort(took)
					states := float64(b.N * many)
					b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
					b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
					b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-µs")
					b.ReportMetric(float64(bytes2-bytes)/states, "written-B/state")
					b.ReportMetric(float64(disk2-disk)/states, "disk-B/state")
				})
			}
		})
	}
}

// Commits of 64 states of a million random keys, on pages of several sizes.
func BenchmarkPageSize(b *testing.B) {
	const size, many = 1_000_000, 64
	for _, page := range []int{1024, 2048, 4096} {
		b.Run(fmt.Sprint(page), func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "d")
			if err := os.Mkdir(dir, 0o700); err != nil {
				b.Fatal(err)
			}
			if err := create(b.Context(), dir, page); err != nil {
				b.Fatal(err)
			}
			j, l := grow(b, dir, size)
			j.soft = softFrames * (pageBytes + frameHead) / int64(page+frameHead)
			j.checkpoint(0)
			rng := rand.New(rand.NewPCG(1, 23))
			bytes, disk := wrote(b)
			for b.Loop() {
				c := memstore.Commit{Now: noon}
				for range many {
					c.Records = append(c.Records, bucketAt(rng.Uint64N(size), l, rng))
				}
				if err := j.Commit(&c); err != nil {
					b.Fatal(err)
				}
				if j.frames >= j.due {
					j.checkpoint(j.soft)
				}
			}
			j.checkpoint(0)
			bytes2, disk2 := wrote(b)
			b.ReportMetric(float64(bytes2-bytes)/float64(b.N*many), "written-B/state")
			b.ReportMetric(float64(disk2-disk)/float64(b.N*many), "disk-B/state")
			if info, err := os.Stat(fileOf(dir)); err == nil {
				b.ReportMetric(float64(info.Size())/size, "file-B/state")
			}
			end(b, j, noon, true)
		})
	}
}

// Reads of states of random keys that are there, and of keys that are not.
func BenchmarkLoad(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("rows=%d", size), func(b *testing.B) {
			j, _ := grown(b, filepath.Join(b.TempDir(), "d"), size)
			defer end(b, j, noon, true)
			for name, from := range map[string]uint64{"there": 0, "absent": uint64(size)} {
				b.Run(name, func(b *testing.B) {
					rng := rand.New(rand.NewPCG(1, 19))
					records := make([]memstore.Record, 1)
					for b.Loop() {
						records[0].Key = keyAt(from + rng.Uint64N(uint64(size)))
						if err := j.Load(background, records); err != nil || (records[0].Limit != nil) != (from == 0) {
							b.Fatal(err, records[0])
						}
					}
				})
			}
		})
	}
}

// A start with a million states: after a clean stop, after a kill with a long
// write-ahead log, and where charges may be missing.
func BenchmarkStart(b *testing.B) {
	const size = 1_000_000
	dir := filepath.Join(b.TempDir(), "d")
	j, l := grown(b, dir, size)
	backup := dir + ".backup"
	start := time.Now()
	if err := j.backup(b.Context(), backup, noon); err != nil {
		b.Fatal(err)
	}
	b.Logf("a backup takes %v", time.Since(start))
	end(b, j, noon, true)
	stopped := snapshot(b, dir)
	j, _ = begin(b, dir, noon)
	rng := rand.New(rand.NewPCG(1, 20))
	j.due = 1 << 40
	for info := (os.FileInfo)(nil); info == nil || info.Size() < 52<<20; {
		c := memstore.Commit{Now: noon}
		for range 1024 {
			c.Records = append(c.Records, bucketAt(rng.Uint64N(size), l, rng))
		}
		if err := j.Commit(&c); err != nil {
			b.Fatal(err)
		}
		var err error
		if info, err = os.Stat(fileOf(dir) + walSuffix); err != nil {
			b.Fatal(err)
		}
	}
	killed := snapshot(b, dir)
	end(b, j, noon, false)
	for name, files := range map[string]map[string][]byte{"clean": stopped, "killed": killed} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				restoreFiles(b, dir, maps.Clone(files))
				b.StartTimer()
				j, past := begin(b, dir, noon)
				b.StopTimer()
				if past.Clean != (name == "clean") || past.Lost != 0 {
					b.Fatalf("%+v", past)
				}
				end(b, j, noon, false)
				b.StartTimer()
			}
		})
	}
	b.Run("restored", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			to := filepath.Join(b.TempDir(), "r")
			if err := os.RemoveAll(to); err != nil {
				b.Fatal(err)
			}
			if err := Restore(b.Context(), backup, to, false); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			j, past := begin(b, to, noon)
			b.StopTimer()
			if past.Lost == 0 {
				b.Fatalf("%+v", past)
			}
			end(b, j, noon, false)
			b.StartTimer()
		}
	})
}

// Ways to move the write-ahead log to the database file, under commits of 64 random
// states without pause: by SQLite within commits, and by the checkpointer.
func BenchmarkCheckpoints(b *testing.B) {
	const size, many = 300_000, 64
	for _, auto := range []bool{true, false} {
		name := "own"
		if auto {
			name = "auto"
		}
		b.Run(name, func(b *testing.B) {
			j, l := grown(b, filepath.Join(b.TempDir(), "d"), size)
			if auto {
				j.mu.Lock()
				j.due = 1 << 40
				j.mu.Unlock()
				if err := j.w.query(background, fmt.Sprintf(`pragma wal_autocheckpoint = %d`, softFrames), 1, ignore); err != nil {
					b.Fatal(err)
				}
			}
			rng := rand.New(rand.NewPCG(1, 21))
			var took []time.Duration
			longest := int64(0)
			for b.Loop() {
				c := memstore.Commit{Now: noon}
				for range many {
					c.Records = append(c.Records, bucketAt(rng.Uint64N(size), l, rng))
				}
				start := time.Now()
				if err := j.Commit(&c); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
				if len(took)%64 == 0 {
					if info, err := os.Stat(fileOf(j.dir) + walSuffix); err == nil {
						longest = max(longest, info.Size())
					}
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(took[len(took)*999/1000].Microseconds()), "p99.9-µs")
			b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-µs")
			b.ReportMetric(float64(longest)/1e6, "longest-MB")
			end(b, j, noon, true)
		})
	}
}

// Loads of a pool of goroutines beside commits.
func BenchmarkLoadBesideCommits(b *testing.B) {
	const size = 100_000
	j, l := grown(b, filepath.Join(b.TempDir(), "d"), size)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		rng := rand.New(rand.NewPCG(1, 22))
		for {
			select {
			case <-stop:
				return
			default:
			}
			c := memstore.Commit{Now: noon}
			for range 64 {
				c.Records = append(c.Records, bucketAt(rng.Uint64N(size), l, rng))
			}
			if err := j.Commit(&c); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.RunParallel(func(pb *testing.PB) {
		records := make([]memstore.Record, 1)
		for pb.Next() {
			records[0].Key = keyAt(rand.Uint64N(size))
			if err := j.Load(background, records); err != nil || records[0].Limit == nil {
				b.Error(err)
				return
			}
		}
	})
	close(stop)
	writer.Wait()
	end(b, j, noon, true)
}
