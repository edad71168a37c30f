package resp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/headgate/headgate/server/front"
)

// conn is a connection. All but its patience is its goroutine's.
type conn struct {
	patience
	s      *Server
	nc     net.Conn
	raw    syscall.RawConn // nil where there is none, as with TLS
	fill   func(fd uintptr) bool
	filled error // by fill
	peer   string
	number uint64

	w    *work  // nil while nothing is read
	some []byte // for reads without a file descriptor
	rest []byte // what a stranger has sent of a command: it gets no work to keep

	// Who asks. caller is nil as long as the client must show a token first, token
	// that which it showed, and checked when that was last looked at, since the
	// server began.
	caller  front.Caller
	token   string
	checked time.Duration

	turn

	resp3 bool
	name  string
	lib   [2]string // name and version of the client's library
	over  bool      // the client is done, or cannot be understood

	// What clocks said for what was read last; 0 before and after a wait. now is the
	// store's, lap the time since the server began, at the end of the last decision.
	now int64
	lap time.Duration

	// The deadlines in force, zero for none.
	readBy, writeBy time.Time
	partial         time.Time // when the rest of a command was first waited for
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{s: s, nc: nc, number: s.numbers.Add(1)}
	if a := nc.RemoteAddr(); a != nil && a.Network() != "unix" {
		c.peer = a.String()
	}
	c.raw = rawOf(nc)
	c.fill = c.read
	c.patience.init(c)
	return c
}

// serve answers commands until the client is done.
func (c *conn) serve() {
	if !c.greet() {
		return
	}
	for c.await() == nil {
		c.check()
		c.answer()
		if err := c.flush(); err != nil || c.over || c.Err() != nil {
			break
		}
		c.keep()
	}
	if c.w != nil {
		c.w.free()
		c.w = nil
	}
	if c.over || c.Err() != nil || c.s.closing.Load() {
		c.part()
	}
}

// A connection that is closed with input that nobody has read takes with it the
// replies that are still under way. So the server first ends what it sends, and
// gives the client until farewell to take them and to close, discarding at most
// maxDiscarded bytes of what it goes on sending.
const (
	farewell     = 250 * time.Millisecond
	maxDiscarded = 4 << 20
)

// part lets the client take its last replies.
func (c *conn) part() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	by := time.Now().Add(farewell)
	for left := int64(maxDiscarded); left > 0; {
		c.nc.SetReadDeadline(by)
		n, err := io.CopyN(io.Discard, c.nc, left)
		left -= n
		// A deadline that has not passed is that of a Shutdown which began meanwhile.
		if err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(by)) {
			return
		}
	}
	time.Sleep(time.Until(by))
}

// greet finds who is there, and does the handshake where there is one.
func (c *conn) greet() bool {
	c.checked = c.uptime()
	c.caller = c.s.Admit(c.peer)
	h, ok := c.nc.(interface{ HandshakeContext(context.Context) error })
	if !ok {
		c.expect(time.Now())
		return true
	}
	ctx, cancel := context.WithTimeout(c.s.life, c.s.LoginTimeout)
	defer cancel()
	err := h.HandshakeContext(ctx)
	c.expect(time.Now())
	return err == nil
}

// uptime is the time since the server began, which is cheaper than the time.
func (c *conn) uptime() time.Duration { return time.Since(c.s.began) }

// later is called where time has passed: clocks are read again.
func (c *conn) later() { c.now, c.lap = 0, 0 }

// expect sets when the next bytes must have come, by what is known at now.
func (c *conn) expect(now time.Time) {
	var by time.Time
	switch {
	case c.caller == nil:
		by = c.s.began.Add(c.checked + c.s.LoginTimeout)
	case c.w != nil:
		if c.partial.IsZero() {
			c.partial = now
		}
		by = c.partial.Add(c.s.SlowTimeout)
	}
	if d := by.Sub(c.readBy); c.readBy.IsZero() == by.IsZero() && d > -time.Second && d < time.Second {
		return // near enough: setting one costs as much as a decision
	}
	c.readBy = by
	c.nc.SetReadDeadline(by)
}

// await reads some input. It gives the work back while there is nothing to read.
func (c *conn) await() error {
	if c.s.closing.Load() {
		return ErrClosed
	}
	c.later()
	err := c.readSome()
	if c.w != nil && c.w.end < len(c.w.in) {
		c.rested() // there was no more
	}
	return err
}

