package webproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/headgate/headgate/examples/stage"
)

// Stack is a site, Headgate, and the proxy before both.
type Stack struct {
	*stage.Stack
	URL      string         // of the proxy, without a slash at the end
	Listen   string         // its address
	Asked    string         // the address of Headgate
	Headgate *stage.Process // the one that was started last

	example Example
	binary  string // headgate
	site    site
}

// Start starts everything and waits until it answers.
func (e Example) Start(ctx context.Context, headgate string) (_ *Stack, err error) {
	s := &Stack{example: e, binary: headgate, site: site{passed: make(map[string]int)}}
	if s.Stack, err = stage.NewStack(e.Command[0], e.Files); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Stop() // what went wrong is in err
		}
	}()
	site, err := s.Serve(&s.site)
	if err != nil {
		return nil, err
	}
	free, err := stage.FreePorts(2)
	if err != nil {
		return nil, err
	}
	s.URL, s.Listen, s.Asked = "http://"+free[0], free[0], free[1]
	if err = s.StartHeadgate(ctx); err != nil {
		return nil, err
	}
	return s, s.startProxy(ctx, site)
}

// StartHeadgate starts one with the state of that before.
func (s *Stack) StartHeadgate(ctx context.Context) (err error) {
	s.Headgate, err = s.Stack.Headgate(ctx, s.binary, "headgate", s.Asked)
	return err
}

func (s *Stack) startProxy(ctx context.Context, site string) error {
	name := s.example.Command[0]
	program, err := stage.Find(name, name)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return err
	}
	env := []string{"-C", s.Dir}
	if t := s.example.Timeout; t != "" {
		env = append(env, "TIMEOUT="+t)
	}
	args := append(append(env, "LISTEN="+s.Listen, "PORT="+port, "HEADGATE="+s.Asked, "SITE="+site,
		"XDG_CONFIG_HOME="+s.Dir, "XDG_DATA_HOME="+s.Dir, program), s.example.Command[1:]...)
	p, err := s.Stack.Start(ctx, name, func() bool { return stage.Listens(s.Listen) }, "env", args...)
	if p != nil {
		p.BySignal = s.example.BySignal
	}
	return err
}

// Visits returns how many requests of a client reached the site.
func (s *Stack) Visits(client string) int {
	s.site.mu.Lock()
	defer s.site.mu.Unlock()
	return s.site.passed[client]
}

// site is what the proxy protects. It counts the requests that reach it.
type site struct {
	mu     sync.Mutex
	passed map[string]int // by client
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	lines := r.Header["X-Forwarded-For"]
	s.mu.Lock()
	s.passed[lines[len(lines)-1]]++ // what the proxy adds stands last
	s.mu.Unlock()
	fmt.Fprintf(w, "%s %s, %d bytes\n", r.Method, r.URL.Path, n)
}
