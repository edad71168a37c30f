package memstore_test

import (
	"flag"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/storetest"
)

var (
	_ headgate.Store = (*memstore.Store)(nil)
	_ headgate.Clock = (*memstore.Store)(nil)
)

var ops = flag.Int("ops", 200_000, "batches of the differential test")

var capabilities = storetest.Capabilities{
	ManualClock: true,
	Footprint: func(s headgate.Store) (keys, bytes int64) {
		st := s.(*memstore.Store).Stats()
		return st.Keys, st.Bytes
	},
}

// opener returns a function that opens stores of the configuration.
func opener[T testing.TB](c memstore.Config) func(T) headgate.Store {
	return func(t T) headgate.Store {
		s := memstore.New(c)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
}

func TestStore(t *testing.T) {
	storetest.Run(t, opener[*testing.T](memstore.Config{}), capabilities)
}

func TestStoreOfOneShard(t *testing.T) {
	storetest.Run(t, opener[*testing.T](memstore.Config{Shards: 1}), capabilities)
}

// Without declaring its manual clock the store is one like any other.
func TestStoreOnItsOwnClock(t *testing.T) {
	storetest.Run(t, opener[*testing.T](memstore.Config{}), storetest.Capabilities{})
}

func TestDifferential(t *testing.T) {
	t.Run("one shard", func(t *testing.T) {
		storetest.Differential(t, opener[*testing.T](memstore.Config{Shards: 1}), capabilities, *ops/2, 1)
	})
	t.Run("many shards", func(t *testing.T) {
		storetest.Differential(t, opener[*testing.T](memstore.Config{Shards: 256}), capabilities, *ops/2, 2)
	})
	t.Run("own clock", func(t *testing.T) {
		storetest.Differential(t, opener[*testing.T](memstore.Config{}), storetest.Capabilities{}, *ops/10, 3)
	})
}
