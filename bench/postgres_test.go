package bench

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/store/pgstore"
	"github.com/headgate/headgate/store/pgstore/pgtest"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// inPostgres is a limit in PostgreSQL that refuses nothing within a benchmark and
// gives nothing back.
var inPostgres = rule{burst: 5e6, every: 10 * time.Minute}

const postgresKeys = 100_000

var onPostgres = sync.OnceValue(func() *order { return keysOf(postgresKeys) })

// postgres opens the contestants whose server is PostgreSQL, each with a schema of its
// own, for a setting of synchronous_commit.
var postgres = map[string]func(commit string) opener{
	"headgate": openPgStore,
	"upsert":   openUpsert,
}

func eachPostgres(b *testing.B, commit string, o *order, keys int) {
	for name, of := range postgres {
		b.Run(name, func(b *testing.B) { open(b, name+commit, of(commit), inPostgres, 1, keys).fly(b, o, keys) })
	}
}

// A crash may lose the last decisions.
func BenchmarkPostgresMany(b *testing.B) { eachPostgres(b, "off", onPostgres(), postgresKeys) }

// What is answered is on disk.
func BenchmarkPostgresManySynced(b *testing.B) { eachPostgres(b, "on", onPostgres(), postgresKeys) }

func BenchmarkPostgresHotSynced(b *testing.B) { eachPostgres(b, "on", onOne(), 1) }

func openPgStore(commit string) opener {
	return func(tb testing.TB, r rule, limits int) *remote {
		s, err := pgstore.Open(context.Background(), pgstore.Config{URL: pgtest.Shared(tb).Schema(tb) + "&synchronous_commit=" + commit})
		if err != nil {
			tb.Fatal(err)
		}
		return overStore(tb, s, r, limits)
	}
}

// Upserts are what one would write by hand: one statement per decision, the server's
// clock, and pages with room for updates in place.
const (
	upsertTable = `create table gcra (k text primary key, tat bigint not null) with (fillfactor = 50)`
	// upsert answers when the bucket is full again, and nothing where it refuses.
	upsert = `
		insert into gcra as g (k, tat) values ($1, (extract(epoch from clock_timestamp()) * 1000000)::bigint + $2)
		on conflict (k) do update
		set tat = greatest(g.tat, excluded.tat - $2) + $2
		where greatest(g.tat, excluded.tat - $2) + $2 - (excluded.tat - $2) <= $3
		returning tat`
	upsertUsed = `select greatest(0, tat - (extract(epoch from clock_timestamp()) * 1000000)::bigint) from gcra where k = $1`
)

// upsertConnections is the number with which they are fastest on two cores.
const upsertConnections = 16

func openUpsert(commit string) opener {
	return func(tb testing.TB, r rule, _ int) *remote {
		ctx := context.Background()
		c, err := pgxpool.ParseConfig(pgtest.Shared(tb).Schema(tb) + "&synchronous_commit=" + commit)
		if err != nil {
			tb.Fatal(err)
		}
		c.MaxConns = upsertConnections
		pool, err := pgxpool.NewWithConfig(ctx, c)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := pool.Exec(ctx, upsertTable); err != nil {
			tb.Fatal(err)
		}
		every, depth := r.every.Microseconds(), r.window().Microseconds()
		return &remote{
			worker: func(tb testing.TB) take {
				return taking(tb, func(key string) (bool, error) {
					var tat int64
					err := pool.QueryRow(ctx, upsert, key, every, depth).Scan(&tat)
					if errors.Is(err, pgx.ErrNoRows) {
						return false, nil
					}
					return err == nil, err
				})
			},
			used: func(tb testing.TB, key string) int64 {
				var left int64
				if err := pool.QueryRow(ctx, upsertUsed, key).Scan(&left); err != nil {
					tb.Fatal(err)
				}
				return (left + every - 1) / every
			},
		}
	}
}
