package grpclimit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
)

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
		h := new(grpctest.House)
		h.Service.Unary = func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}
		c, end := h.Limit(NewServer(lim, ServerConfig{OnError: func(_ Call, err error) { told = err }})).Open(t)
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

func TestSlot(t *testing.T) {
	grpctest.Slot(t, func() grpctest.ServerInterceptors {
		return NewServer(inMemory(t, headgate.InFlight(1, time.Hour), headgate.PerHour(100)), ServerConfig{})
	})
}

func TestNeverMoreInFlightThanSlots(t *testing.T) {
	grpctest.Slots(t, NewServer(inMemory(t, headgate.InFlight(3, time.Hour)), ServerConfig{}), 3)
}

func TestDelayIsWaitedFor(t *testing.T) {
	grpctest.Delay(t, func() grpctest.ServerInterceptors {
		return NewServer(inMemory(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second, Burst: 4}), ServerConfig{})
	}, 0)
}
