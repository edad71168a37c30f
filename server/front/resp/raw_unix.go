//go:build unix

package resp

import (
	"io"
	"net"
	"syscall"
)

// rawOf returns the file descriptor of a connection, nil if it has none.
func rawOf(nc net.Conn) syscall.RawConn {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// read reads what is there, and reports false if that is nothing. So the work is
// needed only where there is something, without asking twice.
func (c *conn) read(fd uintptr) bool {
	fresh := c.w == nil
	if fresh {
		c.begins(1)
	}
	w := c.w
	for {
		n, err := syscall.Read(int(fd), w.in[w.end:])
		switch {
		case n > 0:
			w.end += n
			c.filled = nil
			return true
		case err == nil:
			c.filled = io.EOF
			return true
		case err == syscall.EAGAIN:
			if fresh {
				c.w = nil
				w.free()
			}
			return false
		case err != syscall.EINTR:
			c.filled = err
			return true
		}
	}
}
