package pgstore

import (
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// refused returns the error of Open, which must be one sentence without a password.
func refused(t *testing.T, at string) string {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: at})
	if err == nil {
		_ = s.Close()
		t.Fatalf("%s opens", at)
	}
	if text := err.Error(); !strings.HasPrefix(text, "postgres: ") || strings.ContainsAny(text, "\n") || strings.Contains(text, "hunter2") || strings.Contains(text, "open sesame") {
		t.Errorf("error %q", text)
	}
	return err.Error()
}

func expect(t *testing.T, got string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(got, w) {
			t.Errorf("error %q has no %q", got, w)
		}
	}
}

func TestURLs(t *testing.T) {
	expect(t, refused(t, "redis://localhost"), "must begin with postgres://")
	expect(t, refused(t, "host=localhost password=hunter2"), "must begin with postgres://")
	expect(t, refused(t, "postgres://u:hunter2@[::1/x"), "cannot be read")
	expect(t, refused(t, "postgres://u:hunter2/@h/x"), "cannot be read", "%2F for /")
	expect(t, refused(t, "postgres://h/x?sslmode=perhaps"), "cannot be read", "sslmode")
	expect(t, refused(t, "postgres://h/x?pool_max_conns=many"), "cannot be read", "pool_max_conns")
	expect(t, refused(t, "postgres://u:hunter2@127.0.0.1:1/x"), "cannot connect to 127.0.0.1:1", "refused")
}

func TestRefusals(t *testing.T) {
	server := pgtest.Standalone(t, pgtest.Options{Password: "open sesame"})
	with := func(user *url.Userinfo, path string) string {
		u, err := url.Parse(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		u.User, u.Path = user, path
		return u.String()
	}
	root := url.UserPassword("postgres", "open sesame")
	expect(t, refused(t, with(url.UserPassword("postgres", "hunter2"), "/postgres")), `does not let user "postgres" in`, "password authentication failed")
	expect(t, refused(t, with(url.User("postgres"), "/postgres")), "the URL has no password")
	expect(t, refused(t, with(root, "/nowhere")), `database "nowhere": there is no such database`)
	expect(t, refused(t, server.URL("search_path=nowhere")), "no schema")
	server.Exec(t, "", `create role app login password 'hunter2'`)
	app := with(url.UserPassword("app", "hunter2"), "/postgres")
	expect(t, refused(t, app), `user "app" lacks a right`, "create")
	// Where the tables stand, rights to use them are enough.
	openStore(t, Config{URL: server.URL()})
	expect(t, refused(t, app), `user "app" lacks a right`)
	server.Exec(t, "", `grant select, insert, update, delete on all tables in schema public to app`)
	if !allowed(t, openStore(t, Config{URL: app}), bucket(t, 1)) {
		t.Error("refused")
	}
}

func TestNewerTables(t *testing.T) {
	server := pgtest.Shared(t)
	at := server.Schema(t)
	openStore(t, Config{URL: at})
	server.Exec(t, at, `insert into headgate_schema (version_id, is_applied) values ($1, true)`, schema+1)
	expect(t, refused(t, at), "the tables have version 2, and this program knows only 1")
}

func TestOldServer(t *testing.T) {
	if err := checkVersion(150000); err != nil {
		t.Error(err)
	}
	if err := checkVersion(149999); err == nil || err.Error() != "the server is PostgreSQL 14: must be 15 or later" {
		t.Errorf("error %v", err)
	}
}

func TestStandby(t *testing.T) {
	server := pgtest.Standalone(t)
	server.Stop(t)
	server.StartStandby(t)
	expect(t, refused(t, server.URL()), "the server is a standby", "name the primary")
}

func TestWarnsOfLoss(t *testing.T) {
	server := pgtest.Shared(t)
	var log strings.Builder
	s, err := Open(t.Context(), Config{URL: server.Schema(t) + "&synchronous_commit=off", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	expect(t, log.String(), "synchronous_commit or fsync is off")
}

// Many that open an empty schema at once find it migrated once.
func TestOpenAtOnce(t *testing.T) {
	at := pgtest.Shared(t).Schema(t)
	errs := make(chan error)
	for range 4 {
		go func() {
			s, err := Open(t.Context(), Config{URL: at})
			if err == nil {
				err = s.Close()
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestNodes(t *testing.T) {
	server := pgtest.Shared(t)
	at := server.Schema(t)
	stores := openStores(t, at, 2)
	nodes := func(s *Store, id uint64, ttl time.Duration, want int) {
		t.Helper()
		if n, err := s.Nodes(t.Context(), [2]uint64{id, 1 << 63}, ttl); n != want || err != nil {
			t.Errorf("%d nodes, %v; want %d", n, err, want)
		}
	}
	nodes(stores[0], 1, time.Minute, 1)
	nodes(stores[1], 2, time.Minute, 2)
	nodes(stores[0], 1, time.Minute, 2)
	nodes(stores[1], 2, 0, 1)
	nodes(stores[0], 1, time.Second, 1)
	server.Exec(t, at, `update headgate_node set until = headgate_now() - 1`)
	nodes(stores[1], 3, time.Minute, 1)
	server.Exec(t, at, `update headgate_node set until = headgate_now() + 3600000000`) // before the clock was set back
	nodes(stores[1], 4, time.Minute, 1)
	if _, err := stores[0].Nodes(t.Context(), [2]uint64{1, 1}, time.Hour); headgate.CodeOf(err) != headgate.InvalidRequest {
		t.Errorf("error %v", err)
	}
	if err := stores[0].Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := stores[0].Nodes(t.Context(), [2]uint64{1, 1}, time.Second); headgate.CodeOf(err) != headgate.Closed {
		t.Errorf("error %v", err)
	}
}
