package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
)

// listen opens the address of a door. Beyond this machine it must have been
// said that anybody may ask.
func listen(flag, address string, open bool) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(flag, path)
	}
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--%s %s: %w", flag, address, err)
	}
	if !addr.IP.IsLoopback() && !open {
		return nil, fmt.Errorf("--%s %s: other machines could reach it, and anybody who does may ask; say --decision-auth=open if you mean it (tokens are not supported yet)", flag, address)
	}
	l, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--%s %s: %w", flag, address, cause(err))
	}
	return l, nil
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

// cause drops the address that the message has already.
func cause(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Err
	}
	return err
}
