package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/internal/servertest"
	"github.com/jackc/pgx/v5"
)

// Options says what kind of server is wanted. The zero value is one that everybody
// may use.
type Options struct {
	// Password is that of the user postgres; "" asks nobody for one.
	Password string
	// Config lists further settings, such as "max_connections=20".
	Config []string
	// Files are put beside the database, such as "server.key", for the server to read.
	Files map[string][]byte
}

// Server is one running server. Methods that take a [testing.TB] fail the test
// where the server does not do what is asked.
type Server struct {
	process process
	port    int
	options Options
}

// Standalone starts one server, with the last of options if there are any.
func Standalone(t testing.TB, options ...Options) *Server {
	t.Helper()
	var o Options
	if n := len(options); n > 0 {
		o = options[n-1]
	}
	s, err := start(o)
	if err != nil {
		t.Fatalf("start postgres: %v", err)
	}
	s.ends(t)
	return s
}

// ends ends the server at the end of the test.
func (s *Server) ends(t testing.TB) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the server at %d:\n%s", s.port, s.process.Tail())
		}
		s.process.Remove()
	})
}

var shared = sync.OnceValues(func() (*Server, error) { return start(Options{}) })

// Shared returns the process's server, which it starts where it is the first to
// ask: one without options.
func Shared(t testing.TB) *Server {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("start postgres: %v", err)
	}
	return s
}

// start starts a server.
func start(o Options) (*Server, error) {
	p, err := newProcess()
	if err != nil {
		return nil, err
	}
	s := &Server{process: p, options: o}
	if err = p.init(o.Password); err == nil {
		err = p.put(o.Files)
	}
	if err == nil {
		err = s.startAnywhere()
	}
	if err != nil {
		p.Remove()
		return nil, err
	}
	return s, nil
}

// startAnywhere starts the server on a free port, and tries others where somebody
// was faster.
func (s *Server) startAnywhere() error {
	return servertest.StartAt(func() (err error) {
		if s.port, err = servertest.FreePort(); err != nil {
			return err
		}
		return s.launch()
	})
}

// launch starts the program and waits until it answers.
func (s *Server) launch() error {
	settings := append([]string{
		"listen_addresses=127.0.0.1", fmt.Sprintf("port=%d", s.port), "unix_socket_directories=", "logging_collector=off",
	}, s.options.Config...)
	if err := s.process.start(settings); err != nil {
		return err
	}
	return servertest.Await(fmt.Sprintf("wait for the server at %d", s.port), func() error {
		if err := s.process.Running(); err != nil {
			return err
		}
		return s.Try(`select 1`)
	})
}

// Addr returns the server's host and port.
func (s *Server) Addr() string { return servertest.Address(s.port) }

// URL returns the URL of the database postgres for the user postgres. Each query is
// a pair such as "search_path=t1".
func (s *Server) URL(query ...string) string {
	u := url.URL{Scheme: "postgres", Host: s.Addr(), Path: "/postgres", User: url.User("postgres")}
	if s.options.Password != "" {
		u.User = url.UserPassword("postgres", s.options.Password)
	}
	values := url.Values{"sslmode": {"disable"}}
	for _, q := range query {
		name, value, _ := strings.Cut(q, "=")
		values.Set(name, value)
	}
	u.RawQuery = values.Encode()
	return u.String()
}

var schemas atomic.Int64

// Schema makes an empty schema that nothing else in the process uses, and returns
// the URL of it.
func (s *Server) Schema(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("t%d", schemas.Add(1))
	s.Exec(t, "", "create schema "+name)
	return s.URL("search_path=" + name)
}

// Try executes a statement on a connection of its own.
func (s *Server) Try(statement string, args ...any) error {
	return try(s.URL(), statement, args)
}

func try(at, statement string, args []any) error {
	return connected(at, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, statement, args...)
		return err
	})
}

func connected(at string, do func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), servertest.Patience)
	defer cancel()
	c, err := pgx.Connect(ctx, at)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	return do(ctx, c)
}

// Exec executes a statement that must succeed, on a connection of its own to a URL,
// "" for that of the server.
func (s *Server) Exec(t testing.TB, at, statement string, args ...any) {
	t.Helper()
	if at == "" {
		at = s.URL()
	}
	if err := try(at, statement, args); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Int returns the number that a query answers, on a connection of its own to a
// URL, "" for that of the server.
func (s *Server) Int(t testing.TB, at, query string, args ...any) (n int64) {
	t.Helper()
	if at == "" {
		at = s.URL()
	}
	err := connected(at, func(ctx context.Context, c *pgx.Conn) error { return c.QueryRow(ctx, query, args...).Scan(&n) })
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// Stop ends the server at once; what is not on disk is lost.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// Start starts the server again at the same address and waits until it answers.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := servertest.Await("start the server again", s.launch); err != nil {
		t.Fatal(err)
	}
}

// StartStandby is Start as a standby that waits for a primary, until it is promoted.
func (s *Server) StartStandby(t testing.TB) {
	t.Helper()
	// Its owner need not be the server's: it is removed by the right to the directory.
	if err := os.WriteFile(filepath.Join(s.process.data(), "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
}

// Promote makes a standby a primary.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	s.Exec(t, "", "select pg_promote()")
}

// Pause halts the server: it keeps its connections and answers nobody.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	if err := s.process.Pause(); err != nil {
		t.Fatalf("pause the server: %v", err)
	}
}

// Resume lets a paused server go on.
func (s *Server) Resume(t testing.TB) {
	t.Helper()
	if err := s.process.Resume(); err != nil {
		t.Fatalf("resume the server: %v", err)
	}
}

// Wait waits until done returns nil.
func Wait(t testing.TB, what string, done func() error) {
	t.Helper()
	start := time.Now()
	if err := servertest.Await(what, done); err != nil {
		t.Fatalf("after %v: %v", time.Since(start), err)
	}
}
