package sqlitestore

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/headgate/headgate/store/memstore"
)

var flips = flag.Int("sqlite.flips", 32, "how often TestFlippedBits damages a database")

// A database that is damaged anywhere is refused, or reports the rows that are, or
// all its states are what they were: none is another one or silently missing.
func TestFlippedBits(t *testing.T) {
	base := t.TempDir()
	j, _ := begin(t, filepath.Join(base, "a"), noon)
	rng := rand.New(rand.NewPCG(1, 14))
	all := everyLimit(t)
	var records []memstore.Record
	for n := range uint64(1500) {
		records = append(records, recordAt(n, all[n%9], rng))
	}
	commit(t, j, noon, records...)
	end(t, j, noon, true)
	whole, err := os.ReadFile(fileOf(j.dir))
	if err != nil {
		t.Fatal(err)
	}
	refused, failed, harmless := 0, 0, 0
	for i := range *flips {
		b := append([]byte(nil), whole...)
		at := rng.IntN(len(b))
		switch i % 4 {
		case 0, 1:
			b[at] ^= 1 << rng.IntN(8)
		case 2: // the head of a page, or cells' places
			at = at/pageBytes*pageBytes + rng.IntN(64)
			b[at] ^= 1 << rng.IntN(8)
		case 3: // a sector of something else
			at = at / 512 * 512
			copy(b[at:at+512], whole[rng.IntN(len(b)/512)*512:])
		}
		dir := filepath.Join(base, "b")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(fileOf(dir), b, 0o600); err != nil {
			t.Fatal(err)
		}
		bad := 0
		if j, _, err := tryBegin(t, dir, noon); err != nil {
			refused++
		} else {
			for k, r := range records {
				got, err := find(j, r.Key)
				if err != nil {
					bad++
				} else if !same(got, r) {
					t.Errorf("flip %d at byte %d of page %d: state %d is %+v, want %+v", i, at%pageBytes, at/pageBytes+1, k, got, r)
				}
			}
			if bad > 0 {
				failed++
			} else {
				harmless++
			}
			end(t, j, noon, true)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d refused, %d failed, %d harmless", refused, failed, harmless)
	if refused == 0 || failed == 0 {
		t.Error("nothing was damaged")
	}
}

// A write-ahead log that is damaged anywhere, after a kill, is refused, or all that
// was acknowledged is found: SQLite would take it for one that ends there.
func TestDamagedLog(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "a")
	j, _ := begin(t, dir, noon)
	rng := rand.New(rand.NewPCG(1, 15))
	all := everyLimit(t)
	var records []memstore.Record
	add := func(times int) {
		for range times {
			n := uint64(len(records))
			r := recordAt(n, all[n%9], rng)
			records = append(records, r)
			commit(t, j, noon+int64(n), r) // which changes the page of table meta, too
		}
	}
	add(60)
	if _, done, err := j.checker.conn.checkpoint("restart"); err != nil || !done {
		t.Fatal(done, err)
	}
	add(40) // with frames of the log before behind them
	end(t, j, noon, false)
	files := snapshot(t, dir)
	index, err := os.ReadFile(fileOf(dir) + indexSuffix)
	if err != nil {
		t.Fatal(err)
	}
	log := files[databaseName+walSuffix]
	frames := frameEnds(t, log)
	if len(frames) < 100 {
		t.Fatalf("%d frames", len(frames))
	}
	last := 0 // frames of this log
	var ends []int
	for i, f := range frames {
		if f.current {
			last = i + 1
			if f.end {
				ends = append(ends, i+1)
			}
		}
	}
	if len(ends) != 40 || last == len(frames) || ends[39] != last {
		t.Fatalf("%d commits, %d frames of %d: a commit is not one frame that ends it", len(ends), last, len(frames))
	}
	at := func(frame int) int { return walHead + (frame-1)*(frameHead+pageBytes) }
	// Without the index, what hits the last two commits may be a power cut in the last.
	sure := at(ends[38])
	for name, spoil := range map[string]struct {
		indexed bool
		spoil   func(i int, b []byte) []byte
		want    string
	}{
		"bit": {false, func(_ int, b []byte) []byte {
			b[walHead+rng.IntN(sure-walHead)] ^= 1 << rng.IntN(8)
			return b
		}, `frame \d+ of the write-ahead log is not as it was written, and \d+ commits come after it`},
		"bit before two commits": {false, func(_ int, b []byte) []byte {
			b[at(ends[37]+1)+rng.IntN(sure-at(ends[37]+1))] ^= 1 << rng.IntN(8)
			return b
		}, `frame \d+ of the write-ahead log is not as it was written, and 2 commits come after it`},
		"bit, with the index": {true, func(_ int, b []byte) []byte {
			b[walHead+rng.IntN(at(last+1)-walHead)] ^= 1 << rng.IntN(8)
			return b
		}, `(frame \d+ of )?the write-ahead log`},
		"head": {false, func(i int, b []byte) []byte {
			b[i*walHead/8] ^= 1 << rng.IntN(8)
			return b
		}, `the head of the write-ahead log is not as it was written`},
		"no head": {false, func(_ int, b []byte) []byte {
			clear(b[:sector])
			return b
		}, `the head of the write-ahead log is not as it was written`},
		"sector": {false, func(i int, b []byte) []byte {
			for k := range sector {
				b[sector*(1+2*i)+k] ^= 0xff
			}
			return b
		}, `frame \d+ of the write-ahead log`},
		"cut off": {true, func(i int, b []byte) []byte {
			return b[:at(ends[30+i])]
		}, `the write-ahead log has \d+ frames that are as they were written, and had \d+`},
	} {
		for i := range 8 {
			restoreFiles(t, dir, map[string][]byte{
				databaseName: files[databaseName], placeName: files[placeName], databaseName + walSuffix: spoil.spoil(i, append([]byte(nil), log...)),
			})
			if spoil.indexed {
				if err := os.WriteFile(fileOf(dir)+indexSuffix, index, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, dir)
			want := `limits.db is damaged: ` + spoil.want
			wantError(t, Check(t.Context(), dir), want)
			j, _, err := tryBegin(t, dir, noon)
			wantError(t, err, want)
			if err == nil {
				end(t, j, noon, false)
				t.Fatalf("%s %d", name, i)
			}
			if !reflect.DeepEqual(snapshot(t, dir), before) {
				t.Errorf("%s %d: files were changed", name, i)
			}
		}
	}
	// What is behind the log's end is not its own.
	for _, with := range []bool{false, true} {
		b := append([]byte(nil), log...)
		b[at(last+1)+rng.IntN(len(b)-at(last+1))] ^= 1
		restoreFiles(t, dir, map[string][]byte{databaseName: files[databaseName], placeName: files[placeName], databaseName + walSuffix: b})
		if with {
			if err := os.WriteFile(fileOf(dir)+indexSuffix, index, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := Check(t.Context(), dir); err != nil {
			t.Error(err)
		}
		j, past := begin(t, dir, noon)
		if past.Clean || past.Lost != 0 {
			t.Errorf("%+v", past)
		}
		for k, r := range records {
			if got := mustFind(t, j, r.Key); !same(got, r) {
				t.Errorf("state %d is %+v, want %+v", k, got, r)
			}
		}
		end(t, j, noon, false)
	}
}

// frameOf is what a frame of a log says.
type frameOf struct{ current, end bool }

// frameEnds returns the frames of a log, and which of them end a commit.
func frameEnds(t *testing.T, log []byte) (all []frameOf) {
	t.Helper()
	salts := log[16:24]
	for b := log[walHead:]; len(b) >= frameHead+pageBytes; b = b[frameHead+pageBytes:] {
		all = append(all, frameOf{current: bytes.Equal(b[8:16], salts), end: !bytes.Equal(b[4:8], make([]byte, 4))})
	}
	return all
}

// One sentence tells what the check of the structure has found first.
func TestDamageIsOneLine(t *testing.T) {
	dir := t.TempDir()
	j, _ := begin(t, dir, noon)
	rng := rand.New(rand.NewPCG(1, 17))
	var records []memstore.Record
	for n := range uint64(500) {
		records = append(records, recordAt(n, everyLimit(t)[n%9], rng))
	}
	commit(t, j, noon, records...)
	end(t, j, noon, true)
	info, err := os.Stat(fileOf(dir))
	if err != nil {
		t.Fatal(err)
	}
	const pages = 8
	overwrite(t, fileOf(dir), int(info.Size())/2/pageBytes*pageBytes, bytes.Repeat([]byte{0x13, 0x37, 0xa5}, pages*pageBytes/3))
	_, _, err = tryBegin(t, dir, noon)
	wantError(t, err, `limits.db is damaged: (Tree|Page|Freelist)[^*]*, and at least [1-9]\d* more: restore a backup`)
	wantError(t, Check(t.Context(), dir), `limits.db is damaged: (Tree|Page|Freelist)[^*]*, and at least [1-9]\d* more: restore a backup`)
}
