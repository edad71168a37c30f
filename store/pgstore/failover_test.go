package pgstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate/store/pgstore/pgtest"
	"github.com/jackc/pgx/v5/pgxpool"
)

// knownTo returns the newest epoch that a store has met.
func knownTo(s *Store) incarnation {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	return s.table.known
}

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
				if known := knownTo(s); known != epochOf(t, standby, "") || known.seq != want {
					t.Errorf("store %d: epoch %+v, want number %d", i, known, want)
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

// A primary that still lives beside the one that was promoted is not gone back to by a
// connection that is left: it does not know what the other has allowed since.
func TestOlderPrimaryThatLives(t *testing.T) {
	primary := pgtest.Standalone(t)
	standby := primary.Standby(t)
	s := openStore(t, Config{URL: primary.Either(standby, "pool_max_conns=4")})
	l := bucket(t, 10)
	if !allowed(t, s, l) {
		t.Fatal("refused")
	}
	var left []*pgxpool.Conn // nobody closes them
	release := func() {
		for _, c := range left {
			c.Release()
		}
		left = nil
	}
	t.Cleanup(release) // the store waits for them when it closes
	for range 4 {
		c, err := s.table.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, c)
	}
	idle := left[2]
	left[3].Release()
	left = left[:2]
	primary.Pause(t)
	standby.Promote(t)
	// Connections to who stands still leave their places at once.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.table.Read(ctx, nil); err == nil {
		t.Error("the older primary answers")
	}
	if noteIdle(ctx, pgxpool.ShouldPingParams{Conn: idle.Conn(), IdleDuration: 2 * time.Second}); lives(t.Context(), idle.Conn()) {
		t.Error("the older primary answers a ping")
	}
	abandon(idle)
	if n := s.table.pool.Stat().TotalConns(); n != 2 {
		t.Errorf("%d connections, want those 2 that are held", n)
	}
	if allowed(t, s, l) {
		t.Error("the promoted standby lets pass")
	}
	if e := knownTo(s); e.seq != 2 {
		t.Errorf("epoch %+v", e)
	}
	primary.Resume(t)
	release()
	for i := range 5 {
		if allowed(t, s, l) {
			t.Errorf("take %d: the older primary lets pass", i)
		}
	}
	if e := knownTo(s); e.seq < 2 || e.since == 0 {
		t.Errorf("epoch %+v", e)
	}
}
