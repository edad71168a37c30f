package pgstore

import (
	"fmt"
	"strings"
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

// written is what a statement of headgate_connect says that it has written.
const written = `, written = pg_current_xact_id()::xid`

// Who knows a newer epoch than the server, or another one of the same number, was
// at another server; and a row that somebody else has changed says nothing.
func TestServerThatFellBack(t *testing.T) {
	for name, statement := range map[string]string{
		"older":    `update headgate_epoch set seq = 1, id = 4294967297` + written,
		"another":  `update headgate_epoch set id = id + 1` + written,
		"emptied":  `delete from headgate_epoch`,
		"by hand":  `update headgate_epoch set since = since`,
		"replaced": `alter table headgate_item rename to other; create table headgate_item (like other including all)`,
	} {
		t.Run(name, func(t *testing.T) {
			server := pgtest.Shared(t)
			url := server.Schema(t)
			s := openStore(t, Config{URL: url})
			server.Exec(t, url, `update headgate_epoch set seq = 3, id = 3 * 4294967296::bigint`+written)
			l := bucket(t, 10)
			if !allowed(t, s, l) {
				t.Fatal("refused")
			}
			server.Exec(t, url, statement)
			if allowed(t, s, l) {
				t.Error("a server that fell back lets pass")
			}
			if e := epochOf(t, server, url); e.seq != 4 || e.since == 0 {
				t.Errorf("epoch %+v", e)
			}
		})
	}
}

// Tables that come from a dump may lack charges, also on the server on which that was
// made: for nodes that were there, whatever they ask first, and for those that come
// later.
func TestRestoredDump(t *testing.T) {
	for _, test := range []struct {
		name   string
		dump   []string
		before string
	}{
		{name: "of everything", dump: []string{"--clean", "--if-exists"}},
		{name: "of the rows", dump: []string{"--data-only"}, before: `truncate headgate_epoch, headgate_life, headgate_sweep, headgate_node, headgate_schema, headgate_item`},
		{name: "of the rows, after deletes", dump: []string{"--data-only", "-t", "headgate_epoch", "-t", "headgate_item"}, before: `with e as (delete from headgate_epoch) delete from headgate_item`},
		{name: "of the items", dump: []string{"--clean", "-t", "headgate_item"}},
		{name: "of the items' rows", dump: []string{"--data-only", "-t", "headgate_item"}, before: `truncate headgate_item`},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := pgtest.Standalone(t)
			stores := openStores(t, server.URL(), 2)
			l := bucket(t, 10)
			spend := func() {
				for range 5 {
					if !allowed(t, stores[0], l) {
						t.Fatal("refused")
					}
				}
			}
			two := []headgate.Charge{{Limit: l, Owner: "bob", Cost: 1}, {Limit: l, Owner: "carol", Cost: 1}}
			if b, err := take(t, stores[1], two...); err != nil || !b.Allowed {
				t.Fatal(err, b.Allowed)
			}
			spend()
			file := server.Dump(t, test.dump...)
			spend()
			if test.before != "" {
				server.Exec(t, "", test.before)
			}
			server.Restore(t, file)
			if b, err := take(t, stores[1], two...); err != nil || b.Allowed {
				t.Errorf("two: %v, allowed %v", err, b.Allowed)
			}
			for i, s := range append(stores, openStore(t, Config{URL: server.URL()})) {
				if allowed(t, s, l) {
					t.Errorf("store %d lets pass what was lost", i)
				}
			}
			if e := epochOf(t, server, ""); e.seq != 2 || e.since == 0 {
				t.Errorf("epoch %+v", e)
			}
		})
	}
}

// A database that is a copy of another one, from before, has another oid.
func TestCopiedDatabase(t *testing.T) {
	server := pgtest.Standalone(t)
	at := func(name string) string { return strings.Replace(server.URL(), "/postgres?", "/"+name+"?", 1) }
	server.Exec(t, "", `create database limits`)
	l := bucket(t, 10)
	s := openStore(t, Config{URL: at("limits")})
	if !allowed(t, s, l) {
		t.Fatal("refused")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	pgtest.Wait(t, "the connections to end", func() error { return server.Try(`create database copy template limits`) })
	if allowed(t, openStore(t, Config{URL: at("copy")}), l) {
		t.Error("a copy lets pass")
	}
	if !allowed(t, openStore(t, Config{URL: at("limits")}), l) {
		t.Error("what was copied begins anew")
	}
}

// Rows that are truncated are lost, as those of a store that is flushed; also while
// nobody is there.
func TestTruncated(t *testing.T) {
	for name, there := range map[string]bool{"under a node": true, "while nobody is there": false} {
		t.Run(name, func(t *testing.T) {
			server := pgtest.Shared(t)
			url := server.Schema(t)
			s := openStore(t, Config{URL: url})
			l := bucket(t, 10)
			if !allowed(t, s, l) {
				t.Fatal("refused")
			}
			if !there {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			server.Exec(t, url, `truncate headgate_item`)
			if !there {
				s = openStore(t, Config{URL: url})
			}
			if allowed(t, s, l) {
				t.Error("an empty table lets pass")
			}
			if e := epochOf(t, server, url); e.seq != 2 || e.since == 0 {
				t.Errorf("epoch %+v", e)
			}
		})
	}
}
