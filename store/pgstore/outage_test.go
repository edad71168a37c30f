package pgstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// A server that is killed and started again has kept what it had answered: errors
// are those of a store that is away, and no more passes than the limit.
func TestKilledServer(t *testing.T) {
	server := pgtest.Standalone(t)
	x := newLoad(t, openStores(t, server.URL(), 2), bucket(t, 400), 3, 8)
	for range 2 {
		x.more(t, 100)
		server.Stop(t)
		server.Start(t)
	}
	x.more(t, 100)
	x.end(t)
	if seq := server.Int(t, "", `select seq from headgate_epoch`); seq != 1 {
		t.Errorf("epoch %d: nothing was lost", seq)
	}
}

// A server that stands still is away, and afterwards all goes on.
func TestPausedServer(t *testing.T) {
	server := pgtest.Standalone(t)
	s := openStore(t, Config{URL: server.URL()})
	alice := headgate.Charge{Limit: bucket(t, 10), Owner: "alice", Cost: 1}
	if _, err := take(t, s, alice); err != nil {
		t.Fatal(err)
	}
	server.Pause(t)
	b := new(headgate.Batch)
	b.Reset(headgate.Take)
	b.Patience = 50_000
	if _, err := b.Add(alice); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), b); headgate.CodeOf(err) != headgate.Unavailable {
		t.Errorf("error %v", err)
	}
	server.Resume(t)
	pgtest.Wait(t, "an answer", func() error {
		_, err := take(t, s, alice)
		return err
	})
}

// epochOf returns the epoch that a database shows.
func epochOf(t testing.TB, server *pgtest.Server, url string) incarnation {
	t.Helper()
	return incarnation{
		seq: server.Int(t, url, `select seq from headgate_epoch`), id: server.Int(t, url, `select id from headgate_epoch`),
		since: server.Int(t, url, `select since from headgate_epoch`),
	}
}

// allowed takes once of a bucket that is not empty, as soon as the server answers.
func allowed(t testing.TB, s *Store, l *headgate.Prepared) (is bool) {
	t.Helper()
	pgtest.Wait(t, "an answer", func() error {
		b, err := take(t, s, headgate.Charge{Limit: l, Owner: "alice", Cost: 1})
		if err == nil {
			is = b.Allowed
		}
		return err
	})
	return is
}

// R7: limits of another incarnation start empty, for stores that were open as for
// those that come later, unless they are lenient.
func TestPromotedServer(t *testing.T) {
	for _, lenient := range []bool{false, true} {
		t.Run(fmt.Sprint("lenient ", lenient), func(t *testing.T) {
			server := pgtest.Standalone(t)
			s := openStore(t, Config{URL: server.URL(), Lenient: lenient})
			l := bucket(t, 10)
			if !allowed(t, s, l) {
				t.Fatal("refused")
			}
			before := epochOf(t, server, "")
			if before.seq != 1 || before.since != 0 || before.id>>32 != 1 {
				t.Errorf("the first epoch is %+v", before)
			}
			server.Stop(t)
			server.StartStandby(t)
			server.Promote(t)
			start := time.Now().UnixMicro()
			if got := allowed(t, s, l); got != lenient {
				t.Errorf("allowed %v", got)
			}
			late := openStore(t, Config{URL: server.URL(), Lenient: lenient})
			if got := allowed(t, late, l); got != lenient {
				t.Errorf("allowed %v by a store that came later", got)
			}
			after := epochOf(t, server, "")
			if lenient {
				if after != before {
					t.Errorf("epoch %+v, was %+v", after, before)
				}
				return
			}
			if after.seq != 2 || after.id>>32 != 2 || after.since < start {
				t.Errorf("epoch %+v, was %+v", after, before)
			}
		})
	}
}

// Where a crash may lose commits, each start of the server is another incarnation.
func TestRestartThatMayLose(t *testing.T) {
	server := pgtest.Standalone(t, pgtest.Options{Config: []string{"synchronous_commit=off"}})
	s := openStore(t, Config{URL: server.URL()})
	l := bucket(t, 10)
	if !allowed(t, s, l) {
		t.Fatal("refused")
	}
	server.Stop(t)
	server.Start(t)
	if allowed(t, s, l) {
		t.Error("a server that may have lost charges lets pass")
	}
	if e := epochOf(t, server, ""); e.seq != 2 || e.since == 0 {
		t.Errorf("epoch %+v", e)
	}
}

// Who knows a newer epoch than the server, or another one of the same number, was
// at another server.
func TestServerThatFellBack(t *testing.T) {
	for name, statement := range map[string]string{
		"older":   `update headgate_epoch set seq = 1, id = 77`,
		"another": `update headgate_epoch set id = id + 1`,
		"emptied": `delete from headgate_epoch`,
	} {
		t.Run(name, func(t *testing.T) {
			server := pgtest.Shared(t)
			url := server.Schema(t)
			s := openStore(t, Config{URL: url})
			server.Exec(t, url, `update headgate_epoch set seq = 3, id = 3 * 4294967296::bigint`)
			s.table.pool.Reset()
			l := bucket(t, 10)
			if !allowed(t, s, l) {
				t.Fatal("refused")
			}
			server.Exec(t, url, statement)
			s.table.pool.Reset()
			if allowed(t, s, l) {
				t.Error("a server that fell back lets pass")
			}
			if e := epochOf(t, server, url); e.seq != 4 || e.since == 0 {
				t.Errorf("epoch %+v", e)
			}
		})
	}
}
