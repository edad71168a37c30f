package sqlitestore

import (
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/memstore"
)

// filled starts a journal in dir with a state of every kind, and one bucket in debt.
func filled(t *testing.T, dir string) (j *journal, records []memstore.Record) {
	t.Helper()
	j, _ = begin(t, dir, noon)
	all := everyLimit(t)
	c := memstore.Commit{Now: noon}
	for i, l := range all {
		c.Limits = append(c.Limits, memstore.Use{ID: l.ID, Limit: l, Since: noon, Durable: !algo.Transient(l)})
		c.Records = append(c.Records, spent(uint64(i), l, 1))
	}
	c.Records = append(c.Records, spent(uint64(len(all)), all[0], 1500))
	records = c.Records
	if err := j.Commit(&c); err != nil {
		t.Fatal(err)
	}
	return j, records
}

// spent is a state of which cost was taken at noon.
func spent(n uint64, l *headgate.Prepared, cost int64) memstore.Record {
	b := algo.Budget{}
	b.Load(l, noon, headgate.Epoch{})
	var o headgate.Outcome
	op := headgate.Take
	if cost > l.Count {
		op = headgate.Debit
	}
	switch l.Algorithm {
	case headgate.Ban:
		for range l.Count {
			algo.CountDenial(l, b.Words, noon)
		}
	case headgate.Idempotency:
		b.Words = append(b.Words, make([]int64, 16)...)
		algo.Remember(l, b.Words, noon, headgate.RequestKey{ID: [2]uint64{1, 2}}, 0)
		b.Words = algo.Trim(l, b.Words)
	default:
		b.Apply(&algo.Call{Op: op, Now: noon, Cost: cost}, headgate.Epoch{}, &o)
	}
	return memstore.Record{Key: keyAt(n), Limit: l, Words: b.Words, Keep: never, Until: max(noon+1, algo.AbsentAt(l, b.Words))}
}

// A backup of a running store, restored elsewhere: nothing that may have been charged
// since is given again, unless the operator says that nothing was.
func TestBackupAndRestore(t *testing.T) {
	base := t.TempDir()
	j, records := filled(t, filepath.Join(base, "a"))
	file := filepath.Join(base, "backup")
	if err := j.backup(t.Context(), file, noon+1); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
	later := spent(99, records[0].Limit, 3)
	commit(t, j, noon+2, later) // not in the backup
	wantError(t, j.backup(t.Context(), file, noon+3), `backup exists: name a file that does not$`)
	wantError(t, j.backup(t.Context(), filepath.Join(base, "no", "b"), noon+3), `no such file or directory`)
	secret := j.meta.secret
	wantError(t, Restore(t.Context(), file, filepath.Join(base, "a"), false), `in use by process`)
	end(t, j, noon+2, true)
	wantError(t, Restore(t.Context(), file, filepath.Join(base, "a"), false), `limits.db exists: name another directory`)
	entries, err := os.ReadDir(base)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v %v", entries, err)
	}

	trusted := filepath.Join(base, "trusted")
	if err := Restore(t.Context(), file, trusted, true); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		j, past := begin(t, trusted, noon+hour/2)
		if past.Lost != 0 || past.Clean || past.Latest != noon || len(past.Bans) != 1 || len(past.Limits) != len(everyLimit(t)) || j.meta.secret != secret {
			t.Errorf("%+v", past)
		}
		for _, r := range records {
			if got := mustFind(t, j, r.Key); r.Limit.Algorithm != headgate.Ban && !same(got, r) {
				t.Errorf("%+v, want %+v", got, r)
			}
		}
		end(t, j, noon, false)
	}

	dir := filepath.Join(base, "restored")
	if err := Restore(t.Context(), file, dir, false); err != nil {
		t.Fatal(err)
	}
	wantLost(t, dir, records)
	if err := Check(t.Context(), dir); err != nil {
		t.Error(err)
	}
}

