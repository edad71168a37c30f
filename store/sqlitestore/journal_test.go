package sqlitestore

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/memstore"
)

// noon is when most tests begin.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC).UnixMicro()

const hour = int64(time.Hour / time.Microsecond)

func prepare(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// everyLimit is one limit of every kind.
func everyLimit(t testing.TB) (all []*headgate.Prepared) {
	t.Helper()
	for i, l := range []headgate.Limit{
		headgate.Per(1000, 24*time.Hour), {Algorithm: headgate.LeakyBucket, Count: 3, Period: time.Minute}, headgate.Window(5, time.Hour),
		headgate.Sliding(8, time.Minute), headgate.Sliding(8, time.Minute).WithSlices(1), headgate.Log(4, time.Hour),
		headgate.QuotaPer(1000, headgate.Month), headgate.InFlight(3, time.Minute), {Algorithm: headgate.Idempotency, Count: 4},
		{Algorithm: headgate.Ban, Count: 2, Period: time.Minute, TTL: time.Hour},
	} {
		l.Name = string(rune('a' + i))
		all = append(all, prepare(t, l))
	}
	return all
}

// keyAt is the key number n.
func keyAt(n uint64) memstore.Key {
	return memstore.Key{Hi: n * 0x9e3779b97f4a7c15, Lo: uint32(n)}
}

// recordAt returns a record of key number n whose words are random.
func recordAt(n uint64, l *headgate.Prepared, rng *rand.Rand) memstore.Record {
	r := memstore.Record{Key: keyAt(n), Limit: l, Keep: never, Until: noon + hour + rng.Int64N(hour)}
	for range algo.Words(l) + rng.IntN(2) {
		r.Words = append(r.Words, noon+rng.Int64N(1<<40))
	}
	if rng.IntN(5) == 0 {
		r.Keep = r.Until - rng.Int64N(hour)
	}
	if rng.IntN(5) == 0 {
		r.Leases = []algo.Lease{{Holder: [2]uint64{rng.Uint64(), 7}, Granted: 5, Settled: rng.Int64N(5), Seen: noon}}
	}
	return r
}

// begin starts a journal in dir without its goroutines.
func begin(t testing.TB, dir string, now int64) (*journal, memstore.Past) {
	t.Helper()
	j, past, err := tryBegin(t, dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return j, past
}

func tryBegin(t testing.TB, dir string, now int64) (*journal, memstore.Past, error) {
	t.Helper()
	c := Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}.withDefaults()
	return open(t.Context(), &c, now)
}

// end stops a journal, in order if clean.
func end(t testing.TB, j *journal, now int64, clean bool) {
	t.Helper()
	if clean {
		commitClean(t, j, now)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
}

// commitClean is the last commit of a stop in order.
func commitClean(t testing.TB, j *journal, now int64) {
	t.Helper()
	if err := j.Commit(&memstore.Commit{Now: now, Clean: true}); err != nil {
		t.Fatal(err)
	}
}

func commit(t testing.TB, j *journal, now int64, records ...memstore.Record) {
	t.Helper()
	c := memstore.Commit{Now: now, Records: records}
	if err := j.Commit(&c); err != nil {
		t.Fatal(err)
	}
}

// find loads one record.
func find(j *journal, k memstore.Key) (memstore.Record, error) {
	records := []memstore.Record{{Key: k}}
	err := j.Load(context.Background(), records)
	return records[0], err
}

func mustFind(t testing.TB, j *journal, k memstore.Key) memstore.Record {
	t.Helper()
	r, err := find(j, k)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// same reports whether got is what a journal says of a record that was committed.
func same(got, want memstore.Record) bool {
	if want.Limit == nil {
		return got.Limit == nil
	}
	return got.Limit != nil && got.Key == want.Key && got.Limit.SameNumbers(want.Limit) && reflect.DeepEqual(got.Words, want.Words) &&
		got.Keep == want.Keep && got.Until == want.Until && reflect.DeepEqual(got.Leases, want.Leases)
}

// What is committed is found by the next process, and by this one.
func TestCommitAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	rng := rand.New(rand.NewPCG(1, 2))
	j, past := begin(t, dir, noon)
	if !reflect.DeepEqual(past, memstore.Past{}) {
		t.Fatalf("a new journal has a past: %+v", past)
	}
	secret := j.meta.secret
	all := everyLimit(t)
	want := make(map[uint64]memstore.Record)
	now := noon
	var uses []memstore.Use
	for _, l := range all {
		uses = append(uses, memstore.Use{ID: l.ID, Limit: l, Since: now, Durable: !algo.Transient(l)})
		now++
	}
	for round := range 40 {
		c := memstore.Commit{Now: now}
		if round == 0 {
			c.Limits = uses
		}
		for range 1 + rng.IntN(40) {
			n := rng.Uint64N(300)
			r := recordAt(n, all[rng.IntN(len(all))], rng)
			switch rng.IntN(8) {
			case 0:
				r = memstore.Record{Key: r.Key}
			case 1:
				r.Until = now // says nothing any more
			}
			c.Records = append(c.Records, r)
			want[n] = r
			if r.Until <= now {
				want[n] = memstore.Record{Key: r.Key}
			}
		}
		if err := j.Commit(&c); err != nil {
			t.Fatal(err)
		}
		if round%10 == 9 {
			end(t, j, now, round%20 == 9)
			if j, past = begin(t, dir, now); past.Latest != now || past.Clean != (round%20 == 9) || past.Lost != 0 {
				t.Fatalf("past %+v, at %d", past, now)
			}
			if j.meta.secret != secret {
				t.Fatal("the secret has changed")
			}
			if len(past.Limits) != len(uses) {
				t.Fatalf("%d limits in use, want %d", len(past.Limits), len(uses))
			}
			for i, u := range past.Limits {
				if u.ID != uses[i].ID || u.Since != uses[i].Since || u.Durable != uses[i].Durable || !u.Limit.SameNumbers(uses[i].Limit) {
					t.Errorf("use %+v, want %+v", u, uses[i])
				}
			}
			bans := 0
			for _, w := range want {
				if w.Limit != nil && w.Limit.Algorithm == headgate.Ban {
					bans++
				}
			}
			if len(past.Bans) != bans {
				t.Errorf("%d bans, want %d", len(past.Bans), bans)
			}
			for _, b := range past.Bans {
				if w := want[uint64(b.Key.Lo)]; !same(b, w) {
					t.Errorf("ban %+v, want %+v", b, w)
				}
			}
		}
		for n, w := range want {
			if w.Limit != nil && w.Limit.Algorithm == headgate.Ban {
				w = memstore.Record{} // bans are not looked up
			}
			if r := mustFind(t, j, keyAt(n)); !same(r, w) {
				t.Fatalf("round %d: key %d is %+v, want %+v", round, n, r, w)
			}
		}
		now += rng.Int64N(1_000_000)
	}
	end(t, j, now, true)
	for _, name := range []string{databaseName, lockName, placeName} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, mode %v, want 0600", name, err, info.Mode())
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, mode %v, want 0700", err, info.Mode())
	}
	if _, err := os.Stat(fileOf(dir) + walSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a write-ahead log after a clean stop: %v", err)
	}
	if err := Check(t.Context(), dir); err != nil {
		t.Error(err)
	}
}

// A journal is unclean from the start, before it has committed anything.
func TestCleanMarkIsGoneBeforeOpenReturns(t *testing.T) {
	dir := t.TempDir()
	j, _ := begin(t, dir, noon)
	end(t, j, noon, true)
	j, past := begin(t, dir, noon+1)
	if !past.Clean {
		t.Fatal("a clean stop was not clean")
	}
	killed := snapshot(t, dir)
	end(t, j, noon+2, true)
	restoreFiles(t, dir, killed)
	j, past = begin(t, dir, noon+3)
	if past.Clean {
		t.Fatal("a process was killed, and the next one thinks that it was stopped in order")
	}
	end(t, j, noon+3, false)
	if j, past = begin(t, dir, noon+4); past.Clean || past.Lost != 0 {
		t.Errorf("after a close without a clean commit: %+v", past)
	}
	end(t, j, noon+4, false)
}

// A context that has ended ends a Load, and a closed journal fails.
func TestLoadEnds(t *testing.T) {
	j, _ := begin(t, t.TempDir(), noon)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := j.Load(ctx, []memstore.Record{{Key: keyAt(1)}})
	if !errors.Is(err, context.Canceled) || headgate.CodeOf(err) != headgate.Unavailable {
		t.Errorf("%v", err)
	}
	end(t, j, noon, true)
	if _, err := find(j, keyAt(1)); headgate.CodeOf(err) != headgate.Closed {
		t.Errorf("%v", err)
	}
}

// Values of whatever length keep their form.
func TestValues(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 3))
	for _, l := range everyLimit(t) {
		for n := range uint64(200) {
			r := recordAt(n, l, rng)
			value := appendValue(nil, &r, 9)
			if !intact(r.Key, r.Until, 9, value) {
				t.Fatal("a value is damaged")
			}
			got := memstore.Record{Key: r.Key, Limit: r.Limit, Until: r.Until}
			if !readValue(&got, value) || !same(got, r) {
				t.Fatalf("%+v came back as %+v", r, got)
			}
			for i := crcBytes; i < len(value); i++ {
				cut := memstore.Record{}
				if readValue(&cut, value[:i]) {
					t.Fatalf("%d bytes of %d were read", i, len(value))
				}
			}
			bad := rng.IntN(len(value))
			value[bad] ^= 1 << rng.IntN(8)
			if intact(r.Key, r.Until, 9, value) {
				t.Fatalf("byte %d is damaged, and nobody sees it", bad)
			}
		}
	}
	r := recordAt(1, everyLimit(t)[0], rng)
	value := appendValue(nil, &r, 9)
	if intact(keyAt(2), r.Until, 9, value) || intact(r.Key, r.Until+1, 9, value) || intact(r.Key, r.Until, 8, value) {
		t.Error("a value is that of another key, until or numbers")
	}
}

