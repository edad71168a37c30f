package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// check looks after the servers of a pool until ctx ends.
func (p *pool) check(ctx context.Context) {
	var servers sync.WaitGroup
	for _, s := range p.servers {
		servers.Go(func() {
			t := time.NewTicker(p.Health.Interval)
			defer t.Stop()
			for {
				err := p.ask(ctx, s)
				if ctx.Err() != nil {
					return
				}
				p.checked(s, err)
				select {
				case <-ctx.Done():
					return
				case <-t.C:
				}
			}
		})
	}
	servers.Wait()
}

// ask asks a server once how it is.
func (p *pool) ask(ctx context.Context, s *server) error {
	ctx, cancel := context.WithTimeout(ctx, p.Health.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, asking(http.MethodGet)), http.MethodGet, s.scheme+"://"+s.host+p.Health.Path, nil)
	if err != nil {
		return err
	}
	r.Host = p.Host
	r.Header.Set("User-Agent", "headgate")
	res, err := s.transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	io.CopyN(io.Discard, res.Body, 4<<10) // so that the connection can be used again
	if res.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}
