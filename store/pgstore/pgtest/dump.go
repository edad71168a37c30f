package pgtest

import (
	"path/filepath"
	"testing"
)

// Dump writes the database into a file as pg_dump does with args, and returns its
// name, for [Server.Restore].
func (s *Server) Dump(t testing.TB, args ...string) (file string) {
	t.Helper()
	file = filepath.Join(s.process.Dir, "dump.sql")
	s.run(t, "pg_dump", append(args, "-f", file, "-d", s.URL())...)
	return file
}

// Restore executes the statements of a file in one transaction.
func (s *Server) Restore(t testing.TB, file string) {
	t.Helper()
	s.run(t, "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-o", filepath.Join(s.process.Dir, "answers"), "-f", file, "-d", s.URL())
}

// run runs one of PostgreSQL's programs to its end.
func (s *Server) run(t testing.TB, name string, args ...string) {
	t.Helper()
	path, err := program(name)
	if err == nil {
		err = s.process.Run(path, args...)
	}
	if err != nil {
		t.Fatal(err)
	}
}
