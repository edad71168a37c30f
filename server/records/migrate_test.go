package records

import (
	"context"
	"database/sql"
	"io/fs"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// written is what a database of each earlier version held: rows of tables that came with
// that version or before.
var written = map[int64][]string{
	1: {
		`update headgate_feed set seq = 5`,
		`insert into headgate_policy (revision, at, author, via, note, document, seq) values (1, 1000000, 'ann', 'api', 'first', 'version: 1', 1)`,
		`insert into headgate_subject (application, name, known, plan, timezone, anchor, note, overrides, banned, ban_reason, changed, author, seq)
			values ('email', 'alice', true, 'premium', 'Europe/Paris', 31, 'vip', '[]', 0, '', 2000000, 'ann', 2)`,
		`insert into headgate_token (id, digest, name, scopes, applications, created, author, expires, revoked, seq)
			values ('t1', '00000000000000000000000000000000000000000000000000000000000000ff', 'app', 'decide read', 'email', 3000000, 'ann', 0, 0, 3)`,
		`insert into headgate_mode (application, rule, shadow, until, author, seq) values ('email', 'send', true, 4000000, 'ann', 4)`,
		`insert into headgate_audit (id, at, actor, via, address, action, application, subject, target, refused, detail)
			values (5, 5000000, 'ann', 'api', '', 'subject.put', 'email', 'alice', '', '', '{}')`,
	},
	2: {
		`update headgate_usage_feed set revision = 1`,
		`insert into headgate_usage_reporter (id, report, at) values ('z', 1, 6000000)`,
		`insert into headgate_usage (application, subject, period, span, operation, plan, unit, timezone, anchor, day, month, allowed, denied, cost, overage, revision)
			values ('email', 'zoe', 1793491200000000, 0, 'send', 'free', 'requests', 'UTC', 1, 20758, 20758, 1, 0, 4, 0, 1)`,
		`insert into headgate_event (id, at, until, kind, application, subject, body) values ('e1', 7000000, 8000000, 'quota.threshold', 'email', 'zoe', '{}')`,
		`insert into headgate_delivery (event, webhook, attempts, next, delivered, failure) values ('e1', 'hook', 1, 8000000, 0, 'timeout')`,
		`insert into headgate_node (name, started, seen, detail) values ('node-1', 9000000, 9000000, '{}')`,
	},
}

// database makes one as a program of an earlier version has left it.
func database(t *testing.T, kind string, version int64) (url string) {
	t.Helper()
	ctx := t.Context()
	dialect, driver, at := goose.DialectSQLite3, "sqlite", filepath.Join(t.TempDir(), "records.db")
	url = "sqlite:" + at
	if kind == "postgres" {
		url = pgtest.Shared(t).Schema(t)
		dialect, driver, at = goose.DialectPostgres, "pgx", url
	}
	db, err := sql.Open(driver, at)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if kind == "sqlite" {
		execute(t, db, `pragma application_id = 0x48475243`)
	}
	files, err := fs.Sub(migrations, "migrations/"+kind)
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(dialect, db, files, goose.WithTableName(schemaTable), goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(ctx, version); err != nil {
		t.Fatal(err)
	}
	for v := int64(1); v <= version; v++ {
		for _, statement := range written[v] {
			execute(t, db, statement)
		}
	}
	return url
}

func execute(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(context.WithoutCancel(t.Context()), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// A database of any earlier version is brought up to date, with all that it holds.
func TestMigrations(t *testing.T) {
	for _, kind := range []string{"sqlite", "postgres"} {
		for version := int64(1); version < schema; version++ {
			if len(written[version]) == 0 {
				t.Fatalf("nobody says what a database of version %d held", version)
			}
			t.Run(kind, func(t *testing.T) {
				ctx := t.Context()
				d := open(t, database(t, kind, version))
				var v View
				at := new(Cursor)
				for more := true; more; {
					next := must[View](t)(d.Next(ctx, at))
					v.Subjects, v.Tokens, v.Modes = append(v.Subjects, next.Subjects...), append(v.Tokens, next.Tokens...), append(v.Modes, next.Modes...)
					if next.Policy != nil {
						v.Policy = next.Policy
					}
					more = next.More
				}
				if v.Policy == nil || v.Policy.Document != "version: 1" || len(v.Subjects) != 1 || v.Subjects[0].Plan != "premium" || v.Subjects[0].Anchor != 31 ||
					len(v.Tokens) != 1 || v.Tokens[0].Digest[31] != 0xff || len(v.Modes) != 1 || !v.Modes[0].Shadow || at.Seen() != 5 {
					t.Errorf("%+v, seen %d", v, at.Seen())
				}
				if list, _, err := d.Audits(ctx, AuditQuery{Limit: 10}); err != nil || len(list) != 1 || list[0].Action != "subject.put" {
					t.Errorf("%+v, %v", list, err)
				}
				if version >= 2 {
					if list, _, err := d.Usage(ctx, UsageQuery{Subject: "zoe", Limit: 10}); err != nil || len(list) != 1 || list[0].Cost != 4 || list[0].Revision != 1 {
						t.Errorf("%+v, %v", list, err)
					}
					if c, err := d.ClaimDelivery(ctx, "hook", now(), now().Add(time.Hour)); err != nil || c.ID != "e1" || c.Attempts != 2 {
						t.Errorf("%+v, %v", c, err)
					}
				}
				// And what is new works.
				if err := d.Report(ctx, "a", 1, []Usage{hourOf("alice", 0, 1, 1)}); err != nil {
					t.Error(err)
				}
				if _, _, err := d.EditSubject(ctx, "email", "alice", 2, by("bob", "subject.put"), func(s *Subject) error { s.Note = "x"; return nil }); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
