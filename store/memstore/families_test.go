package memstore

import (
	"context"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// nothing is a journal that forgets.
type nothing struct{}

func (nothing) Load(context.Context, []Record) error { return nil }
func (nothing) Commit(*Commit) error                 { return nil }

// However many limits come into use, few are remembered; one that was forgotten
// though its states may be in the journal is looked up there.
func TestFamiliesAreBounded(t *testing.T) {
	s := New(Config{Journal: nothing{}, Past: Past{Latest: 1}})
	defer s.Close()
	k := s.kept
	k.families.Lock()
	for i := range uint64(mostFamilies) {
		f := new(family)
		f.durable.Store(true)
		k.families.known[[2]uint64{i, 1}] = f
	}
	k.families.Unlock()
	l, err := headgate.PerSecond(10).Prepare()
	if err != nil {
		t.Fatal(err)
	}
	var b headgate.Batch
	b.Add(headgate.Charge{Limit: l, Owner: "alice", Cost: 1})
	if err := s.Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if n := len(k.families.known); n > mostFamilies/2+1 {
		t.Errorf("%d families are remembered, at most %d", n, mostFamilies)
	}
	if !k.looked(l, s.Now()) {
		t.Error("a limit that may have been forgotten is not looked up")
	}
}

// bans returns what a process before may have left, of as many owners, until an instant.
func bans(t *testing.T, n int, now, until int64) []Record {
	l, err := headgate.Limit{Algorithm: headgate.Ban, Count: 1, Period: time.Minute, TTL: time.Hour}.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	var all []Record
	for i := range n {
		words := make([]int64, algo.Words(l))
		algo.Init(l, words, now)
		algo.CountDenial(l, words, now)
		all = append(all, Record{Key: Key{Hi: uint64(i) << 30, Lo: 4}, Limit: l, Words: words, Keep: math.MinInt64, Until: until})
	}
	return all
}

// Bans of the process before are remembered until they are over, and no longer.
func TestBansOfBeforeEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UnixMicro()
		past := Past{Latest: now, Clean: true, Bans: append(bans(t, 10, now, now), bans(t, 5, now, now+1_000_000)...)}
		s := New(Config{Journal: nothing{}, Past: past})
		defer s.Close()
		for _, want := range []int{5, 0} {
			s.Sweep()
			if n := len(s.kept.bans.left); n != want || s.kept.bans.some.Load() != (want > 0) {
				t.Errorf("%d bans are remembered, want %d", n, want)
			}
			<-time.After(time.Second)
		}
	})
}

// hanging is a journal whose first commit ends with a channel.
type hanging struct {
	nothing
	end chan struct{}
}

func (h hanging) Commit(*Commit) error { <-h.end; return nil }

// While the disk hangs, the bans that it does not know of yet do not wait for it without
// end.
func TestBansDoNotCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hanging{end: make(chan struct{})}
		s := New(Config{MaxBytes: 1 << 20, Journal: h})
		ban, err := headgate.Limit{Algorithm: headgate.Ban, Count: 5, Period: time.Minute, TTL: time.Hour}.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		rate, err := headgate.PerSecond(1).Prepare()
		if err != nil {
			t.Fatal(err)
		}
		ask := func(owner string, patience time.Duration) error {
			var b headgate.Batch
			b.Patience = patience.Microseconds()
			b.Add(headgate.Charge{Limit: ban, Owner: owner})
			b.Add(headgate.Charge{Limit: rate, Owner: owner, Cost: 1})
			return s.Apply(t.Context(), &b)
		}
		go func() { h.end <- struct{}{} }()
		if err := ask("warm", time.Minute); err != nil { // both limits are known then
			t.Fatal(err)
		}
		for i := range 10_000 {
			for range 2 {
				_ = ask(fmt.Sprint(i), time.Millisecond)
			}
		}
		s.kept.mu.Lock()
		n := len(s.kept.notes)
		s.kept.mu.Unlock()
		if n > s.kept.most || n == 0 {
			t.Errorf("%d states wait for the disk, of at most %d", n, s.kept.most)
		}
		close(h.end)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
