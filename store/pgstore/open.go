package pgstore

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/store/cas"
	"github.com/headgate/headgate/store/pgstore/pgopen"
)

//go:embed migrations/*.sql
var migrations embed.FS

// tables are ours.
var tables = pgopen.Tables{
	Migrations: pgopen.Directory(migrations, "migrations"), Version: 1, History: "headgate_schema", Lock: 0x6865616467617465, // "headgate"
	Names: []string{"headgate_epoch", "headgate_item", "headgate_life", "headgate_node", "headgate_sweep"},
}

const (
	// lanes is how many groups are on their way at once: few, because a large group
	// costs a server hardly more than a small one. The pool has some connections more.
	lanes, spare = 2, 8
	// lockTime and statementTime bound what the server does for us, each a bit less
	// than the callers wait.
	lockTime, statementTime = "1000ms", "1900ms"
)

// Open connects to the database of c.URL, creates or migrates the tables where
// that is needed, and makes sure that limits can be kept. It fails with one sentence
// where the server is away, older than PostgreSQL 15, a standby, does not let us in
// or do what that takes, or where the tables are newer than this program. Later
// failures are those of single calls. The error does not show the password.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, c Config) (*Store, error) {
	to, err := parseURL(c.URL)
	if err != nil {
		return nil, err
	}
	pc := to.pool
	if err := pgopen.Prepare(ctx, pc.ConnConfig, &tables, sessionSettings); err != nil {
		return nil, err
	}
	t := &table{log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler)), lenient: c.Lenient || to.lenient}
	pc.AfterConnect, pc.ShouldPing = t.connected, noteIdle
	life, quit := context.WithCancel(context.WithoutCancel(ctx))
	if t.pool, err = pgxpool.NewWithConfig(life, pc); err != nil {
		quit()
		return nil, pgopen.Explain(pc.ConnConfig, err)
	}
	asked, cancel := context.WithTimeout(ctx, pgopen.DialTime)
	defer cancel()
	if _, err := t.Read(asked, nil); err != nil {
		quit()
		t.pool.Close()
		return nil, pgopen.Explain(pc.ConnConfig, err)
	}
	if t.lenient {
		t.log.Warn("postgres: strict=false: after a promotion or a restore limits go on with what the server has kept, which may lack charges", "store", pgopen.Place(pc.ConnConfig))
	}
	s := &Store{
		Store: cas.New(cas.Config{Table: t, Lanes: lanes, Observe: c.Observe, ManualClockForTest: c.ManualClockForTest}),
		table: t, log: t.log, quit: quit,
	}
	if !c.ManualClockForTest {
		s.jobs.Go(func() { s.retain(life) })
	}
	return s, nil
}
