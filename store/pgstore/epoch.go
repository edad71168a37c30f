package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/cas"
	"github.com/headgate/headgate/store/pgstore/pgopen"
)

// leaseLife is how long leases of an earlier incarnation may still be spent
// after the next one was noticed.
const leaseLife = time.Second

// incarnation is an epoch as the database has it.
type incarnation struct{ seq, id, since int64 }

// numberAt is the bit of an epoch's id where its number begins, as headgate_connect makes it.
const numberAt = 32

// epochIn returns the incarnation that e is.
func epochIn(e headgate.Epoch) incarnation {
	return incarnation{seq: int64(e.ID >> numberAt), id: int64(e.ID), since: e.Since}
}

var (
	// errElsewhere says that a connection leads to another server than the one that
	// the node uses by now.
	errElsewhere = epochFailure("the connection leads to a server whose epoch is over")
	// errNoEpoch says that the tables were emptied, or come from a dump.
	errNoEpoch = epochFailure("the tables are not those any more that were used")
)

// epochFailure is a failure of a connection: when another one is made, it is checked.
func epochFailure(words string) *cas.Failure {
	return &cas.Failure{Kind: kindEpoch, Unsent: true, Passing: true, Err: errors.New("postgres: " + words)}
}

// connected checks a connection that was made, and finds the epoch.
func (t *table) connected(ctx context.Context, c *pgx.Conn) error {
	var standby bool
	if err := c.QueryRow(ctx, `select pg_is_in_recovery()`).Scan(&standby); err != nil {
		return fmt.Errorf("check the connection: %w", err)
	}
	if standby {
		return &cas.Failure{Kind: kinds[stateReadOnly].kind, Unsent: true, Passing: true, Err: fmt.Errorf("postgres: %w", pgopen.ErrStandby)}
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
	if !t.meet(found, changed, lossy) {
		return errElsewhere
	}
	return nil
}

// meet notes an epoch that a server shows. It reports false if the node has met a newer
// one by now, or another one with the same number: an older primary that still lives
// shows that, and nothing is decided there. changed says that this connection has made
// it, and lossy that the server may lose charges in a crash.
func (t *table) meet(found incarnation, changed, lossy bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch first := t.known.seq == 0; {
	case found.id == t.known.id:
	case found.seq > t.known.seq, changed && found.seq == t.known.seq:
		if lossy && first {
			t.log.Warn("postgres: synchronous_commit or fsync is off: the server may lose charges in a crash, so limits start empty after each start")
		}
		t.announce(found, changed, first)
		t.known = found
	default:
		return false
	}
	return true
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
