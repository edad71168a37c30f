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
			for at := time.Now(); ; {
				p.checkedNext(s, at.Add(p.Health.Interval))
				err := p.ask(ctx, s)
				if ctx.Err() != nil {
					return
				}
				p.checked(s, err)
				select {
				case <-ctx.Done():
					return
				case at = <-t.C:
				}
			}
		})
	}
	servers.Wait()
}

// checkedNext notes when a server is looked at again.
func (p *pool) checkedNext(s *server, at time.Time) {
	p.mu.Lock()
	s.checkAt = at
	p.mu.Unlock()
}

// nextCheck is the time until a check looks at one of the servers. ok is false where there
// are no checks, or a server is up: then nobody knows when it answers again.
func (p *pool) nextCheck(now time.Time) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var first time.Time
	for _, s := range p.servers {
		if s.checkAt.IsZero() || !s.down && s.backoff == 0 {
			return 0, false
		}
		if first.IsZero() || s.checkAt.Before(first) {
			first = s.checkAt
		}
	}
	return first.Sub(now), true
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
