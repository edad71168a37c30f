package pgstore

import (
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/pgstore/pgopen"
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
	for at, words := range map[string][]string{
		"redis://localhost":                              {"must begin with postgres://"},
		"host=localhost password=hunter2":                {"must begin with postgres://"},
		"postgres://u:hunter2@[::1/x":                    {"cannot be read", "IPv6"},
		"postgres://u:1@hunter2@h/x":                     {"cannot be read", "%40 for @"},
		"postgres://u:1%hunter2@h/x":                     {"cannot be read"},
		"postgres://u:hunter2/x":                         {"cannot be read: invalid port"},
		"postgres://u:1?sslmode=hunter2@h/x":             {"cannot be read", "%3F for ?"},
		"postgres://u:hunter2/@h/x":                      {"cannot be read", "%2F for /"},
		"postgres://u:1/hunter2@h/x":                     {"cannot be read", "%2F for /"},
		"postgres://u:1#hunter2@h/x":                     {"cannot be read", "%23 for #"},
		"postgres://u:1?hunter2@h/x":                     {"cannot be read", "%3F for ?"},
		"postgres://h/x?sslmode=%zz":                     {"NAME=VALUE pairs"},
		"postgres://h/x?sslmode=perhaps":                 {"cannot be read", "sslmode"},
		"postgres://h/x?pool_max_conns=many":             {"cannot be read", "pool_max_conns"},
		"postgres://h/x?sslrootcert=/no.pem":             {"cannot be read", "/no.pem"},
		"postgres://h/x?strict=no":                       {`strict: must be true or false, not "no"`},
		"postgres://h/x?leases=":                         {`leases: must be true or false, not ""`},
		"postgres://h/x?strict=true&strict=0":            {"strict: is in the URL twice"},
		"postgres://h/x?lease=false":                     {`"lease" is no option of the URL: there are leases, strict, `},
		"postgres://h/x?statement_timeout=1h":            {`"statement_timeout" is no option of the URL`},
		"postgres://h/?target_session_attrs=standby":     {"target_session_attrs: must be read-write, primary or any"},
		"postgres://u:hunter2@127.0.0.1:1/x":             {`cannot connect to 127.0.0.1:1, database "x"`, "refused"},
		"postgres://u:hunter2@127.0.0.1:1,127.0.0.1:2/x": {`cannot connect to 127.0.0.1:1, 127.0.0.1:2, database "x"`, "refused"},
	} {
		expect(t, refused(t, at), words...)
	}
}

// What we set for a session cannot be changed from outside.
func TestSession(t *testing.T) {
	t.Setenv("PGOPTIONS", "-c statement_timeout=1h -c jit=on")
	server := pgtest.Shared(t)
	s := openStore(t, Config{URL: server.Schema(t) + "&synchronous_commit=local"})
	for name, want := range map[string]string{"statement_timeout": statementTime, "jit": "off", "synchronous_commit": "local", "application_name": "headgate"} {
		var got string
		if err := s.table.pool.QueryRow(t.Context(), `select current_setting($1)`, name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
}

// What is ours does not reach the server.
func TestURLOptions(t *testing.T) {
	for _, test := range []struct {
		query           string
		leases, lenient bool
		conns           int32
		application     string
	}{
		{"", true, false, lanes + spare, "headgate"},
		{"?leases=false&strict=true", false, false, lanes + spare, "headgate"},
		{"?strict=false&leases=1&pool_max_conns=3&application_name=front", true, true, 3, "front"},
	} {
		at := "postgresql://u:p%40ss@h1:5433,h2/x" + test.query
		leases, err := Leases(at)
		if err != nil || leases != test.leases {
			t.Errorf("%s: leases %v, %v", at, leases, err)
		}
		to, err := parseURL(at)
		if err != nil {
			t.Fatal(err)
		}
		c := to.pool.ConnConfig
		if to.lenient != test.lenient || to.pool.MaxConns != test.conns || c.RuntimeParams["application_name"] != test.application {
			t.Errorf("%s: lenient %v, %d connections, %v", at, to.lenient, to.pool.MaxConns, c.RuntimeParams)
		}
		if _, ok := c.RuntimeParams["strict"]; ok {
			t.Errorf("%s: settings %v", at, c.RuntimeParams)
		}
		if got := pgopen.Place(c); got != `h1:5433, h2:5432, database "x"` || c.Password != "p@ss" || c.ValidateConnect == nil {
			t.Errorf("%s: %s, password %q", at, got, c.Password)
		}
	}
	if _, err := Leases("postgres://h/x?leases=maybe"); err == nil || err.Error() != `postgres: leases: must be true or false, not "maybe"` {
		t.Error(err)
	}
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
	expect(t, refused(t, with(url.User("postgres"), "/postgres")), `does not let user "postgres" in: the URL has no password: write it into the URL`)
	if _, err := Open(t.Context(), Config{URL: with(url.User("postgres"), "/postgres")}); !errors.Is(err, pgopen.ErrPasswordWanted) {
		t.Errorf("error %v", err)
	}
	expect(t, refused(t, with(root, "/nowhere")), `database "nowhere": there is no such database`)
	expect(t, refused(t, server.URL("search_path=nowhere")), "no schema to keep the tables in: create the one that search_path names")
	server.Exec(t, "", `create role app login password 'hunter2'`)
	app := with(url.UserPassword("app", "hunter2"), "/postgres")
	server.Exec(t, "", `create database closed`)
	server.Exec(t, "", `revoke connect on database closed from public`)
	expect(t, refused(t, with(url.UserPassword("app", "hunter2"), "/closed")), `user "app" lacks a right: permission denied for database "closed"`)
	expect(t, refused(t, app), `user "app" lacks a right`, "usage and create on the schema")
	// Where the tables stand, rights to use them are enough.
	openStore(t, Config{URL: server.URL()})
	expect(t, refused(t, app), `user "app" lacks a right`, "select, insert, update and delete")
	server.Exec(t, "", `grant select, insert, update, delete on all tables in schema public to app`)
	if !allowed(t, openStore(t, Config{URL: app}), bucket(t, 1)) {
		t.Error("refused")
	}
	for _, table := range []string{"headgate_item", "headgate_node", "headgate_epoch"} {
		for _, right := range []string{"select", "insert", "update", "delete"} {
			server.Exec(t, "", "revoke "+right+" on "+table+" from app")
			expect(t, refused(t, app), `user "app" lacks a right: permission denied for table `+table, "select, insert, update and delete")
			server.Exec(t, "", "grant "+right+" on "+table+" to app")
		}
	}
	server.Exec(t, "", `drop table headgate_sweep`)
	expect(t, refused(t, server.URL()), `table "headgate_sweep" is gone: restore it`)
}

func TestNewerTables(t *testing.T) {
	server := pgtest.Shared(t)
	at := server.Schema(t)
	openStore(t, Config{URL: at})
	server.Exec(t, at, `insert into headgate_schema (version_id, is_applied) values ($1, true)`, tables.Version+1)
	expect(t, refused(t, at), "the tables have version 2, and this program knows only 1")
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

func TestLenientByURL(t *testing.T) {
	var log strings.Builder
	s := openStore(t, Config{URL: pgtest.Shared(t).Schema(t) + "&strict=false", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if !s.table.lenient {
		t.Error("strict")
	}
	expect(t, log.String(), "strict=false: after a promotion")
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