// wantLost starts in dir, several times, and fails unless nothing is left of any
// limit, from the first start on.
func wantLost(t *testing.T, dir string, records []memstore.Record) {
	t.Helper()
	at := noon + hour/2
	for i := range int64(3) {
		j, past := begin(t, dir, at+i)
		if past.Lost != at {
			t.Fatalf("start %d: lost at %d, want %d", i, past.Lost, at)
		}
		if len(past.Bans) != 1 || !same(past.Bans[0], records[len(records)-2]) {
			t.Errorf("bans %+v", past.Bans)
		}
		for _, r := range records {
			if r.Limit.Algorithm == headgate.Ban {
				continue
			}
			got := mustFind(t, j, r.Key)
			if got.Limit == nil {
				got.Limit, got.Words = r.Limit, make([]int64, algo.Words(r.Limit))
				algo.Init(r.Limit, got.Words, at)
				got.Words = algo.Deplete(r.Limit, got.Words, at)
			}
			var o headgate.Outcome
			algo.Apply(&algo.Call{Op: headgate.Peek, Now: at, Cost: 1}, got.Limit, got.Words, &o)
			if o.Allowed && r.Limit.Algorithm != headgate.Idempotency {
				t.Errorf("start %d: %v admits: %+v", i, r.Limit.Algorithm, o)
			}
		}
		if debt := mustFind(t, j, records[len(records)-1].Key); debt.Limit == nil {
			t.Error("a debt was forgiven")
		}
		end(t, j, at+i, i == 1)
	}
	// For good: a limit that was used since may recover in a hundred years only.
	j, past := begin(t, dir, at+99*365*24*hour)
	if past.Lost != at {
		t.Errorf("lost at %d, want %d", past.Lost, at)
	}
	end(t, j, noon, true)
}

// A backup knows nothing of the limits that came into use after it: that they may have been
// charged is remembered, whatever it has, and over all starts.
func TestRestoreRemembersWhatWasLost(t *testing.T) {
	short := prepare(t, headgate.Limit{Name: "short", Algorithm: headgate.FixedWindow, Count: 100, Period: time.Second})
	for name, uses := range map[string][]memstore.Use{
		"unused":       nil,
		"short limits": {{ID: short.ID, Limit: short, Since: noon}},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			j, _ := begin(t, base+"/a", noon)
			if len(uses) > 0 {
				if err := j.Commit(&memstore.Commit{Now: noon, Limits: uses}); err != nil {
					t.Fatal(err)
				}
			}
			if err := j.backup(t.Context(), base+"/backup", noon+1); err != nil {
				t.Fatal(err)
			}
			end(t, j, noon+2, true)
			if err := Restore(t.Context(), base+"/backup", base+"/b", false); err != nil {
				t.Fatal(err)
			}
			for i, after := range []int64{1, 2, 26, 400 * 24, 99 * 365 * 24} {
				j, past := begin(t, base+"/b", noon+after*hour)
				if past.Lost != noon+hour {
					t.Errorf("%d h later: lost at %d, want %d", after, past.Lost, noon+hour)
				}
				end(t, j, noon+after*hour, i%2 == 0)
			}
			if err := Restore(t.Context(), base+"/backup", base+"/trusted", true); err != nil {
				t.Fatal(err)
			}
			j, past := begin(t, base+"/trusted", noon+hour)
			if past.Lost != 0 {
				t.Errorf("nothing was charged since, and %+v", past)
			}
			end(t, j, noon+hour, true)
		})
	}
}

