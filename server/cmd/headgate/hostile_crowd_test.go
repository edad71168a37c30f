package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// guest is a connection on which nothing is asked, or now and then.
type guest struct {
	net.Conn
	door   string
	framer *http2.Framer // where the door speaks HTTP/2
}

// crowd are many of them at a door.
type crowd []*guest

// filesAllowed is how many files this process may have open. The runtime has raised it
// as far as it may, and does so in the server.
func filesAllowed(t *testing.T) int {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	return int(min(l.Cur, 1<<30))
}

// raced reports whether this binary, and so the server, has the race detector in it,
// which ends a process with more than 8,128 goroutines.
func raced() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// guests connects n times to a door, and returns those that are answered and how many
// are not.
func (s *siege) guests(t *testing.T, door string, n int) (in crowd, refused int) {
	t.Helper()
	var mu sync.Mutex
	var told error
	t.Cleanup(func() { in.leave() })
	var all sync.WaitGroup
	const hands = 16
	for hand := range hands {
		all.Go(func() {
			for range (n + hand) / hands {
				g, err := s.guest(door)
				if err == nil {
					if err = g.ask(); err != nil {
						g.Close()
					}
				}
				mu.Lock()
				if err == nil {
					in = append(in, g)
				} else {
					refused++
					told = err
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if refused > 0 {
		t.Logf("%d of %d are refused: %v", refused, n, told)
	}
	return in, refused
}

func (s *siege) guest(door string) (*guest, error) {
	c, err := net.Dial("tcp", s.at[door])
	if err != nil {
		return nil, err
	}
	g := &guest{Conn: c, door: door}
	if door == "grpc" {
		g.framer = http2.NewFramer(c, c)
		_, err = io.WriteString(c, http2.ClientPreface)
	}
	return g, err
}

// ask says something, and reads the answer.
func (g *guest) ask() error {
	if err := g.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	switch g.door {
	case "resp":
		if _, err := io.WriteString(g, "PING\r\n"); err != nil {
			return err
		}
		const pong = "+PONG\r\n"
		b := make([]byte, len(pong))
		if _, err := io.ReadFull(g, b); err != nil || string(b) != pong {
			return fmt.Errorf("PING: %q, %v", b, err)
		}
	case "http":
		if _, err := io.WriteString(g, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			return err
		}
		r, err := http.ReadResponse(bufio.NewReader(g), nil)
		if err != nil {
			return err
		}
		if b, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK {
			return fmt.Errorf("healthz: %s, %q, %v", r.Status, b, err)
		}
	case "grpc":
		if err := g.framer.WriteSettings(); err != nil {
			return err
		}
		for {
			f, err := g.framer.ReadFrame()
			if err != nil {
				return err
			}
			if s, ok := f.(*http2.SettingsFrame); ok && s.IsAck() {
				return nil
			}
		}
	}
	return nil
}

// still checks that all are answered.
func (w crowd) still(t *testing.T) {
	t.Helper()
	for _, g := range w {
		if err := g.ask(); err != nil {
			t.Fatalf("%s: one of %d idle connections: %v", g.door, len(w), err)
		}
	}
}

func (w crowd) leave() {
	for _, g := range w {
		g.Close()
	}
}

// idles has n idle connections at a door. They stay, and stop nobody.
func (s *siege) idles(t *testing.T, door string, n int) {
	t.Helper()
	w, refused := s.guests(t, door, n)
	if refused > 0 {
		t.Fatalf("%d of %d are refused", refused, n)
	}
	s.others(t, 10)
	w.still(t)
}

// overcrowd connects more often to a door than it has room for: those beyond the bound
// are refused, the others go on.
func (s *siege) overcrowd(t *testing.T, door string) {
	t.Helper()
	const more = 100
	if n := filesAllowed(t); n < hostileDoor+10*more {
		t.Logf("not tried: %d files may be open, raise ulimit -n to %d", n, hostileDoor+10*more)
		return
	}
	if raced() {
		t.Log("not tried: there would be too many goroutines for the race detector")
		return
	}
	w, refused := s.guests(t, door, hostileDoor+more)
	if refused < more || refused > 2*more {
		t.Errorf("%d of %d are refused", refused, hostileDoor+more)
	}
	s.others(t, 10)
	w.still(t)
	w.leave()
	until(t, "there is room again", func() bool {
		g, err := s.guest(door)
		if err == nil {
			defer g.Close()
			err = g.ask()
		}
		return err == nil
	})
}
