package grpcapi

import (
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/front"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// admit finds who calls. The error is a status.
func (d *door) admit(ctx context.Context) (front.Caller, error) {
	if d.Admit == nil {
		return front.Anybody{}, nil
	}
	from := ""
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	token, err := tokenOf(ctx)
	if err != nil {
		return nil, err
	}
	c, err := d.Admit(ctx, from, token)
	if err != nil {
		if broken(err) {
			d.log("admit", err)
		}
		return nil, statusOf(err)
	}
	return c, nil
}

// tokenOf returns the token that a call shows: in authorization, as Bearer, or in
// headgate-token, where a proxy on the way has a use for authorization.
func tokenOf(ctx context.Context) (string, error) {
	said, own := metadata.ValueFromIncomingContext(ctx, "authorization"), metadata.ValueFromIncomingContext(ctx, "headgate-token")
	switch {
	case len(own) > 1 || len(own) == 0 && len(said) > 1:
		return "", Unauthenticated("more than one token was sent")
	case len(own) == 1:
		return own[0], nil
	case len(said) == 0:
		return "", nil
	}
	scheme, token, ok := strings.Cut(said[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", Unauthenticated("authorization must be: Bearer TOKEN")
	}
	return strings.TrimSpace(token), nil
}

// open reports whether a method is for everybody: balancers ask for health without a
// token.
func open(method string) bool {
	return strings.HasPrefix(method, "/"+healthpb.Health_ServiceDesc.ServiceName+"/")
}

// admitting registers other services than the door's own, whose calls it admits before their
// messages are read, and whose panics it answers. An interceptor would come after them.
type admitting struct {
	*grpc.Server
	d *door
}

// RegisterService makes a service one of the server's.
func (s admitting) RegisterService(desc *grpc.ServiceDesc, service any) {
	own := *desc
	own.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		name := "/" + desc.ServiceName + "/" + m.MethodName
		own.Methods[i].Handler = func(service any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (out any, err error) {
			defer s.d.linger(ctx)
			defer func() {
				if p := recover(); p != nil {
					out, err = nil, s.d.panicked(name, p, debug.Stack())
				}
			}()
			if !open(name) {
				c, err := s.d.admit(ctx)
				if err != nil {
					return nil, err
				}
				ctx = front.With(ctx, c)
			}
			return m.Handler(service, ctx, read, nil)
		}
	}
	s.Server.RegisterService(&own, service)
}

// stream does for streams what admitting does for calls. Those of health end by themselves at a stop,
// after a last word.
func (d *door) stream(service any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	defer d.linger(s.Context())
	method := info.FullMethod
	return d.recovered(method, func() error {
		if open(method) {
			return next(service, s)
		}
		c, err := d.admit(s.Context())
		if err != nil {
			return err
		}
		return d.untilStop(func() error {
			return d.recovered(method, func() error { return next(service, &admitted{s, front.With(s.Context(), c)}) })
		})
	})
}

// recovered is what serve returns, or the error of its panic.
func (d *door) recovered(method string, serve func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = d.panicked(method, p, debug.Stack())
		}
	}()
	return serve()
}

// untilStop ends a stream when the server is about to stop: its client may not mean to
// say anything any more.
func (d *door) untilStop(serve func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- serve() }()
	select {
	case err := <-ended:
		return err
	case <-d.Stopping:
		return statusOf(errStopping)
	}
}

var errStopping = &headgate.Error{Code: headgate.Closed, Err: errors.New("the server is stopping")}

// admitted is a stream whose caller is known.
type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context with the caller.
func (a *admitted) Context() context.Context { return a.ctx }

// linger keeps the place of a call that its client has given up, among those of its
// connection, for resetPause. The client would be asking without end otherwise, while it
// waits for nothing: the calls of others, which come less densely, are read late then.
func (d *door) linger(ctx context.Context) {
	if ctx.Err() == nil || !linkedTo(ctx) {
		return
	}
	timer := time.NewTimer(resetPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.Stopping:
	}
}
