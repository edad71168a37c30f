package pgstore

import (
	"fmt"
	"testing"

	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// A primary that is killed under load and whose standby is promoted: all connections
// find the new epoch, and limits start empty; or, where that is wished, they go on,
// and have lost nothing if the standby had all that was answered.
func TestFailover(t *testing.T) {
	for _, lenient := range []bool{false, true} {
		t.Run(fmt.Sprint("lenient ", lenient), func(t *testing.T) {
			primary := pgtest.Standalone(t)
			standby := primary.Standby(t)
			primary.WaitForStandby(t)
			url := primary.Either(standby)
			var stores []*Store
			for range 2 {
				stores = append(stores, openStore(t, Config{URL: url, Lenient: lenient}))
			}
			x := newLoad(t, stores, bucket(t, 500), 4, 8)
			x.more(t, 300)
			primary.Stop(t)
			x.halt()
			before := x.sum()
			x.start(t, 8)
			standby.Promote(t)
			// Of every store, as of those that come later.
			for i, s := range append(stores, openStore(t, Config{URL: url, Lenient: lenient})) {
				if got := allowed(t, s, bucket(t, 1_000)); got != lenient {
					t.Errorf("store %d: allowed %v", i, got)
				}
			}
			x.more(t, 100)
			want := int64(2)
			if lenient {
				want = 1
				x.end(t)
			} else {
				x.halt()
				if n := x.sum(); n != before {
					t.Errorf("%d have passed where limits start empty", n-before)
				}
			}
			for i, s := range stores {
				if s.table.known != epochOf(t, standby, "") || s.table.known.seq != want {
					t.Errorf("store %d: epoch %+v, want number %d", i, s.table.known, want)
				}
			}
		})
	}
}

// The charges that a standby did not have when it was promoted are forgotten, and pay
// for nothing: limits start empty.
func TestFailoverThatLoses(t *testing.T) {
	primary := pgtest.Standalone(t)
	standby := primary.Standby(t)
	s := openStore(t, Config{URL: primary.Either(standby)})
	l := bucket(t, 10)
	for n := range 10 {
		if n == 5 {
			standby.Pause(t)
		}
		if !allowed(t, s, l) {
			t.Fatal("refused")
		}
	}
	primary.Stop(t)
	standby.Resume(t)
	standby.Promote(t)
	if allowed(t, s, l) {
		t.Error("a standby that lacks charges lets pass")
	}
	if e := epochOf(t, standby, ""); e.seq != 2 || e.since == 0 {
		t.Errorf("epoch %+v", e)
	}
}
