package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// listen opens the address of a door.
func listen(flag, address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(flag, path)
	}
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--%s %s: %w", flag, address, err)
	}
	network := "tcp"
	if addr.IP.To4() != nil { // 0.0.0.0 is all of IPv4, and nothing else
		network = "tcp4"
	}
	l, err := net.ListenTCP(network, addr)
	if err != nil {
		return nil, fmt.Errorf("--%s %s: %w", flag, address, cause(err))
	}
	return l, nil
}

// onThisMachine is whether only this machine can reach an address.
func onThisMachine(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// listenUnix also replaces the socket of a server that was killed: one to
// which nobody answers.
func listenUnix(flag, path string) (net.Listener, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("--%s unix:%s: there is a file that is no socket", flag, path)
	case err == nil:
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("--%s unix:%s: another server listens there", flag, path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("--%s unix:%s: remove the socket of a dead server: %w", flag, path, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("--%s unix:%s: %w", flag, path, cause(err))
	}
	// The proxy in front runs as another user. Loopback is open to every user
	// of the machine too; whoever wants less chooses the directory.
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("--%s unix:%s: %w", flag, path, err)
	}
	return l, nil
}

// cause drops the address that the message has already, and names what to do.
func cause(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e.Err
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program listens there; end it, or name another address", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: this machine does not have that address; name one that it has", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: this user must not listen there; name a port above 1023, or another directory", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: make the directory of the socket first", err)
	}
	return err
}
