package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

func TestSweepDropsWhatHasRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Config{})
		l, err := headgate.New(store, headgate.PerSecond(10))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Take(t.Context(), "alice", 5); err != nil {
			t.Fatal(err)
		}
		if n := store.Stats().Keys; n != 1 {
			t.Fatalf("%d keys after a take, want 1", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go sweep(ctx, store)
		synctest.Wait()
		<-time.After(sweepEvery + time.Second) // of the bubble's clock
		synctest.Wait()
		if n := store.Stats().Keys; n != 0 {
			t.Errorf("%d keys after a sweep, want 0", n)
		}
		cancel()
		synctest.Wait()
	})
}
