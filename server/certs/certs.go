// Package certs holds the certificates of listeners, and reads them again when they are
// renewed.
package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Files are those of a server, in PEM. Cert and Key are required.
type Files struct {
	// Cert is the server's certificate, with those between it and the root behind it, and
	// Key its private key.
	Cert, Key string
	// ClientCA are the roots of the certificates that clients must show; "" asks for none.
	ClientCA string
}

// Keeper holds what was last read of files. It is safe for concurrent use.
type Keeper struct {
	files Files
	mu    sync.Mutex // one reads at a time
	read  atomic.Pointer[content]
}

// content is what files held. It never changes.
type content struct {
	pem     [3][]byte
	pair    tls.Certificate
	clients *x509.CertPool // nil where none are asked
}

// Open reads the files. The error names the one at fault.
func Open(f Files) (*Keeper, error) {
	k := &Keeper{files: f}
	_, err := k.Reload()
	return k, err
}

// Reload reads the files again, and reports whether they have changed. With an error what
// was read before stays in use.
func (k *Keeper) Reload() (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var next content
	for i, file := range []string{k.files.Cert, k.files.Key, k.files.ClientCA} {
		if file == "" {
			continue
		}
		if next.pem[i], err = os.ReadFile(file); err != nil {
			return false, err
		}
	}
	if old := k.read.Load(); old != nil && bytes.Equal(next.pem[0], old.pem[0]) && bytes.Equal(next.pem[1], old.pem[1]) && bytes.Equal(next.pem[2], old.pem[2]) {
		return false, nil
	}
	if next.pair, err = tls.X509KeyPair(next.pem[0], next.pem[1]); err != nil {
		return false, fmt.Errorf("%s with %s: %w", k.files.Cert, k.files.Key, err)
	}
	if k.files.ClientCA != "" {
		next.clients = x509.NewCertPool()
		if !next.clients.AppendCertsFromPEM(next.pem[2]) {
			return false, fmt.Errorf("%s: holds no certificate in PEM", k.files.ClientCA)
		}
	}
	k.read.Store(&next)
	return true, nil
}

// Expires returns when the server's certificate ends.
func (k *Keeper) Expires() time.Time { return k.read.Load().pair.Leaf.NotAfter }

// TLS returns a configuration for a listener, whose connections get what was last read.
// protocols are those of ALPN, the first that both sides know; none for no ALPN.
func (k *Keeper) TLS(protocols ...string) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &k.read.Load().pair, nil
		},
	}
	if k.files.ClientCA == "" {
		return c
	}
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = k.verify
	// A session that is resumed was let in by roots that may not be ours any more.
	c.SessionTicketsDisabled = true
	return c
}

// verify holds a client's certificate to the roots that were last read.
func (k *Keeper) verify(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("a client certificate is needed")
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: k.read.Load().clients, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}
