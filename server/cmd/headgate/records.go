package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/follow"
	"github.com/headgate/headgate/server/records"
)

// recordsFile is where records are in the data directory unless --records says
// otherwise.
const recordsFile = "records.db"

// openRecords opens what people have written down and brings it to the gate, to the
// guard if there is one, and to the administration unless it is turned off.
func (h *house) openRecords(ctx context.Context, s *settings) (db *records.DB, err error) {
	if db, err = openDatabase(ctx, s, h.log); err != nil {
		return nil, err
	}
	h.records = db
	known := follow.Config{Records: db, Gate: h.gate, Pinned: s.pinned() != "", Logger: h.log}
	if h.guard != nil {
		known.Tokens = h.guard.Learn
	}
	h.openMeter(db)
	if s.admin != "" {
		h.openAdmin(s, db)
	}
	h.follower = follow.New(known)
	if err = h.follower.Load(ctx); err == nil {
		err = recordPolicy(ctx, db, h.gate, s.pinned() != "")
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
// The first time is a minute or two after the start.
const sweepRecordsEvery, firstSweep = time.Hour, time.Minute

// sweepRecords deletes them until ctx ends.
func (h *house) sweepRecords(ctx context.Context, db *records.DB) {
	t := time.NewTimer(firstSweep + rand.N(firstSweep))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			t.Reset(sweepRecordsEvery)
		}
		if err := db.Sweep(ctx, h.live.Load().retention.records()); err != nil && ctx.Err() == nil {
			h.log.Warn("records that are over could not be deleted; later", "error", err)
		}
	}
}

// builtIn is how the policy of this program came on record.
const builtIn = "built-in"

// recordPolicy puts the policy that this process brings on record, as a revision, unless
// it is the newest one: the file that rules, or the built-in policy where nobody has put
// another one on record. Decisions then name that revision.
func recordPolicy(ctx context.Context, db *records.DB, g *gate.Gate, pinned bool) error {
	source := g.Source()
	note := noteOf(source.Name)
	e := records.Entry{Actor: records.Actor{Name: "file", Via: "file"}, Action: "policy.put", Target: source.Name}
	head, err := db.Policy(ctx, 0)
	switch {
	case err != nil && !errors.Is(err, records.ErrNotFound):
		return err
	case !pinned && err == nil && head.Via != builtIn:
		return nil
	case !pinned:
		if err == nil { // that of this program may be another one
			source = gate.Source{Name: "built-in policy", Data: policy.Builtin()}
		}
		e.Name, e.Via, e.Target, note = "headgate", builtIn, "", ""
	}
	if head.Document != string(source.Data) {
		// Nodes that start together bring the same one.
		made, err := db.AppendPolicy(ctx, head.Revision, records.Policy{Document: string(source.Data), Note: note}, e)
		if errors.Is(err, records.ErrStale) {
			return recordPolicy(ctx, db, g, pinned)
		}
		if err != nil {
			return err
		}
		head = made
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
