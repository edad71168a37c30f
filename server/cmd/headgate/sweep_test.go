package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
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
		go sweep(ctx, store, slog.New(slog.DiscardHandler))
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

func TestSweepTellsOfFullMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Config{MaxBytes: 1 << 20, Shards: 1})
		l, err := headgate.New(store, headgate.PerHour(2))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50_000 {
			if _, err := l.Take(t.Context(), fmt.Sprint(i), 1); err != nil {
				t.Fatal(err)
			}
		}
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		go sweep(ctx, store, slog.New(slog.NewTextHandler(&log, nil)))
		<-time.After(2 * time.Hour) // of the bubble's clock
		synctest.Wait()
		full, empty := strings.Index(log.String(), "memory for state is full"), strings.Index(log.String(), "no longer full")
		if lines := strings.Count(log.String(), "\n"); lines != 2 || full < 0 || empty < full {
			t.Errorf("not told once of its beginning and once of its end:\n%s", log.String())
		}
		cancel()
		synctest.Wait()
	})
}
