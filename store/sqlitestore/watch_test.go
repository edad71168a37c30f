package sqlitestore

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// A process that takes the file lock for left over, and removes or replaces it, does
// not let another one in.
func TestLockFileRemoved(t *testing.T) {
	for name, spoil := range map[string]func(file string) error{
		"removed": os.Remove,
		"replaced": func(file string) error {
			if err := os.WriteFile(file+".old", []byte(`{"pid":1,"command":"headgate serve"}`), 0o600); err != nil {
				return err
			}
			return os.Rename(file+".old", file)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j, _ := begin(t, dir, noon)
			if err := spoil(filepath.Join(dir, lockName)); err != nil {
				t.Fatal(err)
			}
			const want = `\S+ is in use by another process, though its file lock, which would say by which, was removed or replaced: 'fuser -v \S+' tells; stop that first, or name another --data$`
			for range 2 { // the first one leaves a new file
				_, _, err := tryBegin(t, dir, noon)
				wantError(t, err, want)
				wantError(t, Check(t.Context(), dir), want)
			}
			end(t, j, noon, true)
			j, past := begin(t, dir, noon)
			if !past.Clean {
				t.Errorf("%+v", past)
			}
			_, _, err := tryBegin(t, dir, noon)
			wantError(t, err, ` is in use by process \d+ `)
			end(t, j, noon, true)
		})
	}
}

// errorLog collects what is logged as an error.
type errorLog struct {
	mu   sync.Mutex
	text bytes.Buffer
	said chan struct{} // gets a value for each
}

func (l *errorLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said <- struct{}{}
	return l.text.Write(line)
}

func (l *errorLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Who loses his directory while he runs says so once, keeps nothing that would be lost,
// and does not stop in order.
func TestDirectoryLost(t *testing.T) {
	l, err := headgate.QuotaPer(100, headgate.Year).Prepare()
	if err != nil {
		t.Fatal(err)
	}
	away := func(name string) error { return os.Rename(name, name+".away") }
	for name, test := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"removed":    {os.RemoveAll, `the data directory DIR was removed or moved away`},
		"moved away": {away, `the data directory DIR was removed or moved away`},
		"replaced": {func(dir string) error {
			if err := away(dir); err != nil {
				return err
			}
			return os.CopyFS(dir, os.DirFS(dir+".away"))
		}, `the data directory DIR was replaced`},
		"a file in its place": {func(dir string) error {
			if err := away(dir); err != nil {
				return err
			}
			return os.WriteFile(dir, nil, 0o600)
		}, `the data directory DIR was replaced`},
		"database removed":    {func(dir string) error { return os.Remove(fileOf(dir)) }, `DIR/limits.db was removed or moved away`},
		"database moved away": {func(dir string) error { return away(fileOf(dir)) }, `DIR/limits.db was removed or moved away`},
		"database replaced": {func(dir string) error {
			old := fileOf(dir) + ".away"
			if err := away(fileOf(dir)); err != nil {
				return err
			}
			text, err := os.ReadFile(old)
			if err != nil {
				return err
			}
			return os.WriteFile(fileOf(dir), text, 0o600)
		}, `DIR/limits.db was replaced`},
	} {
		for _, running := range []bool{true, false} { // or only at the stop
			t.Run(name+map[bool]string{true: "", false: " before the stop"}[running], func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "data")
				log := &errorLog{said: make(chan struct{}, 10)}
				c := Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}))}
				s, err := Open(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				take := func(owner string) error {
					var b headgate.Batch
					b.Add(headgate.Charge{Limit: l, Owner: owner, Cost: 1})
					return s.Apply(t.Context(), &b)
				}
				if err := take("ann"); err != nil {
					t.Fatal(err)
				}
				s.journal.watch()
				if s.Stats().Broken {
					t.Fatal("lost before anything happened")
				}
				if err := test.spoil(dir); err != nil {
					t.Fatal(err)
				}
				want := strings.ReplaceAll(test.want, "DIR", dir) + " while the process ran"
				if running {
					ctx, cancel := context.WithTimeout(t.Context(), 20*watchEvery)
					defer cancel()
					select {
					case <-log.said:
					case <-ctx.Done():
						t.Fatal("nothing is said")
					}
					if !s.Stats().Broken {
						t.Error("the store is up")
					}
					s.journal.watch()
					if err := take("bob"); headgate.CodeOf(err) != headgate.Unavailable || !strings.Contains(err.Error(), want) {
						t.Errorf("%v", err)
					}
				}
				if err := s.Backup(t.Context(), filepath.Join(t.TempDir(), "copy")); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("backup: %v", err)
				}
				if err := s.Close(); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("close: %v", err)
				}
				if said := log.String(); strings.Count(said, "level=ERROR") != 1 || !strings.Contains(said, want) {
					t.Errorf("said %q", said)
				}
			})
		}
	}
}

// A directory that was moved away by mistake, and is put back, has everything that was
// acknowledged.
func TestDirectoryLostAndPutBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	rng := rand.New(rand.NewPCG(1, 23))
	j, _ := begin(t, dir, noon)
	r := recordAt(1, everyLimit(t)[0], rng)
	commit(t, j, noon, r)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	j.watch()
	if err := j.Commit(&memstore.Commit{Now: noon, Clean: true}); headgate.CodeOf(err) != headgate.Unavailable {
		t.Errorf("%v", err)
	}
	end(t, j, noon, false)
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	j, past := begin(t, dir, noon)
	if past.Clean || past.Lost != 0 {
		t.Errorf("%+v", past)
	}
	if got := mustFind(t, j, r.Key); !same(got, r) {
		t.Errorf("%+v, want %+v", got, r)
	}
	end(t, j, noon, true)
}

// A data directory that is a link to nothing is called that.
func TestOpenLinkToNothing(t *testing.T) {
	base := t.TempDir()
	link := filepath.Join(base, "link")
	if err := os.Symlink(filepath.Join(base, "nothing"), link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{link, filepath.Join(link, "below")} {
		_, err := Open(t.Context(), Config{Dir: dir})
		wantError(t, err, `^sqlitestore: cannot use \S+: `+link+` is a symbolic link to `+base+`/nothing, which is not there: make that directory, or name another --data$`)
	}
}