// What is no whole backup is refused, and leaves nothing in the directory.
func TestRefusedRestores(t *testing.T) {
	base := t.TempDir()
	j, _ := filled(t, filepath.Join(base, "a"))
	good := filepath.Join(base, "good")
	if err := j.backup(t.Context(), good, noon); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, j, noon, true)
	wantError(t, Restore(t.Context(), fileOf(j.dir), filepath.Join(base, "d"), false), `has a file .*limits.db-wal beside it`)
	wantError(t, Restore(t.Context(), filepath.Join(base, "none"), filepath.Join(base, "d"), false), `no such file`)
	for name, test := range map[string]struct {
		spoil func(b []byte) []byte
		want  string
	}{
		"cut":    {func(b []byte) []byte { return b[:len(b)-pageBytes] }, `it is damaged`},
		"header": {func(b []byte) []byte { return b[:20] }, `has only 20 bytes`},
		"empty":  {func([]byte) []byte { return nil }, `is empty`},
		"text": {func(b []byte) []byte {
			return []byte("this is a text file that someone has taken for a backup of limits, which it is not at all, as you see.")
		}, `is not a database`},
		"page": {func(b []byte) []byte {
			for i := range pageBytes {
				b[len(b)-1-i] ^= 0x55
			}
			return b
		}, `it is damaged`},
	} {
		file, dir := filepath.Join(base, name), filepath.Join(base, "dir-"+name)
		if err := os.WriteFile(file, test.spoil(append([]byte(nil), whole...)), 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, Restore(t.Context(), file, dir, false), test.want)
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 1 {
			t.Errorf("%s: %v is left", name, entries)
		}
	}
}

