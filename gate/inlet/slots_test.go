package inlet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
)

// TestTTLs: renewals follow the shortest TTL of what is held, releases the longest.
func TestTTLs(t *testing.T) {
	var d gate.Decision
	limit := func(l headgate.Limit, cost int64) gate.AnsweredLimit {
		return gate.AnsweredLimit{State: gate.LimitState{ID: l.Name, Cost: cost}, Numbers: l}
	}
	d.Receive(&gate.Answer{Limits: []gate.AnsweredLimit{
		limit(headgate.InFlight(3, time.Hour).WithName("a"), 1), limit(headgate.InFlight(3, time.Minute).WithName("b"), 1),
		limit(headgate.InFlight(3, time.Second).WithName("c"), 0), limit(headgate.PerSecond(1).WithName("d"), 1),
	}})
	if shortest, longest := ttls(&d); shortest != time.Minute || longest != time.Hour {
		t.Errorf("got %v and %v, want 1m and 1h: of what is free nothing is held", shortest, longest)
	}
	d.Receive(&gate.Answer{Limits: []gate.AnsweredLimit{limit(headgate.PerSecond(1).WithName("d"), 1)}})
	if shortest, longest := ttls(&d); shortest != 0 || longest != 0 {
		t.Errorf("got %v and %v without slots", shortest, longest)
	}
}

// releasing is an engine behind a wire whose releases are those of the test.
type releasing struct {
	unknowing
	release func(context.Context) error
}

func (r releasing) Release(ctx context.Context, _ *gate.Claim, _ *gate.Decision) error {
	return r.release(ctx)
}

func (releasing) Renew(_ context.Context, _ *gate.Claim, d *gate.Decision) error {
	d.Held = true
	return nil
}

// local is one in this process.
type local struct {
	engine
	releasing
}

func (l local) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return l.releasing.Take(ctx, r, d)
}

func (l local) Renew(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	return l.releasing.Renew(ctx, c, d)
}

func (l local) Release(ctx context.Context, c *gate.Claim, d *gate.Decision) error {
	return l.releasing.Release(ctx, c, d)
}

// slot is a decision that holds one for 20 s.
func slot() *gate.Decision {
	d := new(gate.Decision)
	d.Receive(&gate.Answer{Ticket: "t", Limits: []gate.AnsweredLimit{{
		State: gate.LimitState{ID: "a", Cost: 1}, Numbers: headgate.InFlight(3, 20*time.Second).WithName("a"),
	}}})
	return d
}

var errAway = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("away")}

// TestReleaseDoesNotWait: a server that is away holds nobody up, and one that is well has
// released when Release returns.
func TestReleaseDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int64
		takes := time.Hour
		e := releasing{release: func(ctx context.Context) error {
			defer ended.Add(1)
			select {
			case <-time.After(takes):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		var told []error
		s := Keep(t.Context(), e, "a", slot(), func(err error) { told = append(told, err) })
		begin := time.Now()
		s.Release()
		if waited := time.Since(begin); waited != patience || ended.Load() != 0 {
			t.Errorf("waited %v, and %d attempts have ended", waited, ended.Load())
		}
		<-time.After(time.Minute)
		synctest.Wait()
		// At 0 s, 6 s and 13 s: each attempt lasts 5 s. What is 4 s later is the end of the TTL.
		if ended.Load() != 3 || len(told) != 1 || !errors.Is(told[0], context.DeadlineExceeded) || releases.Load() != 0 {
			t.Errorf("%d attempts, told %v, %d are under way", ended.Load(), told, releases.Load())
		}

		takes = time.Millisecond
		s = Keep(t.Context(), e, "a", slot(), func(err error) { t.Error(err) })
		begin = time.Now()
		s.Release()
		if waited := time.Since(begin); waited != takes || ended.Load() != 4 {
			t.Errorf("waited %v, and %d attempts have ended", waited, ended.Load())
		}
	})
}

