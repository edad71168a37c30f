package cas

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

func TestNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newMemTable()
		s := New(Config{Table: table})
		defer s.Close()
		count := func(node uint64, ttl time.Duration, want int) {
			t.Helper()
			if n, err := s.Nodes(t.Context(), [2]uint64{node, 1}, ttl); err != nil || n != want {
				t.Errorf("%d nodes live: %v; want %d", n, err, want)
			}
		}
		count(1, time.Second, 1)
		count(2, MostLife, 2)
		count(1, time.Second, 2)
		<-time.After(2 * time.Second)
		count(3, time.Millisecond, 2)
		count(2, 0, 1)
		for _, ttl := range []time.Duration{-1, time.Microsecond, MostLife + 1} {
			if _, err := s.Nodes(t.Context(), [2]uint64{1, 1}, ttl); headgate.CodeOf(err) != headgate.InvalidRequest {
				t.Errorf("a node that lives for %v: %v", ttl, err)
			}
		}
	})
}

// A census that fails is asked again where that may help, as long as the caller
// waits and the store lives.
func TestNodesAreCountedAgain(t *testing.T) {
	away := errors.New("away")
	for _, tt := range []struct {
		name    string
		failing int // so many calls fail
		passing bool
		wait    time.Duration
		calls   int
		code    headgate.Code // 0 is that it is counted
	}{
		{"a fault that passes", 3, true, time.Second, 4, 0},
		{"a fault that stays", 100, true, time.Second, nodesTries, headgate.Unavailable},
		{"a fault that does not pass", 1, false, time.Second, 1, headgate.Unavailable},
		{"nobody waits", 100, true, 0, 1, headgate.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := newMemTable()
				table.disturb(func(n int) error {
					if n > tt.failing {
						return nil
					}
					return &Failure{Kind: "connection", Passing: tt.passing, Err: away}
				}, nil)
				var kinds []string
				s := New(Config{Table: table, Observe: func(op string, _ time.Duration, failure string) {
					kinds = append(kinds, op+" "+failure)
				}})
				defer s.Close()
				ctx, cancel := context.WithTimeout(t.Context(), tt.wait)
				defer cancel()
				n, err := s.Nodes(ctx, [2]uint64{1, 1}, time.Second)
				if headgate.CodeOf(err) != tt.code || tt.code == 0 && n != 1 || table.calls != tt.calls {
					t.Errorf("%d nodes after %d calls, and %v", n, table.calls, err)
				}
				if tt.code != 0 && !errors.Is(err, away) {
					t.Errorf("the cause is not told: %v", err)
				}
				if len(kinds) != 1 || (kinds[0] == "nodes ") != (tt.code == 0) {
					t.Errorf("observed %q", kinds)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		table := newMemTable()
		table.disturb(func(int) error { return &Failure{Passing: true, Err: away} }, nil)
		s := New(Config{Table: table})
		go func() {
			<-time.After(time.Microsecond)
			s.Close()
		}()
		if _, err := s.Nodes(t.Context(), [2]uint64{1, 1}, time.Second); headgate.CodeOf(err) != headgate.Closed {
			t.Errorf("a store that is being closed: %v", err)
		}
		if _, err := s.Nodes(t.Context(), [2]uint64{1, 1}, time.Second); headgate.CodeOf(err) != headgate.Closed {
			t.Errorf("a store that is closed: %v", err)
		}
	})
}
