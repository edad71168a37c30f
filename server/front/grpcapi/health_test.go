package grpcapi

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
)

func TestHealth(t *testing.T) {
	f, stopping := &fakeGate{}, make(chan struct{})
	health := healthpb.NewHealthClient(dial(t, listen(t, New(Config{Gate: f, Stopping: stopping}))))
	check := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if h, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}); err != nil || h.Status != want {
			t.Errorf("%q: %v, %v", service, h, err)
		}
	}
	check("", serving)
	check("headgate.v1.HeadgateService", serving)
	if _, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "nothing"}); status.Code(err) != codes.NotFound {
		t.Errorf("a service that is not here: %v", err)
	}
	f.ready.Store(new(errors.New("down")))
	check("", notServing)
	check("headgate.v1.HeadgateService", notServing)
	f.ready.Store(nil)
	check("", serving)
	if l, err := health.List(t.Context(), &healthpb.HealthListRequest{}); err != nil || l.Statuses["headgate.v1.HeadgateService"].GetStatus() != serving || len(l.Statuses) < 3 {
		t.Errorf("%v, %v", l, err)
	}
	close(stopping)
	check("", notServing)
}

// watcher is the stream of a call that watches.
type watcher struct {
	grpc.ServerStream
	ctx  context.Context
	sent []healthpb.HealthCheckResponse_ServingStatus
}

func (w *watcher) Context() context.Context { return w.ctx }

func (w *watcher) Send(m *healthpb.HealthCheckResponse) error {
	w.sent = append(w.sent, m.Status)
	return nil
}

// TestWatch: who watches is told now and of every change, until the server stops.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, stopping := &fakeGate{}, make(chan struct{})
		h := newHealth(&door{Config: Config{Gate: f, Stopping: stopping}}, grpc.NewServer())
		w, ended := &watcher{ctx: t.Context()}, make(chan error)
		go func() { ended <- h.Watch(&healthpb.HealthCheckRequest{}, w) }()
		want := func(all ...healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			synctest.Wait()
			if len(w.sent) != len(all) || w.sent[len(all)-1] != all[len(all)-1] {
				t.Fatalf("told %v, want %v", w.sent, all)
			}
		}
		want(serving)
		<-time.After(10 * watchEvery)
		want(serving)
		f.ready.Store(new(errors.New("down")))
		<-time.After(watchEvery)
		want(serving, notServing)
		f.ready.Store(nil)
		<-time.After(watchEvery)
		want(serving, notServing, serving)
		close(stopping)
		if err := <-ended; status.Code(err) != codes.Unavailable {
			t.Errorf("%v", err)
		}
		want(serving, notServing, serving, notServing)
		ctx, leave := context.WithCancel(t.Context())
		leave()
		h.door.Stopping = nil
		if err := h.Watch(&healthpb.HealthCheckRequest{Service: "nothing"}, &watcher{ctx: ctx}); status.Code(err) != codes.Canceled {
			t.Errorf("%v", err)
		}
	})
}

// TestWatches: nobody needs a token to watch, so not many may at one time.
func TestWatches(t *testing.T) {
	h := newHealth(&door{Config: Config{Gate: &fakeGate{}}}, grpc.NewServer())
	h.watching.Store(maxWatches)
	w := &watcher{ctx: t.Context()}
	if err := h.Watch(&healthpb.HealthCheckRequest{}, w); status.Code(err) != codes.ResourceExhausted || len(w.sent) != 0 || h.watching.Load() != maxWatches {
		t.Errorf("%v, told %v, %d watch", err, w.sent, h.watching.Load())
	}
}

// TestStreamsEndAtStop: a stream on which nobody says anything does not hold up the stop.
func TestStreamsEndAtStop(t *testing.T) {
	stopping := make(chan struct{})
	s := New(Config{Gate: &fakeGate{}, Stopping: stopping})
	stream, err := reflectionpb.NewServerReflectionClient(dial(t, listen(t, s))).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	close(stopping)
	s.GracefulStop() // hangs otherwise
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
}
