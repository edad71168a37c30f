package redistest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Error is an error that the server answered.
type Error string

// Error returns the server's words.
func (e Error) Error() string { return string(e) }

// conn is a connection of the tests' own, which speaks RESP2.
type conn struct {
	net.Conn
	r *bufio.Reader
}

// dial connects and logs in where password is not empty.
func dial(addr, user, password string, secure *tls.Config) (*conn, error) {
	var nc net.Conn
	var err error
	d := &net.Dialer{Timeout: 2 * time.Second}
	if secure != nil {
		nc, err = tls.DialWithDialer(d, "tcp", addr, secure)
	} else {
		nc, err = d.Dial("tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	c := &conn{nc, bufio.NewReader(nc)}
	if password == "" {
		return c, nil
	}
	if _, err := c.do("AUTH", user, password); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// do sends one command and returns its reply: a string, an int64, a []any or nil.
func (c *conn) do(args ...string) (any, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, b.String()); err != nil {
		return nil, err
	}
	return c.reply()
}

func (c *conn) reply() (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return nil, errors.New("an empty line for a reply")
	}
	switch line[0] {
	case '+':
		return line[1:], nil
	case '-':
		return nil, Error(line[1:])
	case ':':
		return strconv.ParseInt(line[1:], 10, 64)
	}
	n, err := strconv.Atoi(line[1:])
	switch {
	case err != nil:
		return nil, err
	case n < 0:
		return nil, nil
	case line[0] == '$':
		data := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, data); err != nil {
			return nil, err
		}
		return string(data[:n]), nil
	case line[0] != '*':
		return nil, fmt.Errorf("unknown reply %q", line)
	}
	all := make([]any, n)
	for i := range all {
		if all[i], err = c.reply(); err != nil {
			refusal, ok := errors.AsType[Error](err)
			if !ok {
				return nil, err
			}
			all[i] = refusal
		}
	}
	return all, nil
}
