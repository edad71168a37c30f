package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/headgate/headgate/gate/envoy"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/envoyrls"
	"github.com/headgate/headgate/server/front/grpcapi"
	"github.com/headgate/headgate/server/observe"
	"github.com/headgate/headgate/server/records"
)

// grpcService is the door that speaks gRPC.
type grpcService struct {
	*grpc.Server
	stopping chan struct{} // closed when the server is about to stop
	once     sync.Once
}

func (s *grpcService) serve(_ context.Context, l net.Listener) error { return s.Serve(l) }

func (s *grpcService) leave(time.Duration) {}

func (s *grpcService) stop(ctx context.Context) error {
	ctx, cancel := lastCalled(ctx)
	defer cancel()
	s.once.Do(func() { close(s.stopping) })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.GracefulStop()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		s.Stop()
		<-ended
		return ctx.Err()
	}
}

func (s *grpcService) close() { s.Stop() }

// grpcDoor makes it, with Envoy's service beside ours.
func (h *house) grpcDoor(l net.Listener) door {
	s := &grpcService{stopping: make(chan struct{})}
	c := grpcapi.Config{
		Gate: h.gate, Admit: h.admission(l).calls(), Register: h.envoy("envoy").Register, Now: h.now(), Stopping: s.stopping,
		Decided: h.decidedNamed("grpc"), Corrected: h.corrected, Panicked: h.metrics.Panicked, Logger: h.log,
	}
	if h.certs != nil && l.Addr().Network() != "unix" {
		c.TLS = h.certs.TLS("h2")
	}
	s.Server = grpcapi.New(c)
	return door{name: "grpc", listener: l, service: s}
}

// envoy makes the door that Envoy asks; name is what metrics call it.
func (h *house) envoy(name string) *envoyrls.Service {
	c := envoyrls.Config{
		Gate: h.gate, Now: h.now(), Decided: h.decided(name), Corrected: h.corrected, Panicked: h.metrics.Panicked, Logger: h.log,
		Counted: func(application, label string, n envoyrls.Counts) {
			h.metrics.EnvoyHit(application, label, observe.EnvoyHits(n))
		},
		Headers: h.settings.envoyOptions.headers, DynamicMetadata: h.settings.envoyOptions.metadata, AfterTheFact: h.settings.envoyOptions.afterTheFact,
	}
	if h.backend.embedded != nil {
		c.Patience = diskPatience
	}
	if h.settings.envoy != "" {
		c.UnknownDomain, c.Unnamed = envoyrls.AnswerOK, envoy.Unnamed
	}
	return envoyrls.New(c)
}

// calls is how the gRPC door asks who it is, as decisions is.
func (a admission) calls() func(ctx context.Context, peer, token string) (front.Caller, error) {
	if a.guard == nil {
		return nil
	}
	return func(ctx context.Context, peer, token string) (front.Caller, error) {
		if (token == "" || !a.guard.Ours(token)) && a.free(peer) {
			return front.Anybody{}, nil
		}
		if token == "" {
			return nil, grpcapi.Unauthenticated("a token is needed: send one that headgate token create has made as metadata, authorization: Bearer TOKEN")
		}
		i, err := a.guard.Login(ctx, records.Decide, peer, "grpc", token)
		if err == nil {
			return i, nil
		}
		if many, ok := errors.AsType[*access.TooMany](err); ok {
			return nil, grpcapi.TooMany(many.Error(), many.After)
		}
		if errors.Is(err, access.ErrScope) {
			return nil, grpcapi.Forbidden(err.Error())
		}
		return nil, grpcapi.Unauthenticated(err.Error())
	}
}

// peers is how the Redis door asks who is behind a connection without a token.
func (a admission) peers() func(peer string) front.Caller {
	if a.guard == nil || a.open {
		return nil
	}
	return func(peer string) front.Caller {
		if a.guard.Allowed(peer) {
			return front.Anybody{}
		}
		return nil
	}
}
