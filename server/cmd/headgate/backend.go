package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/observe"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/sqlitestore"
)

// backend is where the state of limits lives.
type backend struct {
	// store is what the gate asks.
	store headgate.Store
	// local decides while store is away; nil where it cannot be.
	local headgate.Store
	// now is what the clock of store shows; nil where it is the process's.
	now func() int64
	// patience is how long store may take to decide; 0 is the gate's default.
	patience time.Duration
	// away reports whether store cannot be asked; nil where it always can.
	away func() bool
	// memory is nil where state is shared, shared where it is not. embedded is the
	// store that keeps what is in memory, nil where none does.
	memory   *memstore.Store
	embedded *sqlitestore.Store
	shared   *shared
}

// openBackend opens the store that was asked for. called is told of every call of
// one that is not in this process.
func openBackend(ctx context.Context, s *settings, called func(store, op string, took time.Duration, failure string), log *slog.Logger) (*backend, error) {
	if s.store == "memory" {
		m := memstore.New(memstore.Config{MaxBytes: s.memory})
		log.Warn("store memory: state is lost at stop", "budget_bytes", s.memory)
		return &backend{store: m, memory: m}, nil
	}
	if s.store == embeddedStore {
		return openEmbedded(ctx, s, func(op string, took time.Duration, failure string) { called(embeddedStore, op, took, failure) }, log)
	}
	kind := kindOf(s.store) // there is one: check has seen to that
	b, err := openShared(ctx, kind, s.store, s.memory, func(op string, took time.Duration, failure string) { called(kind.name, op, took, failure) }, log)
	switch {
	case err == nil:
		return b, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: told to stop before the store had answered", s.storeFrom)
	case errors.Is(err, kind.passwordWanted) && s.storeFrom != storeFile:
		return nil, fmt.Errorf("%s: %w, best in a file that %s names", s.storeFrom, err, storeFile)
	}
	return nil, fmt.Errorf("%s: %w", s.storeFrom, err)
}

// observe fills in what the backend shows of itself.
func (b *backend) observe(s *observe.State) {
	if b.memory != nil {
		st := b.memory.Stats()
		s.Memory = &observe.Memory{Keys: st.Keys, OverflowCells: st.Overflow, Bytes: st.Bytes, Limit: st.MaxBytes}
	}
	if b.embedded != nil {
		st := b.embedded.Stats()
		s.StoreUp = s.StoreUp && !st.Broken && !st.Failing
	}
	if b.shared != nil {
		b.shared.observe(s)
	}
}
