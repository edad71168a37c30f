package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// exchange is what a peer says, and all that it is answered before the connection is
// closed.
type exchange struct{ name, say, answer string }

// attack says it at a door. Where a peer says more than the server reads, the answer can
// be lost on the way: lost permits that.
func (x exchange) attack(door string, lost bool) attack {
	return attack{door: door, name: x.name, run: func(s *siege) error {
		c, err := s.dial(door, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		go io.WriteString(c, x.say) // the server may read not all of it
		got, err := io.ReadAll(c)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%w, answered %q", errOpen, got)
		case lost && len(got) == 0:
			return nil
		case !strings.HasPrefix(string(got), x.answer) || x.answer == "" && len(got) > 0:
			return fmt.Errorf("answered %q, %v, want %q", got, err, x.answer)
		}
		return nil
	}}
}

// respAttacks are those at the Redis door.
func respAttacks() []attack {
	const sorry = "-ERR Protocol error: "
	list := []attack{
		exchange{"many words", "*2\r\n$4\r\nECHO\r\n$70000\r\n" + strings.Repeat("x", 70_000), sorry + "invalid bulk length: a command has at most 65536 bytes\r\n"}.attack("resp", true),
		exchange{"an endless line", strings.Repeat("x", 80_000), sorry + "too big inline request\r\n"}.attack("resp", true),
		{door: "resp", name: "a command that stops", within: 12 * time.Second, run: func(s *siege) error {
			return s.drip("resp", 12*time.Second, "*5\r\n$11\r\nCL.THROT", "", "")
		}},
		{door: "resp", name: "a byte at a time", within: 12 * time.Second, run: func(s *siege) error {
			return s.drip("resp", 12*time.Second, "*2\r\n$4\r\nECHO\r\n$60000\r\n", "x", "")
		}},
		{door: "resp", name: "a line, a byte at a time", within: 12 * time.Second, run: func(s *siege) error {
			return s.drip("resp", 12*time.Second, "ECHO ", "x", "")
		}},
		{door: "resp", name: "replies that nobody reads", within: 20 * time.Second, run: func(s *siege) error {
			return s.unread("resp", 20*time.Second, "HG.TAKE a x hostile\r\n")
		}},
		{door: "resp", name: "come and go", flood: true, run: func(s *siege) error { return s.comeAndGo("resp", "*3\r\n$7\r\nHG.TA") }},
		{door: "resp", name: "a pipeline of errors", flood: true, run: respErrors},
	}
	for _, x := range []exchange{
		{"oversized bulk", "*2\r\n$4\r\nECHO\r\n$70000\r\n", sorry + "invalid bulk length: a command has at most 65536 bytes\r\n"},
		{"bulk of a gigabyte", "*2\r\n$4\r\nECHO\r\n$1073741824\r\n", sorry + "invalid bulk length\r\n"},
		{"bulks that are too large together", "*3\r\n$4\r\nECHO\r\n$65000\r\n" + strings.Repeat("x", 65_000) + "\r\n$1000\r\n", sorry + "invalid bulk length: a command has at most 65536 bytes\r\n"},
		{"a million arguments", "*1000000\r\n", sorry + "invalid multibulk length: 1000000 arguments are more than 256\r\n"},
		{"a number beyond numbers", "*99999999999999999999\r\n", sorry + "invalid multibulk length\r\n"},
		{"no number", "*abc\r\n", sorry + "invalid multibulk length\r\n"},
		{"negative bulk", "*1\r\n$-5\r\n", sorry + "invalid bulk length"},
		{"a number for a bulk", "*1\r\n:1\r\n", sorry + "expected '$', got ':'\r\n"},
		{"array in array", "*1\r\n*1\r\n$4\r\nPING\r\n", sorry + "expected '$', got '*'\r\n"},
		{"bulk that is longer", "*1\r\n$4\r\nPINGPING\r\n", sorry + "an argument is not as long as it was said to be\r\n"},
		{"open quotes", "ECHO \"x\r\n", sorry + "unbalanced quotes in request\r\n"},
		{"words for numbers", "CL.THROTTLE k one 1 1\r\nQUIT\r\n", "-Cell error: Couldn't parse as integer: one\r\n+OK\r\n"},
		{"bytes that are no text", "HG.TAKE a x \"\\xff\"\r\nQUIT\r\n", "-ERR argument 3 is not UTF-8\r\n+OK\r\n"},
		{"nobody's command", "FLUSHALL\r\nQUIT\r\n", "-ERR unknown command \"FLUSHALL\"\r\n+OK\r\n"},
		{"GET of HTTP", "GET /v1/take HTTP/1.1\r\nHost: localhost\r\n\r\n", "-ERR unknown command \"GET\""},
		{"POST of HTTP", "POST /v1/take HTTP/1.1\r\nHost: localhost\r\n\r\nHG.TAKE a x hostile\r\n", ""},
		{"a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nQUIT\r\n", "-ERR unknown command \"PRI\""},
		{"hello of TLS", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\nQUIT\r\n", "-ERR unknown command"},
	} {
		list = append(list, x.attack("resp", false))
	}
	return list
}

// respErrors asks for nothing in ten thousand ways, reads all answers, and is as welcome
// as before.
func respErrors(s *siege) error {
	c, err := s.dial("resp", patience)
	if err != nil {
		return err
	}
	defer c.Close()
	const n = 10_000
	go io.WriteString(c, strings.Repeat("*2\r\n$4\r\nNONE\r\n$1\r\n\x00\r\n", n)+"PING\r\n")
	in := bufio.NewReader(c)
	for i := range n + 1 {
		line, err := in.ReadString('\n')
		if want := "-ERR unknown command \"NONE\""; err != nil || i < n && !strings.HasPrefix(line, want) || i == n && line != "+PONG\r\n" {
			return fmt.Errorf("reply %d: %q, %v", i, line, err)
		}
	}
	return nil
}

// drip says first, then more every 50 ms, and returns when the server has closed the
// connection, within the time, with the answer.
func (s *siege) drip(door string, within time.Duration, first, more, answer string) error {
	c, err := s.dial(door, within)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, first); err != nil {
		return err
	}
	ended := make(chan struct{})
	defer func() { <-ended }()
	go func() {
		defer close(ended)
		if more == "" {
			return
		}
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(c, more); err != nil {
				return
			}
		}
	}()
	got, err := io.ReadAll(c)
	c.Close()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w, answered %q", errOpen, got)
	}
	if !strings.Contains(string(got), answer) || answer == "" && len(got) > 0 {
		return fmt.Errorf("answered %q, %v, want %q", got, err, answer)
	}
	return nil
}

// unread asks a gigabyte of times and reads nothing: the server stops reading, and then
// closes the connection.
func (s *siege) unread(door string, within time.Duration, ask string) error {
	c, err := s.dial(door, within)
	if err != nil {
		return err
	}
	defer c.Close()
	batch := []byte(strings.Repeat(ask, 64<<10/len(ask)))
	for sent := 0; sent < 1<<30; {
		n, err := c.Write(batch)
		sent += n
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%w, it has taken %d bytes", errOpen, sent)
		case err != nil && sent > 64<<20:
			return fmt.Errorf("the server has taken %d bytes", sent)
		case err != nil:
			return nil
		}
	}
	return errors.New("the server has taken a gigabyte")
}

// comeAndGo connects a thousand times and leaves, at once or in the midst of a sentence,
// with a goodbye or without.
func (s *siege) comeAndGo(door, sentence string) error {
	for i := range 1000 {
		c, err := s.dial(door, patience)
		if err != nil {
			return err
		}
		if i%2 == 0 {
			io.WriteString(c, sentence)
		}
		if i%4 < 2 {
			c.(*net.TCPConn).SetLinger(0)
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}
