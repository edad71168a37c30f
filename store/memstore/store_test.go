package memstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

var (
	_ headgate.Store = (*memstore.Store)(nil)
	_ headgate.Clock = (*memstore.Store)(nil)
)

func BenchmarkOneHotKey(b *testing.B) {
	s := memstore.New(memstore.Config{})
	l, err := headgate.New(s, headgate.PerSecond(1e6).WithBurst(1e9))
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.ReportAllocs()
	n := int64(0)
	for b.Loop() {
		d, err := l.Take(ctx, "alice", 1)
		if err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
		n++
	}
	d, _ := l.Peek(ctx, "alice", 1)
	_ = d
}

func TestSmoke(t *testing.T) {
	s := memstore.New(memstore.Config{})
	l, err := headgate.New(s, headgate.PerSecond(10).WithBurst(100), headgate.Sliding(60, time.Minute), headgate.InFlight(3, time.Second), headgate.QuotaPer(1000, headgate.Day))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		d, err := l.Take(context.Background(), "alice", 1)
		t.Logf("%+v %v %+v", d, err, s.Stats())
	}
}
