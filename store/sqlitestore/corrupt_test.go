package sqlitestore

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
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
