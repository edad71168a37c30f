package proxy

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"sync"
)

// upgraded is an upstream's end of a WebSocket.
type upgraded struct {
	io.ReadWriteCloser
	x      *exchange
	frames frames // on their way to the client

	mu      sync.Mutex
	leaving bool // the client is to be told to go
	told    bool
}

// Hijack hands the client's connection over.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := a.x.control.Hijack()
	if err == nil {
		a.x.mu.Lock()
		a.x.user = conn
		a.x.mu.Unlock()
	}
	return conn, buf, err
}

// goingAway is the frame that ends a WebSocket: close, status 1001 (RFC 6455, 5.5.1).
var goingAway = []byte{0x88, 2, 0x03, 0xE9}

// Read also says goodbye, between two frames, where the connection is to end.
func (u *upgraded) Read(p []byte) (int, error) {
	n, err := u.ReadWriteCloser.Read(p)
	u.frames.pass(p[:n])
	if n > 0 {
		u.x.arm()
		return n, nil // the error comes again
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case err == nil || !u.leaving:
		return n, err
	case u.told || !u.frames.between() || len(p) < len(goingAway):
		return 0, io.EOF
	}
	u.told = true
	return copy(p, goingAway), nil
}

func (u *upgraded) Write(p []byte) (int, error) {
	n, err := u.ReadWriteCloser.Write(p)
	u.x.arm()
	return n, err
}

// CloseWrite ends what is sent to the upstream: the client sends no more.
func (u *upgraded) CloseWrite() error {
	u.x.mu.Lock()
	u.x.left = true
	u.x.armLocked()
	u.x.mu.Unlock()
	if w, ok := u.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return http.ErrNotSupported
}

// leave ends it; the client is told.
func (u *upgraded) leave() {
	u.mu.Lock()
	u.leaving = true
	u.mu.Unlock()
	u.ReadWriteCloser.Close()
}

// frames knows where in a stream of WebSocket frames it stands (RFC 6455, 5.2).
type frames struct {
	header [14]byte
	n      int    // bytes of header
	rest   uint64 // bytes of payload to come
}

// between is whether no frame has begun.
func (f *frames) between() bool { return f.n == 0 && f.rest == 0 }

func (f *frames) pass(p []byte) {
	for len(p) > 0 {
		if f.rest > 0 {
			n := min(f.rest, uint64(len(p)))
			f.rest -= n
			p = p[n:]
			continue
		}
		f.header[f.n] = p[0]
		f.n++
		p = p[1:]
		if f.n < 2 || f.n < f.size() {
			continue
		}
		switch n := f.header[1] & 0x7f; n {
		case 126:
			f.rest = uint64(binary.BigEndian.Uint16(f.header[2:]))
		case 127:
			f.rest = binary.BigEndian.Uint64(f.header[2:])
		default:
			f.rest = uint64(n)
		}
		f.n = 0
	}
}

// size is that of the header, of which two bytes are there.
func (f *frames) size() int {
	size := 2
	switch f.header[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if f.header[1]&0x80 != 0 { // a mask
		size += 4
	}
	return size
}