// TestReleaseAgain: what fails as the engine is away is tried again while the TTL lasts,
// counted from the last renewal, and told once.
func TestReleaseAgain(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		fail int // so many attempts fail
		held time.Duration
		want []time.Duration
	}{
		{"comes back", errAway, 2, 0, []time.Duration{0, time.Second, 3 * time.Second}},
		{"stays away", errAway, 100, 0, []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}},
		{"stays away after a renewal at 5 s and 10 s", errAway, 100, 12 * time.Second, []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}},
		{"is full", &headgate.Error{Code: headgate.Overloaded, Err: errors.New("full")}, 1, 0, []time.Duration{0, time.Second}},
		{"is closed", &headgate.Error{Code: headgate.Closed, Err: errors.New("closed")}, 100, 0, []time.Duration{0}},
		{"knows it no more", &headgate.Error{Code: headgate.NotFound, Err: errors.New("lost")}, 100, 0, []time.Duration{0}},
	} {
		for kind, wrap := range map[string]func(releasing) Engine{
			"server": func(r releasing) Engine { return r },
			"gate":   func(r releasing) Engine { return local{releasing: r} },
		} {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var mu sync.Mutex
					var begin time.Time
					var at []time.Duration
					e := wrap(releasing{release: func(context.Context) error {
						mu.Lock()
						defer mu.Unlock()
						at = append(at, time.Since(begin))
						if len(at) > tt.fail {
							return nil
						}
						return tt.err
					}})
					var told []error
					s := Keep(t.Context(), e, "a", slot(), func(err error) { told = append(told, err) })
					<-time.After(tt.held)
					begin = time.Now()
					s.Release()
					mu.Lock()
					if len(at) != 1 || time.Since(begin) != 0 {
						t.Errorf("attempts at %v when Release returned after %v", at, time.Since(begin))
					}
					mu.Unlock()
					<-time.After(time.Hour)
					synctest.Wait()
					if !slices.Equal(at, tt.want) || len(told) != 1 || told[0].Error() != "release: "+tt.err.Error() || releases.Load() != 0 {
						t.Errorf("attempts at %v, want %v; told %v; %d are under way", at, tt.want, told, releases.Load())
					}
				})
			})
		}
	}
}

// TestReleasesAreBounded: of too many no release goes on behind Release, but each is tried:
// many requests may end at one time although the server is well.
func TestReleasesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := releasing{release: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		for range MaxReleases {
			go Keep(t.Context(), hangs, "a", slot(), func(error) {}).Release()
		}
		synctest.Wait()
		var told error
		begin := time.Now()
		Keep(t.Context(), hangs, "a", slot(), func(err error) { told = err }).Release()
		if !errors.Is(told, ErrReleases) || time.Since(begin) != patience {
			t.Errorf("told %v after %v", told, time.Since(begin))
		}
		released := false
		well := releasing{release: func(context.Context) error { released = true; return nil }}
		Keep(t.Context(), well, "a", slot(), func(err error) { t.Error(err) }).Release()
		if !released {
			t.Error("not released, but left to its TTL")
		}
		lost := &headgate.Error{Code: headgate.NotFound, Err: errors.New("lost")}
		Keep(t.Context(), releasing{release: func(context.Context) error { return lost }}, "a", slot(), func(err error) { told = err }).Release()
		if !errors.Is(told, lost) || errors.Is(told, ErrReleases) {
			t.Errorf("told %v", told)
		}
		<-time.After(time.Hour)
		synctest.Wait()
		if n := releases.Load(); n != 0 {
			t.Errorf("%d are under way", n)
		}
	})
}

// renewing is an engine whose renewals are those of the test too.
type renewing struct {
	releasing
	renew func(context.Context) error
}

func (r renewing) Renew(ctx context.Context, _ *gate.Claim, d *gate.Decision) error {
	d.Held = true
	return r.renew(ctx)
}

// TestRenewalsThatHang: two in a row may hang, and the slot is not lost.
func TestRenewalsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begin := time.Now()
		e := renewing{releasing{release: func(context.Context) error { return nil }}, func(ctx context.Context) error {
			if at = append(at, time.Since(begin)); len(at) > 2 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		var told []error
		s := Keep(t.Context(), e, "a", slot(), func(err error) { told = append(told, err) })
		<-time.After(22 * time.Second)
		s.Release()
		want := []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 20 * time.Second}
		if !slices.Equal(at, want) || len(told) != 2 || !errors.Is(told[0], context.DeadlineExceeded) {
			t.Errorf("renewed at %v, want %v; told %v", at, want, told)
		}
	})
}
