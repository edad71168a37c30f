package httplimit

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

// A slot is taken while the handler runs and free again however it ends.
func TestSlotLastsAsLongAsTheHandler(t *testing.T) {
	h := New(inMemory(t, headgate.InFlight(1, time.Hour), headgate.PerHour(100)), Config{})
	for _, tt := range []struct {
		name string
		end  func()
	}{
		{"returns", func() {}},
		{"panics", func() { panic(http.ErrAbortHandler) }},
		{"returns again", func() {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ran := false
			ctx, cancel := context.WithCancel(t.Context())
			outer := h(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if second := serve(h(teapot), request()); second.Code != 429 || second.Header().Get("Headgate-Reason") != "concurrency_exceeded" {
					t.Errorf("a second request beside the first: got %s", dump(second))
				}
				ran = true
				cancel() // the client leaves before the handler ends
				tt.end()
			}))
			func() {
				defer func() { recover() }()
				serve(outer, request().WithContext(ctx))
			}()
			if !ran {
				t.Error("the first request was refused: a slot is still taken")
			}
		})
	}
}

func TestReleaseOutlivesTheClient(t *testing.T) {
	var released error
	lim := limiter(t, contextStore{func(ctx context.Context, b *headgate.Batch) error {
		if b.Op == headgate.Release {
			released = ctx.Err()
			return errors.New("lost")
		}
		b.Allowed = true
		return nil
	}}, headgate.InFlight(1, time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	var told error
	h := New(lim, Config{OnError: func(_ *http.Request, err error) { told = err }})
	serve(h(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel() })), request().WithContext(ctx))
	if released != nil {
		t.Errorf("released with a context that has ended: %v", released)
	}
	if told == nil || told.Error() != "release: lost" {
		t.Errorf("OnError was told %v, want release: lost", told)
	}
}

type contextStore struct {
	apply func(context.Context, *headgate.Batch) error
}

func (s contextStore) Apply(ctx context.Context, b *headgate.Batch) error { return s.apply(ctx, b) }
func (s contextStore) Close() error                                       { return nil }

func TestNeverMoreInFlightThanSlots(t *testing.T) {
	const slots = 3
	var running, most, passed atomic.Int64
	h := New(inMemory(t, headgate.InFlight(slots, time.Hour)), Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		passed.Add(1)
		running.Add(-1)
	}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				serve(h, request())
			}
		})
	}
	wg.Wait()
	if most.Load() > slots || passed.Load() < 200 {
		t.Errorf("%d in flight of %d slots, %d passed", most.Load(), slots, passed.Load())
	}
	for range slots {
		defer func(w *httptest.ResponseRecorder) {
			if w.Code != http.StatusOK {
				t.Errorf("slots were lost: %s", dump(w))
			}
		}(serve(h, request()))
	}
}

func TestDelayIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := inMemory(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second, Burst: 3})
		var starts []time.Duration
		begin := time.Now()
		h := New(lim, Config{})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { starts = append(starts, time.Since(begin)) }))
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { serve(h, request()) })
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		serve(h, request().WithContext(ctx)) // would start after 2 s
		wg.Wait()
		if len(starts) != 2 || starts[0] != 0 || starts[1] != time.Second {
			t.Errorf("handlers started after %v, want 0s and 1s", starts)
		}
	})
}
