package sqlitestore_test

import (
	"context"
	"flag"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/sqlitestore"
	"github.com/headgate/headgate/store/storetest"
)

var (
	diffOps  = flag.Int("sqlite.ops", 4_000, "operations of each differential test")
	diffSeed = flag.Uint64("sqlite.seed", 1, "seed of the differential tests")
)

// mortal is a store that is closed and opened again after every so many batches.
type mortal struct {
	*sqlitestore.Store
	t     *testing.T
	open  func() *sqlitestore.Store
	left  int
	every int
}

func (m *mortal) Apply(ctx context.Context, b *headgate.Batch) error {
	if m.left--; m.left < 0 {
		m.left = m.every
		if err := m.Close(); err != nil {
			m.t.Fatal(err)
		}
		m.Store = m.open()
	}
	return m.Store.Apply(ctx, b)
}

// No batch is decided otherwise than the model says, however often the store was
// stopped between them. By the manual clock, on which owners step back and forth, it
// lives on: a store that is opened again takes no instant before the latest one.
func TestDifferential(t *testing.T) {
	for name, c := range map[string]storetest.Capabilities{"own clock": {}, "manual clock": {ManualClock: true}} {
		t.Run(name, func(t *testing.T) {
			every := 200
			if c.ManualClock {
				every = *diffOps
			}
			storetest.Differential(t, func(t *testing.T) headgate.Store {
				dir := t.TempDir()
				open := func() *sqlitestore.Store { return open(t, sqlitestore.Config{Dir: dir}) }
				return &mortal{Store: open(), t: t, open: open, left: every, every: every}
			}, c, *diffOps, *diffSeed)
		})
	}
}
