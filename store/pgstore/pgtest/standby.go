package pgtest

import (
	"errors"
	"strings"
	"testing"
)

// Standby starts a server that follows s, with the options of s, until
// [Server.Promote] makes it a primary. What s answers may not have come to it yet, but
// for [Server.WaitForStandby].
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	p, err := newProcess()
	if err == nil {
		err = p.copy(s.URL())
	}
	f := &Server{process: p, options: s.options}
	if err == nil {
		err = f.startAnywhere()
	}
	if err != nil {
		t.Fatalf("start a standby: %v", err)
	}
	f.ends(t)
	Wait(t, "the standby to follow", func() error {
		if n := s.Int(t, "", `select count(*) from pg_stat_replication where state = 'streaming'`); n == 0 {
			return errors.New("nobody does")
		}
		return nil
	})
	return f
}

// copy makes the database cluster one of a standby of the primary at a URL.
func (p process) copy(at string) error {
	path, err := program("pg_basebackup")
	if err != nil {
		return err
	}
	// The URL with its password becomes that by which the standby follows.
	return p.Run(path, "-D", p.data(), "-d", at, "-X", "stream", "-c", "fast", "-R", "--no-sync", "--no-manifest")
}

// WaitForStandby makes s wait with its answers until a standby has on disk what it
// answers.
func (s *Server) WaitForStandby(t testing.TB) {
	t.Helper()
	s.Exec(t, "", `alter system set synchronous_standby_names = '*'`)
	s.Exec(t, "", `select pg_reload_conf()`)
	Wait(t, "synchronous replication", func() error {
		if n := s.Int(t, "", `select count(*) from pg_stat_replication where sync_state = 'sync'`); n == 0 {
			return errors.New("there is none yet")
		}
		return nil
	})
}

// Either returns the URL of both servers, of which the one that takes writes is used.
// Each query is as for [Server.URL].
func (s *Server) Either(other *Server, query ...string) string {
	one := s.Addr()
	return strings.Replace(s.URL(append(query, "target_session_attrs=read-write")...), one, one+","+other.Addr(), 1)
}
