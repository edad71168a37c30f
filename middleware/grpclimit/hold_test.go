package grpclimit

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
)

// recovering turns a handler's panic into an error, as servers do that live on.
func recovering() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
			defer func() {
				if recover() != nil {
					err = status.Error(codes.Internal, "panic")
				}
			}()
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer func() {
				if recover() != nil {
					err = status.Error(codes.Internal, "panic")
				}
			}()
			return next(srv, ss)
		}),
	}
}

// A slot is taken while the handler runs and free again however it ends.
func TestSlotLastsAsLongAsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{server: recovering()}
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
		h.service.unary = run
		h.service.duplex = func(s duplex) error { return run(s.Context()) }
		c, stop := h.limit(NewServer(inMemory(t, headgate.InFlight(1, time.Hour), headgate.PerHour(100)), ServerConfig{})).open(t)
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
				for _, second := range []answer{ask(t, c), converse(t, c, 0)} {
					if _, _, info := details(second.status); info.GetReason() != "CONCURRENCY_EXCEEDED" {
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

func TestReleaseOutlivesTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var released, told error
		lim := limiter(t, fakeStore{func(ctx context.Context, b *headgate.Batch) error {
			if b.Op == headgate.Release {
				released = ctx.Err()
				return errors.New("lost")
			}
			b.Allowed = true
			return nil
		}}, headgate.InFlight(1, time.Hour))
		h := new(house)
		h.service.unary = func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}
		c, end := h.limit(NewServer(lim, ServerConfig{OnError: func(_ Call, err error) { told = err }})).open(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.EmptyCall(ctx, &testgrpc.Empty{})
		end()
		synctest.Wait()
		if released != nil {
			t.Errorf("released with a context that has ended: %v", released)
		}
		if told == nil || told.Error() != "release: lost" {
			t.Errorf("OnError was told %v, want release: lost", told)
		}
	})
}

func TestNeverMoreInFlightThanSlots(t *testing.T) {
	const slots = 3
	var running, most, passed atomic.Int64
	h := new(house)
	h.service.unary = func(context.Context) error {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		passed.Add(1)
		running.Add(-1)
		return nil
	}
	c, end := h.limit(NewServer(inMemory(t, headgate.InFlight(slots, time.Hour)), ServerConfig{})).open(t)
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

func TestDelayIsWaitedFor(t *testing.T) {
	for _, kind := range []string{"unary", "stream"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lim := inMemory(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second, Burst: 4})
				var starts []time.Duration
				begin := time.Now()
				h := new(house)
				h.service.unary = func(context.Context) error {
					starts = append(starts, time.Since(begin))
					return nil
				}
				h.service.duplex = func(s duplex) error {
					starts = append(starts, time.Since(begin))
					return nil
				}
				c, end := h.limit(NewServer(lim, ServerConfig{})).open(t)
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
				if d := time.Since(begin); d != 0 {
					t.Errorf("a call that cannot wait so long was told after %v, want at once", d)
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
