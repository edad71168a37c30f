package grpctest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// Slot tests what limited returns, which lets one call run at a time: its slot is taken
// while a handler runs and free again however that ends.
func Slot(t *testing.T, limited func() ServerInterceptors) {
	synctest.Test(t, func(t *testing.T) {
		h := &House{Server: Recovering()}
		var inside, leave chan struct{}
		end := func() error { return nil }
		run := func(ctx context.Context) error {
			close(inside)
			select {
			case <-leave:
			case <-ctx.Done():
			}
			return end()
		}
		h.Service.Unary = run
		h.Service.Duplex = func(s Duplex) error { return run(s.Context()) }
		c, stop := h.Limit(limited()).Open(t)
		defer stop()
		unary := func(ctx context.Context) error {
			_, err := c.EmptyCall(ctx, &testgrpc.Empty{})
			return err
		}
		stream := func(ctx context.Context) error {
			s, err := c.FullDuplexCall(ctx)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}
		for _, tt := range []struct {
			name   string
			end    func() error
			cancel bool
		}{
			{"returns", func() error { return nil }, false},
			{"fails", func() error { return errors.New("broken") }, false},
			{"panics", func() error { panic("broken") }, false},
			{"the client leaves", func() error { return nil }, true},
			{"returns again", func() error { return nil }, false},
		} {
			for i, call := range []func(context.Context) error{unary, stream} {
				inside, leave, end = make(chan struct{}), make(chan struct{}), tt.end
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- call(ctx) }()
				synctest.Wait()
				select {
				case <-inside:
				default:
					t.Fatalf("%s (%d): the first call was refused: a slot is still taken", tt.name, i)
				}
				for _, second := range []Answer{Ask(t, c), Converse(t, c, 0)} {
					if _, _, info := Details(second.Status); info.GetReason() != "CONCURRENCY_EXCEEDED" {
						t.Errorf("%s (%d): a second call beside the first: got %v", tt.name, i, second)
					}
				}
				if tt.cancel {
					cancel()
				} else {
					close(leave)
				}
				<-ended
				synctest.Wait()
				cancel()
			}
		}
	})
}

// Slots tests what lets as many calls run at a time as there are slots, at most 7.
func Slots(t *testing.T, limited ServerInterceptors, slots int64) {
	var running, most, passed atomic.Int64
	h := new(House)
	h.Service.Unary = func(context.Context) error {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		passed.Add(1)
		running.Add(-1)
		return nil
	}
	c, end := h.Limit(limited).Open(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				c.EmptyCall(t.Context(), &testgrpc.Empty{})
			}
		})
	}
	wg.Wait()
	end()
	if most.Load() > slots || passed.Load() < 100 {
		t.Errorf("%d in flight of %d slots, %d passed", most.Load(), slots, passed.Load())
	}
}

// Delay tests what limited returns, a leaky bucket that lets one call pass a second and
// three wait at least: they wait before their handlers run, and no longer than they may. A
// call that may wait 1.5 s and would have to for 2 s is told after as long as told says.
func Delay(t *testing.T, limited func() ServerInterceptors, told time.Duration) {
	for _, kind := range []string{"unary", "stream"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var starts []time.Duration
				begin := time.Now()
				h := new(House)
				h.Service.Unary = func(context.Context) error {
					starts = append(starts, time.Since(begin))
					return nil
				}
				h.Service.Duplex = func(s Duplex) error {
					starts = append(starts, time.Since(begin))
					return nil
				}
				c, end := h.Limit(limited()).Open(t)
				defer end()
				call := func(ctx context.Context) error {
					if kind == "unary" {
						_, err := c.EmptyCall(ctx, &testgrpc.Empty{})
						return err
					}
					s, err := c.FullDuplexCall(ctx)
					if err == nil {
						_, err = s.Recv()
					}
					return err
				}
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() { call(t.Context()) })
					synctest.Wait()
				}
				short, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
				defer cancel()
				if err := call(short); status.Code(err) != codes.DeadlineExceeded { // would start after 2 s
					t.Errorf("beyond its deadline: got %v", err)
				}
				if d := time.Since(begin); d != told {
					t.Errorf("a call that cannot wait so long was told after %v, want %v", d, told)
				}
				left, leave := context.WithCancel(t.Context())
				wg.Go(func() {
					if err := call(left); status.Code(err) != codes.Canceled {
						t.Errorf("left: got %v", err)
					}
				})
				synctest.Wait()
				leave()
				wg.Wait()
				if len(starts) != 2 || starts[0] != 0 || starts[1] != time.Second {
					t.Errorf("handlers started after %v, want 0s and 1s", starts)
				}
			})
		})
	}
}
