package guard

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

// Nodes learn of each other within a beat, of one that is gone some time after
// that is over, and of nothing while the store is away.
func TestNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		nodes := func(s *Store) int { return s.Stats().Nodes }
		a := open(t, r, Config{})
		b := open(t, r, Config{})
		if nodes(a) != 1 || nodes(b) != 2 {
			t.Errorf("at first: %d, %d", nodes(a), nodes(b))
		}
		c := New(r, Config{})
		pass(beatEvery)
		if nodes(a) != 3 || nodes(b) != 3 || nodes(c) != 3 {
			t.Errorf("three of them: %d, %d, %d", nodes(a), nodes(b), nodes(c))
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		r.set(func(r *remote) {
			if len(r.members) != 2 {
				t.Errorf("the third has closed: %d members", len(r.members))
			}
		})
		pass(beatTTL)
		if nodes(a) != 3 || nodes(b) != 3 {
			t.Errorf("the store may have forgotten it: %d, %d", nodes(a), nodes(b))
		}
		pass(2 * beatEvery)
		if nodes(a) != 2 || nodes(b) != 2 {
			t.Errorf("without the third: %d, %d", nodes(a), nodes(b))
		}
		r.set(func(r *remote) { r.members[[2]uint64{1}] = time.Now().Add(beatTTL) }) // it dies
		pass(beatTTL + beatEvery)
		if nodes(a) != 3 || nodes(b) != 3 {
			t.Errorf("it may be back in a moment: %d, %d", nodes(a), nodes(b))
		}
		pass(beatTTL + beatEvery)
		if nodes(a) != 2 || nodes(b) != 2 {
			t.Errorf("without the dead one: %d, %d", nodes(a), nodes(b))
		}
		r.set(func(r *remote) { r.lost = true })
		pass(time.Hour)
		if nodes(a) != 2 || nodes(b) != 2 {
			t.Errorf("an hour away: %d, %d", nodes(a), nodes(b))
		}
		if a.Stats().Up || a.Stats().Failures.Timeouts < 6000 {
			t.Errorf("an hour away: %+v", a.Stats())
		}
		r.set(func(r *remote) { r.lost = false; r.members[[2]uint64{}] = time.Now().Add(time.Hour) })
		pass(probeEvery + probeSpread + beatPatience + beatEvery)
		if nodes(a) != 3 || nodes(b) != 3 || !a.Stats().Up {
			t.Errorf("back: %d, %d", nodes(a), nodes(b))
		}
	})
}

// Who closes waits no longer than half a second for a store that does not answer,
// and not at all for one that is known to be away.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		closing := func(s *Store) time.Duration {
			began := time.Now()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		a, b := New(r, Config{}), New(r, Config{})
		pass(time.Second)
		r.set(func(r *remote) { r.lost = true })
		if took := closing(a); took != beatPatience {
			t.Errorf("closed in %v", took)
		}
		c := New(r, Config{})
		synctest.Wait()
		if took := closing(c); took != 2*beatPatience {
			t.Errorf("closed in %v during a beat", took)
		}
		r.set(func(r *remote) { r.lost = false })
		breakIt(t, b, r)
		if took := closing(b); took != 0 {
			t.Errorf("closed in %v while the store was away", took)
		}
	})
}

func TestPopulation(t *testing.T) {
	const lost = 0
	for name, rows := range map[string][]struct {
		at   time.Duration
		saw  int
		want int
	}{
		"more at once":              {{0, 1, 1}, {1, 3, 3}, {2, 7, 7}},
		"fewer after a while":       {{0, 3, 3}, {1, 1, 3}, {3, 1, 3}, {6, 1, 3}, {7, 1, 1}},
		"fewer, the most of them":   {{0, 9, 9}, {2, 1, 9}, {4, 3, 9}, {6, 1, 9}, {8, 1, 3}, {10, 1, 3}, {16, 1, 1}},
		"they come back":            {{0, 3, 3}, {2, 1, 3}, {4, 3, 3}, {6, 1, 3}, {10, 1, 3}, {12, 1, 1}},
		"the store goes in between": {{0, 3, 3}, {2, 1, 3}, {4, lost, 3}, {8, 1, 3}, {12, 2, 3}, {14, 1, 2}},
		"nobody":                    {{0, lost, 0}, {1, -5, 1}, {2, lost, 1}, {3, maxNodes + 1, maxNodes}},
	} {
		var p population
		for _, r := range rows {
			if r.saw == lost {
				p.lost()
			} else {
				p.saw(r.saw, r.at*time.Second)
			}
			if p.nodes != r.want {
				t.Errorf("%s: %d at %d s, want %d", name, p.nodes, r.at, r.want)
			}
		}
	}
}

// A node whose calls fill all there is goes on to beat.
func TestBeatsAreNotKeptOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		s := open(t, r, Config{MaxInFlight: 1})
		r.set(func(r *remote) { r.took = 30 * time.Second })
		done := make(chan error)
		go func() { done <- s.Apply(t.Context(), batch(t, prepare(t, headgate.PerSecond(5)), "a", 1)) }()
		synctest.Wait()
		beats := 0
		r.set(func(r *remote) { r.took, beats = 0, r.beats })
		pass(10 * time.Second)
		if err := s.Apply(t.Context(), new(headgate.Batch)); headgate.CodeOf(err) != headgate.Unavailable {
			t.Errorf("beyond what may be in flight: %v", err)
		}
		r.set(func(r *remote) {
			if n := r.beats - beats; n < 5 || n > 6 {
				t.Errorf("%d beats in 10 s", n)
			}
		})
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote()
		r.set(func(r *remote) { r.err = errRefused })
		s := New(r, Config{})
		defer s.Close()
		if err := s.Meet(t.Context()); headgate.CodeOf(err) != headgate.Unavailable {
			t.Errorf("met a store that is away: %v", err)
		}
		if b := s.Bound(); b != (Bound{Usual: 1, Most: 1}) || !strings.Contains(b.String(), "not met") {
			t.Errorf("%+v: %s", b, b)
		}
		r.set(func(r *remote) {
			r.err = nil
			for n := range uint64(3) {
				r.members[[2]uint64{n}] = time.Now().Add(time.Hour)
			}
		})
		if err := s.Meet(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := s.Bound()
		if b.Nodes != 4 || b.Share != 0.2 || b.Usual != 1.8 || b.Most != 4.2 {
			t.Errorf("%+v", b)
		}
		if got := b.String(); got != "while the store is away each node, of 4, admits 0.2 of a limit with on_store_error: local: together with what the store admitted 1.8 x the limit, and never more than 4.2 x" {
			t.Error(got)
		}
	})
}
