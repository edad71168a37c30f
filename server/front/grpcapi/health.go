package grpcapi

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	// watchEvery is how often calls that watch look whether something has changed.
	watchEvery = time.Second
	// maxWatches bounds the calls that watch at one time: nobody needs a token for it.
	maxWatches = 1000
)

// health tells whether the gate can decide. All services are as healthy as it is.
type health struct {
	healthpb.UnimplementedHealthServer
	door     *door
	server   *grpc.Server
	watching atomic.Int64
}

func newHealth(d *door, s *grpc.Server) *health { return &health{door: d, server: s} }

// status is that of a service, which exists if known.
func (h *health) status(service string) (s healthpb.HealthCheckResponse_ServingStatus, known bool) {
	if service != "" {
		if _, known := h.server.GetServiceInfo()[service]; !known {
			return healthpb.HealthCheckResponse_SERVICE_UNKNOWN, false
		}
	}
	if h.stopping() || h.door.Gate.Ready() != nil {
		return healthpb.HealthCheckResponse_NOT_SERVING, true
	}
	return healthpb.HealthCheckResponse_SERVING, true
}

func (h *health) stopping() bool {
	select {
	case <-h.door.Stopping:
		return true
	default:
		return false
	}
}

// Check answers for one service, or for all if it is "".
func (h *health) Check(_ context.Context, in *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s, known := h.status(in.Service)
	if !known {
		return nil, status.Errorf(codes.NotFound, "service %.64q is not here", in.Service)
	}
	return &healthpb.HealthCheckResponse{Status: s}, nil
}

// List answers for every service.
func (h *health) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	all := &healthpb.HealthListResponse{Statuses: make(map[string]*healthpb.HealthCheckResponse)}
	for name := range h.server.GetServiceInfo() {
		s, _ := h.status(name)
		all.Statuses[name] = &healthpb.HealthCheckResponse{Status: s}
	}
	return all, nil
}

// Watch answers now and whenever the answer changes, until the server stops.
func (h *health) Watch(in *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	if h.watching.Add(1) > maxWatches {
		h.watching.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "%d calls watch already: use Check", maxWatches)
	}
	defer h.watching.Add(-1)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := healthpb.HealthCheckResponse_UNKNOWN
	for {
		if s, _ := h.status(in.Service); s != last {
			last = s
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: s}); err != nil {
				return err
			}
		}
		if h.stopping() {
			return status.Error(codes.Unavailable, "the server is stopping")
		}
		select {
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-h.door.Stopping:
		case <-tick.C:
		}
	}
}