// Whatever a value says, reading it ends.
func FuzzValue(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 4))
	for _, l := range everyLimit(f) {
		r := recordAt(1, l, rng)
		f.Add(appendValue(nil, &r, 1))
	}
	f.Add(binary.AppendUvarint([]byte{0, 0, 0, 0}, 1<<63|2))
	f.Fuzz(func(t *testing.T, value []byte) {
		if len(value) <= crcBytes {
			return
		}
		var r memstore.Record
		if readValue(&r, value) && len(r.Words) > len(value) {
			t.Fatalf("%d words in %d bytes", len(r.Words), len(value))
		}
	})
}

// Many states of one commit with the same key: the last one counts.
func TestLastOfEqualKeys(t *testing.T) {
	j, _ := begin(t, t.TempDir(), noon)
	l := everyLimit(t)[0]
	rng := rand.New(rand.NewPCG(1, 5))
	var records []memstore.Record
	for range 20 {
		records = append(records, recordAt(1, l, rng))
	}
	commit(t, j, noon, records...)
	if got := mustFind(t, j, keyAt(1)); !same(got, records[19]) {
		t.Errorf("%+v, want %+v", got, records[19])
	}
	end(t, j, noon, true)
}

// A clock that was set back is told, and Latest stays.
func TestClockSetBack(t *testing.T) {
	dir := t.TempDir()
	j, _ := begin(t, dir, noon)
	commit(t, j, noon+5*hour)
	commit(t, j, noon) // the store's clock does not go back either
	end(t, j, noon, true)
	var told strings.Builder
	c := Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&told, nil))}.withDefaults()
	j, past, err := open(t.Context(), &c, noon+2*hour)
	if err != nil {
		t.Fatal(err)
	}
	if past.Latest != noon+5*hour || !strings.Contains(told.String(), "by=3h0m0s") {
		t.Errorf("latest %d, told %q", past.Latest, told.String())
	}
	end(t, j, noon, true)
}

// snapshot is the content of the files of a directory.
func snapshot(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for _, name := range []string{databaseName, databaseName + walSuffix, placeName} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			files[name] = b
		} else if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return files
}

// restoreFiles makes the files what they were, in place: their inodes stay.
func restoreFiles(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for _, name := range []string{databaseName, databaseName + walSuffix, placeName} {
		file := filepath.Join(dir, name)
		b, ok := files[name]
		if !ok {
			os.Remove(file)
		} else if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(fileOf(dir) + "-shm")
}
