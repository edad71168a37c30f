//go:build !unix

package resp

import (
	"net"
	"syscall"
)

// rawOf returns nil: connections are read by their methods.
func rawOf(net.Conn) syscall.RawConn { return nil }

// read is for connections with a file descriptor to read.
func (c *conn) read(uintptr) bool { panic("resp: no file descriptors here") }
