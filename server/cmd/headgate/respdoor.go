package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/resp"
	"github.com/headgate/headgate/server/records"
)

// respName is what the Redis door is called.
const respName = "resp"

// respService is the door that speaks the Redis protocol.
type respService struct{ *resp.Server }

func (s respService) serve(_ context.Context, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, resp.ErrClosed) {
		return err
	}
	return nil
}

func (s respService) leave(time.Duration) {}

func (s respService) stop(ctx context.Context) error {
	ctx, cancel := lastCalled(ctx)
	defer cancel()
	return s.Shutdown(ctx)
}

func (s respService) close() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Shutdown(ended) // it says that it did not wait
}

// respDoor makes it.
func (h *house) respDoor(l net.Listener) door {
	auth := h.admission(l)
	name, _ := buildVersion()
	c := resp.Config{
		Gate: h.gate, Admit: auth.peers(), Resetting: h.noteReset, Now: h.now(), Decided: h.decidedNamed(respName), Corrected: h.corrected,
		Panicked: h.metrics.Panicked, Logger: h.log, Version: name,
	}
	if h.guard != nil {
		c.Login = func(ctx context.Context, peer, token string) (front.Caller, error) {
			return h.guard.Login(ctx, records.Decide, peer, respName, token)
		}
	}
	server := resp.New(c)
	return h.encrypted(door{name: respName, listener: l, bounded: server, service: respService{server}})
}

// noteReset puts on record that somebody resets a subject at the Redis door: nothing is
// given back that nobody can read about.
func (h *house) noteReset(ctx context.Context, r *resp.Reset) error {
	e := records.Entry{
		Actor: records.Actor{Via: respName, Address: access.Peer(r.Peer)}, Action: "subject.reset",
		Application: r.Application, Subject: r.Subject, Target: strings.Join(r.Limits, " "),
	}
	if i, ok := r.Caller.(*access.Identity); ok {
		e.Name = i.Name
	}
	if e.Target == "" {
		e.Target = "all"
	}
	return h.records.Audit(ctx, e)
}
