// Package resp is the door that speaks the Redis protocol: it parses commands,
// asks the gate and writes its decisions as replies. What one read brings is
// decided at one instant and answered with one write, unless a command of it waits
// in line.
//
// A connection has one goroutine. It holds buffers and a decision only while
// there is something to answer: one that waits for its client holds a stack and
// a few hundred bytes. The strings of a request are views of the read buffer,
// which is why nothing behind the gate may keep them.
package resp

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
)

// Bounds of a command. One that exceeds them ends its connection, as where the
// next one would begin is anybody's guess.
const (
	// MaxArgs is the largest number of arguments, and MaxCommand that of the
	// bytes of all of them.
	MaxArgs    = 256
	MaxCommand = 64 << 10
	// Before a client has said who it is.
	maxStrangerArgs    = 10
	maxStrangerCommand = 16 << 10
)

// decider is what the door needs of a gate.
type decider interface {
	Take(context.Context, *gate.Request, *gate.Decision) error
	Peek(context.Context, *gate.Request, *gate.Decision) error
	Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error
	Settle(context.Context, *gate.Claim, *gate.Decision) error
	Renew(context.Context, *gate.Claim, *gate.Decision) error
	Release(context.Context, *gate.Claim, *gate.Decision) error
	Throttle(context.Context, *gate.Throttle, *gate.Decision) error
	Reset(ctx context.Context, application, subject string, match func(*gate.LimitState) bool) (*gate.SubjectState, error)
}

// Reset is what HG.RESET asks for.
type Reset struct {
	// Caller asks, from the address Peer.
	Caller front.Caller
	Peer   string
	// Application and Subject say whose budgets they are; Limits are the ids of
	// those, nil for all but bans.
	Application, Subject string
	Limits               []string
}

// Config is what a door is made of. Gate is required.
type Config struct {
	Gate decider
	// Admit finds who is behind a connection that has shown no token; nil is
	// somebody who must show one. A nil func lets everybody ask about everything.
	// peer is as in Login.
	Admit func(peer string) front.Caller
	// Login finds whose token it is. peer is the HOST:PORT of the connection, ""
	// on a unix socket. The text of its error is told to the client. It must count
	// wrong tokens. nil for a door that knows no tokens.
	//
	// Both are asked again each second in which a client asks something, so that
	// what was revoked ends.
	Login func(ctx context.Context, peer, token string) (front.Caller, error)
	// Resetting is called before a subject's budgets are reset; its error keeps
	// them as they are. It must not keep what the strings of r point to. nil lets
	// all be reset, without a note. The subject of r is one that there could be.
	Resetting func(ctx context.Context, r *Reset) error
	// Now reads the store's own clock, if that is the process's: see
	// [headgate.Clock]. Commands that came with one read are decided at one
	// reading, but for those that may wait in line, and at another one behind such
	// a wait. nil lets the store read its clock for each.
	Now func() int64
	// Decided is called after each decision that may have charged, with the
	// time it took until its reply was written down, without that in line. It
	// must keep neither d nor what its strings point to. nil for nobody.
	Decided func(d *gate.Decision, took time.Duration)
	// Corrected is called after each settlement, renewal or release, as Decided.
	Corrected func(d *gate.Decision)
	// Panicked is called after a panic has ended a connection. nil for nobody.
	Panicked func()
	// Logger takes what is not told to clients; nil discards it.
	Logger *slog.Logger

	// Version is told to clients that ask; "" is "dev".
	Version string
	// MaxConns is the number of connections at one time; 0 is [front.MaxConns].
	// One too many is told so, and closed.
	MaxConns int
	// LoginTimeout is how long a client may take to show its token, and a TLS
	// handshake; 0 is 10 s.
	LoginTimeout time.Duration
	// SlowTimeout is how long the rest of a command may take to arrive, and
	// replies to be taken; 0 is 10 s.
	SlowTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Corrected == nil {
		c.Corrected = func(*gate.Decision) {}
	}
	if c.Panicked == nil {
		c.Panicked = func() {}
	}
	if c.Admit == nil {
		c.Admit = func(string) front.Caller { return front.Anybody{} }
	}
	c.Version = cmp.Or(c.Version, "dev")
	c.MaxConns = cmp.Or(c.MaxConns, front.MaxConns)
	c.LoginTimeout = cmp.Or(c.LoginTimeout, 10*time.Second)
	c.SlowTimeout = cmp.Or(c.SlowTimeout, 10*time.Second)
	return c
}

// work is everything that the commands of a connection need while they are
// answered, used again for other connections.
type work struct {
	// in holds what was read and not answered yet: in[at:end].
	in      []byte
	at, end int
	scanned int      // bytes from at of an inline command without a line end
	args    []string // of the present command: views of in
	out     []byte   // replies to be sent

	ask
	throttle gate.Throttle
	d        gate.Decision
	place    placeText
	texts    [headgate.MaxCharges]limitText
}

// inSize is what a read brings at most, but for the rest of a larger command;
// outSize is how much of replies is gathered before they are sent.
const (
	inSize  = 16 << 10
	outSize = 32 << 10
	// keptOut is the largest buffer for replies that is used again.
	keptOut = 64 << 10
)

var works = sync.Pool{New: func() any {
	return &work{in: make([]byte, inSize), args: make([]string, 0, 16), out: make([]byte, 0, 4<<10)}
}}

// free returns the work for use by others.
func (w *work) free() {
	w.at, w.end, w.scanned, w.out = 0, 0, 0, w.out[:0]
	if len(w.in) > inSize || cap(w.out) > keptOut {
		return // many of them would be kept for nothing
	}
	works.Put(w)
}