// A backup that is damaged anywhere is refused, or its states are what they were.
func TestRestoreOfDamage(t *testing.T) {
	base := t.TempDir()
	j, records := filled(t, filepath.Join(base, "a"))
	good := filepath.Join(base, "good")
	if err := j.backup(t.Context(), good, noon); err != nil {
		t.Fatal(err)
	}
	end(t, j, noon, true)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 13))
	refused := 0
	for range 20 {
		b := append([]byte(nil), whole...)
		b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		file, dir := filepath.Join(base, "bad"), filepath.Join(base, "b")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Restore(t.Context(), file, dir, true); err != nil {
			refused++
		} else {
			j, _ := begin(t, dir, noon)
			for _, r := range records {
				if got := mustFind(t, j, r.Key); r.Limit.Algorithm != headgate.Ban && !same(got, r) {
					t.Fatalf("%+v, want %+v", got, r)
				}
			}
			end(t, j, noon, true)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if refused < 3 {
		t.Errorf("only %d of 20 were refused", refused)
	}
}

// Files that were copied by hand are taken as they are only where nothing can have
// been charged since.
func TestCopiesByHand(t *testing.T) {
	copyTo := func(t *testing.T, from, to string, names ...string) {
		t.Helper()
		os.MkdirAll(to, 0o700)
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(from, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	wal := databaseName + walSuffix
	t.Run("running", func(t *testing.T) {
		base := t.TempDir()
		j, records := filled(t, base+"/a")
		defer end(t, j, noon, true)
		copyTo(t, base+"/a", base+"/all", databaseName, wal, placeName)
		wantLost(t, base+"/all", records)
		copyTo(t, base+"/a", base+"/two", databaseName, wal)
		wantLost(t, base+"/two", records)
		j.checker.mu.Lock()
		if _, done, err := j.checker.conn.checkpoint("restart"); err != nil || !done {
			t.Fatal(done, err)
		}
		j.checker.mu.Unlock()
		copyTo(t, base+"/a", base+"/one", databaseName)
		_, _, err := tryBegin(t, base+"/one", noon)
		wantError(t, err, `limits.db-wal is missing or empty`)
		// The way that the error names.
		if err := Restore(t.Context(), base+"/one/"+databaseName, base+"/way", false); err != nil {
			t.Fatal(err)
		}
		wantLost(t, base+"/way", records)
		wantError(t, Restore(t.Context(), base+"/one/"+databaseName, base+"/trust", true), `cannot be trusted`)
	})
	t.Run("stopped", func(t *testing.T) {
		base := t.TempDir()
		j, records := filled(t, base+"/a")
		end(t, j, noon, true)
		copyTo(t, base+"/a", base+"/all", databaseName, placeName)
		copyTo(t, base+"/a", base+"/one", databaseName)
		for _, dir := range []string{base + "/all", base + "/one"} {
			j, past := begin(t, dir, noon)
			if past.Lost != 0 || !past.Clean {
				t.Errorf("%s: %+v", dir, past)
			}
			end(t, j, noon, true)
		}
		// Put back after the original has gone on.
		j, _ = begin(t, base+"/a", noon)
		end(t, j, noon, true)
		old := base + "/old"
		copyTo(t, base+"/a", old, databaseName)
		j, _ = begin(t, base+"/a", noon)
		end(t, j, noon, true)
		copyTo(t, old, base+"/a", databaseName)
		wantLost(t, base+"/a", records)
	})
	for name, before := range map[string]func(t *testing.T, dir string){
		"file alone, first life": func(*testing.T, string) {},
		"file alone, after a clean stop": func(t *testing.T, dir string) {
			j, _ := begin(t, dir, noon)
			end(t, j, noon, true)
		},
		"file alone, after a kill": func(t *testing.T, dir string) {
			j, _ := begin(t, dir, noon)
			end(t, j, noon, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			before(t, base+"/a")
			j, _ := filled(t, base+"/a")
			copyTo(t, base+"/a", base+"/one", databaseName)
			copyTo(t, base+"/a", base+"/two", databaseName, placeName)
			end(t, j, noon, true)
			for _, dir := range []string{base + "/one", base + "/two"} {
				_, _, err := tryBegin(t, dir, noon)
				wantError(t, err, `limits.db-wal is missing or empty`)
				wantError(t, Restore(t.Context(), dir+"/"+databaseName, base+"/trust", true), `cannot be trusted`)
			}
		})
	}
	t.Run("never used", func(t *testing.T) {
		base := t.TempDir()
		j, _ := begin(t, base+"/a", noon)
		copyTo(t, base+"/a", base+"/b", databaseName, wal)
		end(t, j, noon, true)
		j, past := begin(t, base+"/b", noon+1)
		if past.Lost != noon+1 {
			t.Errorf("the original may have been used since, and %+v", past)
		}
		end(t, j, noon+1, true)
	})
	t.Run("put back after the stop", func(t *testing.T) {
		base := t.TempDir()
		j, records := filled(t, base+"/a")
		copyTo(t, base+"/a", base+"/copy", databaseName, wal)
		commit(t, j, noon, spent(99, records[0].Limit, 3))
		end(t, j, noon, true)
		copyTo(t, base+"/copy", base+"/a", databaseName, wal)
		wantLost(t, base+"/a", records)
	})
	t.Run("put back after a kill", func(t *testing.T) {
		base := t.TempDir()
		j, records := filled(t, base+"/a")
		copyTo(t, base+"/a", base+"/copy", databaseName, wal)
		commit(t, j, noon, spent(99, records[0].Limit, 3))
		end(t, j, noon, false)
		copyTo(t, base+"/copy", base+"/a", databaseName, wal)
		_, _, err := tryBegin(t, base+"/a", noon)
		wantError(t, err, `is damaged: the write-ahead log has \d+ frames that are as they were written, and had \d+`)
	})
	t.Run("torn", func(t *testing.T) { // while the log was written
		base := t.TempDir()
		j, records := filled(t, base+"/a")
		for range 3 {
			commit(t, j, noon, spent(99, records[0].Limit, 3))
		}
		copyTo(t, base+"/a", base+"/b", databaseName, wal, wal[:len(wal)-len(walSuffix)]+indexSuffix, placeName)
		end(t, j, noon, true)
		overwrite(t, fileOf(base+"/b")+walSuffix, walHead+frameHead+100, []byte("torn"))
		j, past := begin(t, base+"/b", noon+1)
		if past.Lost != noon+1 {
			t.Errorf("%+v", past)
		}
		end(t, j, noon+1, true)
	})
	t.Run("backup", func(t *testing.T) {
		base := t.TempDir()
		j, records := filled(t, base+"/a")
		if err := j.backup(t.Context(), base+"/"+databaseName, noon); err != nil {
			t.Fatal(err)
		}
		end(t, j, noon, true)
		copyTo(t, base, base+"/b", databaseName)
		wantLost(t, base+"/b", records)
	})
	t.Run("killed and moved", func(t *testing.T) {
		base := t.TempDir()
		j, records := filled(t, base+"/a")
		end(t, j, noon, false)
		if err := os.Rename(base+"/a", base+"/b"); err != nil {
			t.Fatal(err)
		}
		j, past := begin(t, base+"/b", noon)
		if past.Lost != 0 || past.Clean {
			t.Errorf("%+v", past)
		}
		if got := mustFind(t, j, records[0].Key); !same(got, records[0]) {
			t.Errorf("%+v, want %+v", got, records[0])
		}
		end(t, j, noon, true)
	})
}

// Where there are very many limits, those are forgotten that nothing depends on.
func TestForgottenLimits(t *testing.T) {
	dir := t.TempDir()
	j, _ := begin(t, dir, noon)
	c := memstore.Commit{Now: noon}
	for i := range 30 {
		l := prepare(t, headgate.Limit{Name: "x", Algorithm: headgate.FixedWindow, Count: int64(i + 1), Period: time.Hour})
		durable := i >= 10
		c.Limits = append(c.Limits, memstore.Use{ID: l.ID, Limit: l, Since: noon + int64(i), Durable: durable})
		if i >= 20 {
			c.Records = append(c.Records, spent(uint64(i), l, 1))
		}
	}
	if err := j.Commit(&c); err != nil {
		t.Fatal(err)
	}
	end(t, j, noon, true)
	w, err := connect(fileOf(dir))
	if err != nil {
		t.Fatal(err)
	}
	d := newDictionary()
	if err := d.load(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	uses, err := d.readUses(t.Context(), w)
	if err != nil || len(uses) != 30 {
		t.Fatal(len(uses), err)
	}
	s := &starting{dir: dir, w: w, log: slog.New(slog.DiscardHandler)}
	for _, x := range []struct {
		most       int
		stopped    int64
		after      int64
		kept, gone int
	}{
		{30, running, 0, 30, 0},
		{29, clean, 0, 10, 20},                  // those with states
		{29, running, algo.Horizon, 10, 20},     // what was lost has recovered
		{29, running, algo.Horizon - 1, 20, 10}, // and has not
	} {
		s.meta, s.now = &meta{stopped: x.stopped, latest: noon}, noon+x.after
		kept, gone, err := s.prune(t.Context(), uses, x.most)
		if err != nil || len(kept) != x.kept || len(gone) != x.gone {
			t.Errorf("%+v: %d kept, %d gone: %v", x, len(kept), len(gone), err)
		}
		if x.gone == 20 {
			if s.meta, err = w.readMeta(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.commit(t.Context(), false, noon, gone, d); err != nil {
				t.Fatal(err)
			}
			left, err := d.readUses(t.Context(), w)
			if err != nil || len(left) != 10 {
				t.Errorf("%d left: %v", len(left), err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// What was restored, and has not been started, starts empty wherever it is restored to:
// that nothing was admitted since is said of it, not of the backup that it came from.
func TestRestoreOfRestored(t *testing.T) {
	base := t.TempDir()
	j, records := filled(t, base+"/a")
	if err := j.backup(t.Context(), base+"/backup", noon+1); err != nil {
		t.Fatal(err)
	}
	end(t, j, noon+2, false)
	from := base + "/backup"
	for _, x := range []struct {
		to    string
		trust bool
	}{{base + "/b", false}, {base + "/c", true}, {base + "/d", true}} {
		if err := Restore(t.Context(), from, x.to, x.trust); err != nil {
			t.Fatal(err)
		}
		from = fileOf(x.to)
	}
	wantLost(t, base+"/d", records)
	// That a start has seen it is not forgotten either, and a stop in order hides nothing.
	j, _ = begin(t, base+"/c", noon+hour/2)
	end(t, j, noon+hour/2, true)
	if err := Restore(t.Context(), fileOf(base+"/c"), base+"/e", true); err != nil {
		t.Fatal(err)
	}
	j, past := begin(t, base+"/e", noon+hour)
	if past.Lost != noon+hour/2 {
		t.Errorf("lost at %d, want %d", past.Lost, noon+hour/2)
	}
	end(t, j, noon+hour, true)
}
