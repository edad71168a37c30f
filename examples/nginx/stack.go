package main

import (
	"context"
	"embed"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

//go:embed count.lua nginx.conf.tmpl policy.yaml
var files embed.FS

const packages = "nginx-light wrk"

// stack is the site, Headgate, and nginx before both.
type stack struct {
	*stage.Stack
	binary   string // headgate
	url      string // of nginx, without a slash at the end
	site     *site
	headgate *stage.Process
	ports    struct{ Listen, Headgate, Site string }
}

// startStack starts everything and waits until it answers.
func startStack(ctx context.Context, headgate string) (_ *stack, err error) {
	s := &stack{binary: headgate, site: &site{passed: make(map[string]visits)}}
	if s.Stack, err = stage.NewStack(packages, files); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Stop() // what went wrong is in err
		}
	}()
	if s.ports.Site, err = s.Serve(s.site); err != nil {
		return nil, err
	}
	free, err := stage.FreePorts(2)
	if err != nil {
		return nil, err
	}
	s.ports.Listen, s.ports.Headgate = free[0], free[1]
	s.url = "http://" + s.ports.Listen
	if err = s.startHeadgate(ctx); err != nil {
		return nil, err
	}
	_, err = s.Nginx(ctx, s.ports.Listen, s.ports)
	return s, err
}

func (s *stack) startHeadgate(ctx context.Context) (err error) {
	s.headgate, err = s.Headgate(ctx, s.binary, "headgate", s.ports.Headgate)
	return err
}

// site is what nginx protects. It counts the requests that reach it.
type site struct {
	mu     sync.Mutex
	passed map[string]visits // by path and key
}

// visits is how often a client reached the site, and when.
type visits struct {
	n           int
	first, last time.Time
}

// ServeHTTP answers /status/N with that status, and says of any other request
// what came of it.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.record(r.URL.Path + " " + r.Header.Get("X-Api-Key"))
	if status, ok := strings.CutPrefix(r.URL.Path, "/status/"); ok {
		n, err := strconv.Atoi(status)
		if err != nil || n < 200 || n > 599 {
			n = http.StatusNotFound
		}
		w.WriteHeader(n)
		fmt.Fprintln(w, "the site's own answer")
		return
	}
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s, %d bytes\n", r.Method, r.URL.Path, n)
}

func (s *site) record(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.passed[client]
	v.last = time.Now()
	if v.n == 0 {
		v.first = v.last
	}
	v.n++
	s.passed[client] = v
}

func (s *site) visits(path, key string) visits {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passed[path+" "+key]
}
