package main

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/server/certs"
)

// soonOver is when an operator is told that a certificate will end.
const soonOver = 7 * 24 * time.Hour

// certReloader reads certificates again.
type certReloader struct {
	*certs.Keeper
	log *slog.Logger
	bad atomic.Bool

	mu   sync.Mutex
	said string // the last fault, which each of the files would tell of
}

// openCertificates reads those of the settings; nil where there are none.
func openCertificates(s *settings, log *slog.Logger) (*certReloader, error) {
	if s.tls.Cert == "" {
		return nil, nil
	}
	k, err := certs.Open(s.tls)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	c := &certReloader{Keeper: k, log: log}
	c.remind()
	return c, nil
}

// ok is whether the files had no fault when they were last read.
func (c *certReloader) ok() bool { return !c.bad.Load() }

// reload keeps what is in use if the files are bad, as they are for a moment while one of
// them is new and the other is not.
func (c *certReloader) reload(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, err := c.Reload()
	c.bad.Store(err != nil)
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	known := fault == c.said
	c.said = fault
	switch {
	case err != nil && known:
	case err != nil:
		c.log.Error("certificates not reloaded, the old ones stay in use", "because", why, "error", err)
	case changed:
		c.log.Info("certificates in use", "because", why, "expires", c.Expires().UTC().Format(time.RFC3339))
		c.remind()
	}
}

// remind tells of a certificate that is over, or soon will be.
func (c *certReloader) remind() {
	if left := time.Until(c.Expires()); left < soonOver {
		c.log.Warn("the certificate ends soon, or has ended", "expires", c.Expires().UTC().Format(time.RFC3339))
	}
}

// files are all that are watched.
func (c *certReloader) files(s *settings) []string {
	list := []string{s.tls.Cert, s.tls.Key}
	if s.tls.ClientCA != "" {
		list = append(list, s.tls.ClientCA)
	}
	return list
}