// readSome reads once.
func (c *conn) readSome() error {
	if c.raw == nil {
		return c.readPlain()
	}
	if err := c.raw.Read(c.fill); err != nil {
		return err
	}
	return c.filled
}

// firstRead is how much the first read of a connection brings that has no file
// descriptor to ask: it has to have its buffer while it waits.
const firstRead = 512

// readPlain reads by the methods of any connection.
func (c *conn) readPlain() error {
	if w := c.w; w != nil {
		n, err := c.nc.Read(w.in[w.end:])
		w.end += n
		return errOf(n, err)
	}
	if c.some == nil {
		c.some = make([]byte, firstRead)
	}
	n, err := c.nc.Read(c.some)
	if n > 0 {
		c.begins(n)
		c.w.end += copy(c.w.in[c.w.end:], c.some[:n])
	}
	return errOf(n, err)
}

// begins gets work to read into, with what is there of a command and room for n bytes
// more.
func (c *conn) begins(n int) {
	w := works.Get().(*work)
	for len(w.in) < len(c.rest)+n {
		w.in = append(w.in, make([]byte, len(w.in))...)
	}
	w.end = copy(w.in, c.rest)
	c.w = w
}

// errOf is the error of a read that brought nothing.
func errOf(n int, err error) error {
	if n > 0 {
		return nil
	}
	return err
}

// keep makes room for the rest of a command, and gives the work back if there is
// none, or if nobody knows whose it is.
func (c *conn) keep() {
	w := c.w
	c.rest = nil
	switch {
	case w.at == w.end:
		w.free()
		c.w, c.partial = nil, time.Time{}
	case c.caller == nil:
		c.rest = slices.Clone(w.in[w.at:w.end])
		w.free()
		c.w = nil
	default:
		w.makeRoom()
	}
	if c.w != nil || c.caller == nil || !c.readBy.IsZero() {
		c.expect(time.Now())
	}
}

// makeRoom moves what is left to the front of the buffer, and makes that larger
// if it is full.
func (w *work) makeRoom() {
	if w.at > 0 {
		w.end = copy(w.in, w.in[w.at:w.end])
		w.at = 0
	}
	if w.end == len(w.in) {
		w.in = append(w.in, make([]byte, len(w.in))...)
	}
}

// check asks again who the client is, now and then: its token may have been
// revoked.
func (c *conn) check() {
	if c.caller == nil || c.uptime()-c.checked < time.Second {
		return
	}
	c.identify()
}

// identify finds who the client is by what it has shown.
func (c *conn) identify() {
	c.checked = c.uptime()
	if c.token != "" {
		caller, err := c.s.Login(c, c.peer, c.token)
		c.later()
		if err == nil {
			c.caller = caller
			return
		}
		c.token = ""
	}
	c.caller = c.s.Admit(c.peer)
}

// answer answers all commands that are there.
func (c *conn) answer() {
	w := c.w
	defer c.pass()
	for w.at < w.end && !c.over && c.Err() == nil && c.mayGo() {
		args, bytes := MaxArgs, MaxCommand
		if c.caller == nil {
			args, bytes = maxStrangerArgs, maxStrangerCommand
		}
		complete, err := w.next(args, bytes)
		if err != nil {
			w.out = appendError(w.out, "ERR", "Protocol error: "+err.Error())
			c.over = true
			return
		}
		if !complete {
			return
		}
		c.partial = time.Time{}
		if len(w.args) > 0 {
			c.do(w)
		}
		if len(w.out) > outSize && c.flush() != nil {
			return
		}
	}
}

// flush sends the replies.
func (c *conn) flush() error {
	c.pass()
	w := c.w
	if len(w.out) == 0 {
		return nil
	}
	if now := time.Now(); c.writeBy.Sub(now) < c.s.SlowTimeout {
		c.writeBy = now.Add(c.s.SlowTimeout + time.Second)
		c.nc.SetWriteDeadline(c.writeBy)
	}
	_, err := c.nc.Write(w.out)
	w.out = w.out[:0]
	c.later() // the client may have taken its time
	if err != nil {
		c.over = true
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.s.Logger.Debug("a client does not take its replies", "peer", c.peer)
		}
	}
	return err
}
