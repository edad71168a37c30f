package memstore

import (
	"context"
	"testing"

	"github.com/headgate/headgate"
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
