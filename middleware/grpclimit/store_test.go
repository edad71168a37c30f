package grpclimit

import (
	"context"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// fakeStore answers every batch with apply, which finds the outcomes empty.
type fakeStore struct {
	apply func(context.Context, *headgate.Batch) error
}

func (f fakeStore) Close() error { return nil }

func (f fakeStore) Apply(ctx context.Context, b *headgate.Batch) error {
	clear(b.Outcomes())
	return f.apply(ctx, b)
}

func limiter(t testing.TB, s headgate.Store, limits ...headgate.Limit) *headgate.Limiter {
	t.Helper()
	lim, err := headgate.New(s, limits...)
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

func inMemory(t testing.TB, limits ...headgate.Limit) *headgate.Limiter {
	t.Helper()
	return limiter(t, memstore.New(memstore.Config{}), limits...)
}
