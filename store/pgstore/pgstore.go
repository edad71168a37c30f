package pgstore

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/headgate/headgate/store/cas"
)

// Config says where the server is and what is told about it. Only URL is required.
type Config struct {
	// URL names the database as libpq does:
	//
	//	postgres://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...]/DATABASE[?NAME=VALUE&...]
	//
	// Options are those of libpq, such as sslmode and sslrootcert; search_path, the
	// schema in which the tables stand; synchronous_commit and role; pool_max_conns, 10
	// by default; strict=false, which is Lenient, and leases, of which [Leases] tells.
	// What the URL leaves out is taken from libpq's variables, such as PGPASSWORD. Of
	// several hosts the one that takes writes is used.
	URL string
	// Lenient takes the state of a server that was promoted or restored as it is,
	// though writes may be lost. Without it, limits start empty there.
	Lenient bool
	// Logger is told of what operators should know; nil discards.
	Logger *slog.Logger
	// Observe, if not nil, is told of every operation when it has ended: its
	// name, how long it took, and what kind of failure it met, "" for none. It is
	// called concurrently and must be fast.
	Observe func(op string, took time.Duration, failure string)
	// ManualClockForTest decides at Batch.Now where it is not 0, and deletes
	// nothing by itself. Everybody who shares the database must do the same.
	ManualClockForTest bool
}

// Store is a [headgate.Authority] and a [headgate.Census] in PostgreSQL. Make one
// with [Open].
type Store struct {
	*cas.Store
	table *table
	log   *slog.Logger
	quit  context.CancelFunc
	jobs  sync.WaitGroup
}

// Close waits for what is on its way and closes the connections. Apply fails from
// then on.
func (s *Store) Close() error {
	s.quit()
	s.jobs.Wait()
	return s.Store.Close()
}
