package records

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/headgate/headgate/store/pgstore/pgopen"
)

const (
	// channel is where processes tell each other of a write.
	channel = "headgate_records"
	// mostConnections is how many there are at once unless the URL says pool_max_conns.
	mostConnections = 8
	// mostRetry is how long a listener waits, at most, before it connects again.
	mostRetry = 10 * time.Second
)

// tables are ours.
var tables = pgopen.Tables{
	Migrations: pgopen.Directory(migrations, "migrations/postgres"), Version: schema, History: schemaTable, Lock: 0x7265636f72647321, // "records!"
	Names: []string{"headgate_feed", "headgate_policy", "headgate_subject", "headgate_token", "headgate_mode", "headgate_audit",
		"headgate_usage_feed", "headgate_usage_reporter", "headgate_usage", "headgate_event", "headgate_delivery", "headgate_node"},
}

// sessionSettings are those of every session.
var sessionSettings = map[string]string{
	"lock_timeout": "5s", "statement_timeout": "30s", "default_transaction_isolation": "read committed", "default_transaction_read_only": "off",
	"synchronous_commit": "on", // a token that was revoked stays so
}

func (d *DB) openPostgres(ctx context.Context, url string) error {
	c, err := pgopen.ParseURL(url, nil)
	if err != nil {
		return err
	}
	if c.MaxConns == 0 {
		c.MaxConns = mostConnections
	}
	if err := pgopen.Prepare(ctx, c.ConnConfig, &tables, sessionSettings); err != nil {
		return err
	}
	c.ConnConfig.AfterConnect = pgopen.Settle(sessionSettings)
	life, quit := context.WithCancel(context.WithoutCancel(ctx))
	pool, err := pgxpool.NewWithConfig(life, c)
	if err != nil {
		quit()
		return pgopen.Explain(c.ConnConfig, err)
	}
	d.write = stdlib.OpenDBFromPool(pool)
	d.read, d.feed = d.write, d.write
	d.skipLocked = ` for update skip locked`
	d.value = func(n int) string { return "$" + strconv.Itoa(n) }
	d.say = func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `select pg_notify($1, '')`, channel)
		return err
	}
	d.jobs.Go(func() { d.listen(life, c.ConnConfig.Copy()) })
	d.quit = func() {
		quit()
		d.jobs.Wait()
		pool.Close()
	}
	return nil
}

// listen rings when another process has written, until ctx ends.
func (d *DB) listen(ctx context.Context, c *pgx.ConnConfig) {
	for wait := time.Second; ; wait = min(2*wait, mostRetry) {
		heard, err := d.listenOnce(ctx, c)
		if ctx.Err() != nil {
			return
		}
		if heard {
			wait = time.Second
		}
		d.log.Warn("records: changes of other nodes are seen late", "within", pollEvery, "error", pgopen.Explain(c, err))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// listenOnce listens on a connection of its own. It reports whether it came to that,
// and why it is over.
func (d *DB) listenOnce(ctx context.Context, c *pgx.ConnConfig) (heard bool, err error) {
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `listen `+channel); err != nil {
		return false, err
	}
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return true, fmt.Errorf("listen: %w", err)
		}
		d.ring()
	}
}
