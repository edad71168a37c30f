package grpclimit

import (
	"context"
	"sync"

	"google.golang.org/grpc/metadata"

	"github.com/headgate/headgate/middleware/grpclimit/answer"
)

// serverStream tells of the limits with the first message and charges those
// that come in. When one is refused the stream is over: nothing is received or sent any
// more, and the context of the handler ends.
type serverStream struct {
	answer.Stream
	server *Server
	call   Call
	plan   plan
	key    string
	ctx    context.Context
	end    context.CancelCauseFunc // of ctx

	mu      sync.Mutex
	refused error // the status that ends the stream
}

// Context implements grpc.ServerStream.
func (w *serverStream) Context() context.Context { return w.ctx }

// RecvMsg implements grpc.ServerStream.
func (w *serverStream) RecvMsg(m any) error {
	if w.server.config.MessageCost == nil {
		return w.ServerStream.RecvMsg(m)
	}
	if err := w.refusal(); err != nil {
		return err
	}
	if err := w.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	err := w.charge(m)
	if err != nil {
		w.mu.Lock()
		w.refused = err
		w.mu.Unlock()
		w.end(err)
	}
	return err
}

// SendMsg implements grpc.ServerStream.
func (w *serverStream) SendMsg(m any) error {
	if err := w.refusal(); err != nil {
		return err
	}
	return w.Stream.SendMsg(m)
}

// charge decides a message and waits for its delay. The error is a status.
func (w *serverStream) charge(m any) error {
	s, c, md := w.server, w.call, metadata.MD{}
	c.Message = m
	st := states.Get().(*state)
	d, err := w.plan.Decide(c.Context, &st.batch, w.key, s.config.MessageCost(c))
	if err == nil && !d.Allowed {
		st.describe(md, s.styles)
	}
	err = s.answer(c, st, d, err, md)
	states.Put(st)
	if err == nil {
		return sleep(c.Context, d.Delay)
	}
	w.Refuse(md)
	return err
}

func (w *serverStream) refusal() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused
}

// finish returns the status of a stream whose handler returned err.
func (w *serverStream) finish(err error) error {
	if refused := w.refusal(); refused != nil {
		err = refused
	}
	w.Tell(err)
	return err
}
