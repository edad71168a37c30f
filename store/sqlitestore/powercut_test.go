package sqlitestore

import (
	"bytes"
	"flag"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

var cuts = flag.Int("sqlite.cuts", 40, "how many power cuts TestPowerCut makes")

const sector = 512

// moment is something during which the power may be cut: the files before and after
// it, and what the journal must say then.
type moment struct {
	what          string
	before, after map[string][]byte
	// index is that of the log, before.
	index []byte
	// was is what had been acknowledged before, and is what was after.
	was, is map[uint64]memstore.Record
}

// Whatever of the writes that were not synced has reached the disk when the power is
// cut: all that was acknowledged is found, and of a commit under way all or nothing.
// It is SQLite's promise; this is how we use it.
func TestPowerCut(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 15))
	moments, final := cutWorkload(t, dir, rng)
	whats := make(map[string]int)
	old, whole := 0, 0
	for i := range *cuts {
		m := moments[rng.IntN(len(moments))]
		image := m.image(rng)
		restoreFiles(t, dir, image)
		if rng.IntN(2) == 0 { // nobody syncs it
			if err := os.WriteFile(fileOf(dir)+indexSuffix, m.index, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		j, past, err := tryBegin(t, dir, noon)
		if err != nil {
			t.Fatalf("cut %d during %s: %v", i, m.what, err)
		}
		if past.Clean || past.Lost != 0 {
			t.Errorf("cut %d during %s: %+v", i, m.what, past)
		}
		isOld, isNew := matches(t, j, m.was), matches(t, j, m.is)
		if !isOld && !isNew {
			t.Fatalf("cut %d during %s: neither what was acknowledged before nor what was after", i, m.what)
		}
		if isOld {
			old++
		}
		if isNew {
			whole++
		}
		// It goes on.
		r := recordAt(1, m.anyLimit(), rng)
		commit(t, j, noon, r)
		if got := mustFind(t, j, r.Key); !same(got, r) {
			t.Fatalf("%+v, want %+v", got, r)
		}
		end(t, j, noon, false)
		whats[m.what]++
	}
	t.Logf("%v: %d old, %d new", whats, old, whole)
	if len(whats) < 3 || old == 0 || whole == 0 {
		t.Errorf("cut during %v: %d old, %d new", whats, old, whole)
	}
	restoreFiles(t, dir, final)
	if err := Check(t.Context(), dir); err != nil {
		t.Error(err)
	}
}

func (m *moment) anyLimit() *headgate.Prepared {
	for _, r := range m.was {
		if r.Limit != nil {
			return r.Limit
		}
	}
	panic("no state")
}

// cutWorkload commits, moves the log and closes and starts again, and returns when
// the power may be cut, and the files at the end.
func cutWorkload(t *testing.T, dir string, rng *rand.Rand) (moments []moment, final map[string][]byte) {
	t.Helper()
	all := everyLimit(t)
	all = all[:len(all)-1] // bans are not looked up
	j, _ := begin(t, dir, noon)
	acked := make(map[uint64]memstore.Record)
	var records []memstore.Record
	for n := range uint64(400) {
		r := recordAt(n, all[n%uint64(len(all))], rng)
		records, acked[n] = append(records, r), r
	}
	commit(t, j, noon, records...)
	look := func() (files map[string][]byte, index []byte) {
		index, err := os.ReadFile(fileOf(dir) + indexSuffix)
		if err != nil {
			t.Fatal(err)
		}
		return snapshot(t, dir), index
	}
	files, index := look()
	note := func(what string, is map[uint64]memstore.Record) {
		after, next := look()
		moments = append(moments, moment{what, files, after, index, acked, is})
		files, index, acked = after, next, is
	}
	for i := range 60 {
		records := records[:0]
		is := maps.Clone(acked)
		for range 1 + rng.IntN(60) {
			n := rng.Uint64N(600)
			r := recordAt(n, all[rng.IntN(len(all))], rng)
			if rng.IntN(5) == 0 {
				r = memstore.Record{Key: r.Key}
			}
			records, is[n] = append(records, r), r
		}
		commit(t, j, noon, records...)
		note("commit", is)
		switch {
		case i%7 == 3: // as the checkpointer does it
			if _, _, err := j.checker.conn.checkpoint("passive"); err != nil {
				t.Fatal(err)
			}
			note("checkpoint", acked)
			if _, done, err := j.checker.conn.checkpoint("restart"); err != nil || !done {
				t.Fatal(done, err)
			}
			note("restart", acked)
		case i%20 == 19:
			end(t, j, noon, false)
			note("close", acked)
			j, _ = begin(t, dir, noon)
			files, index = look()
		}
	}
	end(t, j, noon, false)
	return moments, snapshot(t, dir)
}

// image returns files as they may be if the power is cut.
func (m *moment) image(rng *rand.Rand) map[string][]byte {
	image := maps.Clone(m.before)
	image[placeName] = m.after[placeName]
	db, wal := databaseName, databaseName+walSuffix
	const head = walHead
	was, is := m.before[wal], m.after[wal]
	if bytes.Equal(m.before[db], m.after[db]) {
		// A commit. A log that begins anew has its head synced before anything else.
		if !bytes.Equal(was[:head], is[:head]) {
			if rng.IntN(4) == 0 {
				if rng.IntN(2) == 0 {
					image[wal] = append(bytes.Clone(is[:head]), was[head:]...)
				}
				return image
			}
			was = append(bytes.Clone(is[:head]), was[head:]...)
		}
		image[wal] = torn(was, is, rng)
		return image
	}
	// The database file is written to from the log, which is synced.
	image[wal] = is
	image[db] = torn(m.before[db], m.after[db], rng)
	return image
}

// torn returns a file of which some sectors are as they were, some as they were to
// be, and of which the end may be missing or not yet written.
func torn(was, is []byte, rng *rand.Rand) []byte {
	n := len(is)
	if len(is) > len(was) && rng.IntN(2) == 0 {
		n = len(was) + rng.IntN(len(is)-len(was)+1)
	}
	file := make([]byte, n) // what was never written reads as zeros
	copy(file, was)
	share := rng.IntN(11)
	for at := 0; at < n; at += sector {
		if rng.IntN(10) < share {
			copy(file[at:min(at+sector, n)], is[at:])
		}
	}
	return file
}

// matches reports whether the journal says what it should.
func matches(t *testing.T, j *journal, want map[uint64]memstore.Record) bool {
	t.Helper()
	for n, w := range want {
		if got := mustFind(t, j, keyAt(n)); !same(got, w) {
			return false
		}
	}
	return true
}

// A process that is killed at any moment between two commits leaves what was
// acknowledged, also while it is starting: the images of the files are those of a
// kill, in which the system loses nothing that was written.
func TestKilledStart(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 16))
	l := everyLimit(t)[0]
	j, _ := begin(t, dir, noon)
	r := recordAt(1, l, rng)
	commit(t, j, noon, r)
	for i := range 6 {
		clean := i%2 == 0
		end(t, j, noon, clean)
		stopped := snapshot(t, dir)
		j, _ = begin(t, dir, noon)
		started := snapshot(t, dir)
		end(t, j, noon, false)
		// Between the commit that takes the clean mark away and the new place.
		half := maps.Clone(started)
		half[placeName] = stopped[placeName]
		for name, files := range map[string]map[string][]byte{"stopped": stopped, "half": half, "started": started} {
			restoreFiles(t, dir, files)
			j, past := begin(t, dir, noon)
			if past.Lost != 0 || past.Clean != (clean && name == "stopped") {
				t.Errorf("start %d, %s: %+v", i, name, past)
			}
			if got := mustFind(t, j, r.Key); !same(got, r) {
				t.Fatalf("start %d, %s: %+v, want %+v", i, name, got, r)
			}
			end(t, j, noon, false)
		}
		restoreFiles(t, dir, started)
		j, _ = begin(t, dir, noon)
	}
	end(t, j, noon, true)
	if _, err := os.Stat(filepath.Join(dir, placeName)); err != nil {
		t.Error(err)
	}
}

// A process that is killed when it has written all down, and before it has gone, was
// stopped in order.
func TestKilledStop(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 18))
	j, _ := begin(t, dir, noon)
	r := recordAt(1, everyLimit(t)[0], rng)
	commit(t, j, noon, r)
	running := snapshot(t, dir)
	commitClean(t, j, noon)
	written := snapshot(t, dir)
	end(t, j, noon, false)
	stopped := snapshot(t, dir)
	if bytes.Equal(running[placeName], stopped[placeName]) {
		t.Error("what was copied before the stop is of the place after it")
	}
	placed := maps.Clone(written)
	placed[placeName] = stopped[placeName]
	moved := maps.Clone(placed)
	moved[databaseName] = stopped[databaseName]
	for name, files := range map[string]map[string][]byte{"written": written, "placed": placed, "moved": moved, "stopped": stopped} {
		restoreFiles(t, dir, files)
		j, past := begin(t, dir, noon)
		if past.Lost != 0 || !past.Clean {
			t.Errorf("%s: %+v", name, past)
		}
		if got := mustFind(t, j, r.Key); !same(got, r) {
			t.Errorf("%s: %+v, want %+v", name, got, r)
		}
		end(t, j, noon, false)
	}
}
