package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headgate/headgate/store/cas"
)

// leaseLife is how long leases of an earlier incarnation may still be spent
// after the next one was noticed.
const leaseLife = time.Second

// incarnation is an epoch as the database has it.
type incarnation struct{ seq, id, since int64 }

// errStandby says that the server takes no writes.
var errStandby = errors.New("the server is a standby")

// connected checks a connection that was made, and finds the epoch.
func (t *table) connected(ctx context.Context, c *pgx.Conn) error {
	var standby bool
	if err := c.QueryRow(ctx, `select pg_is_in_recovery()`).Scan(&standby); err != nil {
		return fmt.Errorf("check the connection: %w", err)
	}
	if standby {
		return &cas.Failure{Kind: kinds[stateReadOnly].kind, Unsent: true, Passing: true, Err: fmt.Errorf("postgres: %w", errStandby)}
	}
	t.mu.Lock()
	known := t.known
	t.mu.Unlock()
	var found incarnation
	var changed, lossy bool
	err := c.QueryRow(ctx, `select seq, id, since, changed, lossy from headgate_connect($1, $2, $3, $4, $5)`,
		known.seq, known.id, known.since, t.lenient, leaseLife.Microseconds()).Scan(&found.seq, &found.id, &found.since, &changed, &lossy)
	if err != nil {
		return fmt.Errorf("find the epoch: %w", err)
	}
	if err := statements(ctx, c); err != nil {
		return fmt.Errorf("prepare the statements: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	first := t.known.seq == 0
	if found.seq >= t.known.seq && found != t.known || first {
		if lossy && first {
			t.log.Warn("postgres: synchronous_commit or fsync is off: the server may lose charges in a crash, so limits start empty after each start")
		}
		t.announce(found, changed, first)
		t.known = found
	}
	return nil
}

// announce logs an incarnation that was not known.
func (t *table) announce(found incarnation, changed, first bool) {
	if first && !changed || found.seq == 1 && found.since == 0 {
		return // as it was, or new with everything full
	}
	since := time.UnixMicro(found.since).UTC()
	if t.lenient {
		t.log.Warn("postgres: another incarnation of the server; its state is taken as it is, though it may lack charges", "epoch", found.seq)
		return
	}
	t.log.Warn("postgres: another incarnation of the server, which may lack charges; limits start empty", "epoch", found.seq, "since", since)
}
