package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/follow"
	"github.com/headgate/headgate/server/records"
)

// recordsFile is where records are in the data directory unless --records says
// otherwise.
const recordsFile = "records.db"

// openRecords opens what people have written down and brings it to the gate, and to
// guard, which is nil without an administration.
func (h *house) openRecords(ctx context.Context, s *settings, guard *access.Guard) (db *records.DB, err error) {
	if db, err = openDatabase(ctx, s, h.log); err != nil {
		return nil, err
	}
	known := follow.Config{Records: db, Gate: h.gate, Pinned: s.policy != "", Logger: h.log}
	if guard != nil {
		known.Tokens = guard.Learn
		h.openAdmin(s, guard, db)
	}
	h.follower = follow.New(known)
	if err = h.follower.Load(ctx); err == nil && s.policy != "" {
		err = recordPolicy(ctx, db, h.gate)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("records: %w", err), db.Close())
	}
	return db, nil
}

// openDatabase opens the database of records.
func openDatabase(ctx context.Context, s *settings, log *slog.Logger) (*records.DB, error) {
	at := s.records
	if at == "" {
		if err := os.MkdirAll(s.data, 0o700); err != nil {
			return nil, fmt.Errorf("--data %s: data directory: %w", s.data, err)
		}
		at = "sqlite:" + filepath.Join(s.data, recordsFile)
	}
	db, err := records.Open(ctx, records.Config{URL: at, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmp.Or(s.recordsFrom, "--data"), err)
	}
	return db, nil
}

// sweepRecordsEvery is how often records that are over for long are deleted.
const sweepRecordsEvery = time.Hour

// sweepRecords deletes them until ctx ends.
func sweepRecords(ctx context.Context, db *records.DB, log *slog.Logger) {
	t := time.NewTicker(sweepRecordsEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := db.Sweep(ctx, records.Retention{}); err != nil && ctx.Err() == nil {
			log.Warn("records that are over could not be deleted; later", "error", err)
		}
	}
}

// recordPolicy puts the policy file that rules on record, as a revision, unless it is the
// newest one. Decisions then name that revision.
func recordPolicy(ctx context.Context, db *records.DB, g *gate.Gate) error {
	source := g.Source()
	head, err := db.Policy(ctx, 0)
	if err != nil && !errors.Is(err, records.ErrNotFound) {
		return err
	}
	if err != nil || head.Document != string(source.Data) {
		e := records.Entry{Actor: records.Actor{Name: "file", Via: "file"}, Action: "policy.put", Target: source.Name}
		head, err = db.AppendPolicy(ctx, records.Whatever, records.Policy{Document: string(source.Data), Note: noteOf(source.Name)}, e)
		if err != nil {
			return err
		}
	}
	source.Revision = uint64(head.Revision)
	return g.Apply(source)
}

// noteOf shortens a file's name to a note, at its beginning.
func noteOf(name string) string {
	if len(name) <= records.MaxNote {
		return name
	}
	return "..." + name[len(name)-records.MaxNote+3:]
}
