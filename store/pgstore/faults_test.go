package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/cas"
	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// stranger opens a connection that is none of ours.
func stranger(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func execute(t testing.TB, c *pgx.Conn, statement string, args ...any) {
	t.Helper()
	if _, err := c.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// keyOf is the row of an owner.
func keyOf(owner string, l *headgate.Prepared) [16]byte { return cas.KeyOf(owner, l) }

// Backends that are killed take the server down for a moment: all of its connections
// end. What it had answered is kept.
func TestKilledBackends(t *testing.T) {
	server := pgtest.Standalone(t)
	x := newLoad(t, openStores(t, server.URL(), 2), bucket(t, 300), 3, 6)
	for range 2 {
		x.more(t, 50)
		pid := server.Int(t, "", `select pid from pg_stat_activity where application_name = 'headgate' limit 1`)
		if err := syscall.Kill(int(pid), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	x.more(t, 50)
	x.end(t)
	if seq := server.Int(t, "", `select seq from headgate_epoch`); seq != 1 {
		t.Errorf("epoch %d: nothing was lost", seq)
	}
}

// Connections that an operator ends, and one that is ended while idle, are made again.
func TestTerminatedBackends(t *testing.T) {
	server := pgtest.Shared(t)
	url := server.Schema(t)
	x := newLoad(t, openStores(t, url, 2), bucket(t, 300), 4, 6)
	for range 10 {
		x.more(t, 30)
		server.Exec(t, "", `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'headgate'`)
	}
	x.more(t, 50)
	x.end(t)
}

// Somebody who holds a row makes its callers wait, and those that are decided with
// them, but nobody longer than he likes; afterwards all goes on.
func TestHeldRow(t *testing.T) {
	server := pgtest.Shared(t)
	url := server.Schema(t)
	s := openStore(t, Config{URL: url})
	x := newLoad(t, []*Store{s}, bucket(t, 300), 3, 8)
	x.more(t, 30)
	c := stranger(t, url)
	execute(t, c, `begin`)
	execute(t, c, `select from headgate_item where k = $1 for update`, keyOf("0", x.limit))
	before := x.failed[0].Load()
	pgtest.Wait(t, "callers that go", func() error {
		if x.failed[0].Load() < before+8 {
			return errors.New("none has gone")
		}
		return nil
	})
	execute(t, c, `rollback`)
	x.more(t, 30)
	x.end(t)
}

// A caller without patience of its own hears of a row that is held for too long.
func TestLockTimeout(t *testing.T) {
	server := pgtest.Shared(t)
	url := server.Schema(t)
	s := openStore(t, Config{URL: url})
	l := bucket(t, 3)
	if !allowed(t, s, l) {
		t.Fatal("refused")
	}
	c := stranger(t, url)
	execute(t, c, `begin`)
	execute(t, c, `select from headgate_item where k = $1 for update`, keyOf("alice", l))
	_, err := take(t, s, headgate.Charge{Limit: l, Owner: "alice", Cost: 1})
	if f, ok := errors.AsType[*cas.Failure](err); !ok || f.Kind != "lock_timeout" || headgate.CodeOf(err) != headgate.Unavailable {
		t.Errorf("error %v", err)
	}
	execute(t, c, `rollback`)
	for n := range 3 { // the one that failed was not charged
		if got := allowed(t, s, l); got != (n < 2) {
			t.Errorf("take %d: allowed %v", n, got)
		}
	}
}

// A statement that the server gives up has charged nobody.
func TestStatementTimeout(t *testing.T) {
	server := pgtest.Shared(t)
	url := server.Schema(t)
	s := openStore(t, Config{URL: url})
	l := bucket(t, 3)
	if !allowed(t, s, l) {
		t.Fatal("refused")
	}
	server.Exec(t, url, `create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(60); return null; end'`)
	server.Exec(t, url, `create trigger slow after update on headgate_item execute function slow()`)
	_, err := take(t, s, headgate.Charge{Limit: l, Owner: "alice", Cost: 1})
	if f, ok := errors.AsType[*cas.Failure](err); !ok || f.Kind != "timeout" || headgate.CodeOf(err) != headgate.Unavailable {
		t.Errorf("error %v", err)
	}
	server.Exec(t, url, `drop trigger slow on headgate_item`)
	for n := range 3 {
		if got := allowed(t, s, l); got != (n < 2) {
			t.Errorf("take %d: allowed %v", n, got)
		}
	}
}

// Tables that are written anew, changed and cleaned meanwhile cost no charge.
func TestMaintenance(t *testing.T) {
	server := pgtest.Shared(t)
	url := server.Schema(t)
	x := newLoad(t, openStores(t, url, 2), bucket(t, 300), 4, 6)
	for _, statement := range []string{
		`vacuum full headgate_item`, `reindex table headgate_item`, `alter table headgate_item add column note text`,
		`analyze headgate_item`, `alter table headgate_item drop column note`, `vacuum freeze headgate_item`,
		`alter table headgate_item set (fillfactor = 40)`, `vacuum freeze headgate_epoch`, `vacuum full headgate_epoch`, `reindex table headgate_epoch`,
	} {
		x.more(t, 30)
		server.Exec(t, url, statement)
	}
	x.more(t, 30)
	x.end(t)
	if seq := server.Int(t, url, `select seq from headgate_epoch`); seq != 1 {
		t.Errorf("epoch %d: nothing was lost", seq)
	}
}

// One connection is enough for the lanes, the census and the retention job.
func TestOneConnection(t *testing.T) {
	s := openStore(t, Config{URL: pgtest.Shared(t).Schema(t) + "&pool_max_conns=1"})
	x := newLoad(t, []*Store{s}, bucket(t, 200), 4, 16)
	for i := range uint64(5) {
		x.more(t, 40)
		if n, err := s.Nodes(t.Context(), [2]uint64{i, 1}, time.Minute); n != int(i)+1 || err != nil {
			t.Errorf("%d nodes, %v", n, err)
		}
		if _, err := s.table.sweep(t.Context(), 0); err != nil {
			t.Error(err)
		}
	}
	x.end(t)
}

// A pool of which somebody else has all connections answers no caller, and no caller
// waits longer than he likes.
func TestPoolExhausted(t *testing.T) {
	s := openStore(t, Config{URL: pgtest.Shared(t).Schema(t) + "&pool_max_conns=2"})
	x := newLoad(t, []*Store{s}, bucket(t, 200), 4, 4)
	x.more(t, 20)
	var taken []func()
	for range 2 {
		c, err := s.table.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, c.Release)
	}
	before := x.failed[0].Load()
	pgtest.Wait(t, "callers that go", func() error {
		if x.failed[0].Load() <= before {
			return errors.New("none has gone")
		}
		return nil
	})
	for _, release := range taken {
		release()
	}
	x.more(t, 20)
	x.end(t)
}

// Strangers that lock the rows of batches in any order meet them 50 times: no caller
// hears of a deadlock, and the sums are exact.
func TestDeadlockStorms(t *testing.T) {
	const storms, owners, callers = 50, 5, 6
	server := pgtest.Standalone(t, pgtest.Options{Config: []string{"deadlock_timeout=20ms"}})
	url := server.URL()
	stores := openStores(t, url, 2)
	l := bucket(t, storms*callers/2)
	var passed [owners]int64
	var mu sync.Mutex
	ask := func(s *Store, rng *rand.Rand) {
		var charges []headgate.Charge
		order := rng.Perm(owners)[:3]
		for _, o := range order {
			charges = append(charges, headgate.Charge{Limit: l, Owner: fmt.Sprint(o), Cost: 1})
		}
		b, err := take(t, s, charges...)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, o := range order {
			if b.Allowed {
				passed[o]++
			}
		}
	}
	for storm := range uint64(storms) {
		var wg sync.WaitGroup
		for w := range uint64(callers) {
			wg.Go(func() { ask(stores[w%2], rand.New(rand.NewPCG(storm, w))) })
		}
		wg.Go(func() {
			// Whether it is the one that the server ends is not our matter.
			_ = lockAll(t.Context(), url, l, rand.New(rand.NewPCG(storm, 99)).Perm(owners))
		})
		wg.Wait()
	}
	if server.Int(t, "", `select deadlocks from pg_stat_database where datname = 'postgres'`) == 0 {
		t.Error("there was no deadlock")
	}
	for o, n := range passed {
		b := new(headgate.Batch)
		b.Reset(headgate.Peek)
		if _, err := b.Add(headgate.Charge{Limit: l, Owner: fmt.Sprint(o), Cost: 1}); err != nil {
			t.Fatal(err)
		}
		if err := stores[0].Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if left := b.Outcomes()[0].Remaining; n+left != l.Burst || n == 0 {
			t.Errorf("owner %d: %d have passed and %d are left of %d", o, n, left, l.Burst)
		}
	}
}

// lockAll locks the rows of owners one after the other.
func lockAll(ctx context.Context, url string, l *headgate.Prepared, order []int) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	for _, o := range order {
		if _, err := tx.Exec(ctx, `select from headgate_item where k = $1 for update`, keyOf(fmt.Sprint(o), l)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `select pg_sleep(0.005)`); err != nil {
			return err
		}
	}
	return nil
}

// The retention job deletes what is over while callers come and go, and nothing else.
func TestSweepUnderLoad(t *testing.T) {
	server := pgtest.Shared(t)
	url := server.Schema(t)
	stores := openStores(t, url, 2)
	x := newLoad(t, stores, bucket(t, 300), 4, 6)
	// Rows that have been over for long, among ours.
	server.Exec(t, url, `insert into headgate_item select gen_random_uuid(), 1, 1, '\x01' from generate_series(1, 20000)`)
	var deleted int64
	for range 3 {
		n, err := stores[0].table.sweep(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		deleted += n
		x.more(t, 50)
	}
	if deleted != 20_000 {
		t.Errorf("%d were deleted, want 20000", deleted)
	}
	x.end(t)
}
