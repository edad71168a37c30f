package sqlitestore_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/sqlitestore"
	"github.com/headgate/headgate/store/storetest"
)

var (
	_ headgate.Store  = (*sqlitestore.Store)(nil)
	_ headgate.Clock  = (*sqlitestore.Store)(nil)
	_ headgate.Single = (*sqlitestore.Store)(nil)
	_ headgate.Pinner = (*sqlitestore.Store)(nil)
)

func open(t testing.TB, c sqlitestore.Config) *sqlitestore.Store {
	t.Helper()
	c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := sqlitestore.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fresh returns a function that opens stores that nobody has used, each in a
// directory of its own: copies of one, as it takes some time to create.
func fresh(t *testing.T) func(t *testing.T) headgate.Store {
	t.Helper()
	dir := t.TempDir()
	if err := open(t, sqlitestore.Config{Dir: dir}).Close(); err != nil {
		t.Fatal(err)
	}
	database, err := os.ReadFile(filepath.Join(dir, "limits.db"))
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) headgate.Store {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "limits.db"), database, 0o600); err != nil {
			t.Fatal(err)
		}
		return open(t, sqlitestore.Config{Dir: dir})
	}
}

func TestStore(t *testing.T) {
	storetest.Run(t, fresh(t), storetest.Capabilities{})
}

// take takes cost of l for owner at the store's own clock.
func take(t *testing.T, s *sqlitestore.Store, l *headgate.Prepared, owner string, cost int64) headgate.Outcome {
	t.Helper()
	var b headgate.Batch
	b.Add(headgate.Charge{Limit: l, Owner: owner, Cost: cost})
	if err := s.Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Outcomes()[0]
}

// A store goes on where it was closed, is copied while it works, and a copy gives
// nothing that was taken.
func TestLives(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "data")
	var ops sync.Map
	c := sqlitestore.Config{Dir: dir, Observe: func(op string, _ time.Duration, failure string) {
		ops.Store(op+failure, true)
	}}
	daily, err := headgate.QuotaPer(100, headgate.Year).Prepare()
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, c)
	if o := take(t, s, daily, "ann", 30); !o.Allowed || o.Remaining != 70 {
		t.Fatalf("%+v", o)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, c)
	if o := take(t, s, daily, "ann", 50); !o.Allowed || o.Remaining != 20 {
		t.Fatalf("%+v", o)
	}
	if o := take(t, s, daily, "ann", 30); o.Allowed {
		t.Fatalf("%+v", o)
	}
	if _, err := sqlitestore.Open(t.Context(), c); err == nil || !strings.HasPrefix(err.Error(), "sqlitestore: "+dir+" is in use by process ") {
		t.Errorf("%v", err)
	}
	file := filepath.Join(base, "backup")
	if err := s.Backup(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(t.Context(), file); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("%v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Backup(ended, file+"2"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if st := s.Stats(); st.Keys != 1 || st.FileBytes == 0 || st.LogBytes == 0 || st.Broken || s.Memory().Stats() != st.Stats {
		t.Errorf("%+v", st)
	}
	take(t, s, daily, "ann", 20) // not in the backup
	for _, trust := range []bool{false, true} {
		to := filepath.Join(base, map[bool]string{false: "restored", true: "trusted"}[trust])
		if err := sqlitestore.Restore(t.Context(), file, to, trust); err != nil {
			t.Fatal(err)
		}
		restored := open(t, sqlitestore.Config{Dir: to})
		if o := take(t, restored, daily, "ann", 20); o.Allowed != trust {
			t.Errorf("trust %v: %+v", trust, o)
		}
		if o := take(t, restored, daily, "bob", 1); o.Allowed != trust {
			t.Errorf("trust %v: %+v", trust, o)
		}
		if err := restored.Close(); err != nil {
			t.Fatal(err)
		}
		if err := sqlitestore.Check(t.Context(), to); err != nil {
			t.Error(err)
		}
	}
	for _, op := range []string{"commit", "load", "backup", "backupother", "backupcanceled"} {
		if _, ok := ops.Load(op); !ok {
			t.Errorf("%s was not observed", op)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var b headgate.Batch
	b.Add(headgate.Charge{Limit: daily, Owner: "ann", Cost: 1})
	if err := s.Apply(t.Context(), &b); headgate.CodeOf(err) != headgate.Closed {
		t.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// What was taken after the backup of a store that nobody had used is not given again,
// however often the restored one was started before it is asked.
func TestRestoreOfUnused(t *testing.T) {
	base := t.TempDir()
	yearly, err := headgate.QuotaPer(100, headgate.Year).Prepare()
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, sqlitestore.Config{Dir: filepath.Join(base, "data")})
	file, to := filepath.Join(base, "backup"), filepath.Join(base, "restored")
	if err := s.Backup(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if o := take(t, s, yearly, "ann", 100); !o.Allowed {
		t.Fatalf("%+v", o)
	}
	if err := sqlitestore.Restore(t.Context(), file, to, false); err != nil {
		t.Fatal(err)
	}
	for life := range 3 {
		restored := open(t, sqlitestore.Config{Dir: to})
		if life != 1 {
			if o := take(t, restored, yearly, "ann", 1); o.Allowed || !o.Recovering {
				t.Errorf("life %d: %+v", life, o)
			}
		}
		if err := restored.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
