package grpcapi

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/certtest"
)

// certify makes a certificate for 127.0.0.1 and the pool that believes it.
func certify(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	root := certtest.New(t, "root")
	pair, err := tls.X509KeyPair(root.Server(t, "server"))
	if err != nil {
		t.Fatal(err)
	}
	return pair, root.Pool()
}

// TestTLS: with TLS, also where the certificate is found for each connection, plain
// connections get no answer.
func TestTLS(t *testing.T) {
	certificate, pool := certify(t)
	fixed := &tls.Config{Certificates: []tls.Certificate{certificate}}
	for name, config := range map[string]*tls.Config{
		"fixed":    fixed,
		"reloaded": {GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return fixed, nil }},
	} {
		target := listen(t, New(Config{Gate: &fakeGate{}, TLS: config}))
		o := client.Options{Timeout: 10 * time.Second, TLS: &tls.Config{RootCAs: pool}}
		var d gate.Decision
		if err := newClient(t, target, o).Take(t.Context(), &gate.Request{}, &d); err != nil || !d.Allowed {
			t.Errorf("%s: %v", name, err)
		}
		o.TLS, d = nil, gate.Decision{}
		if err := newClient(t, target, o).Take(t.Context(), &gate.Request{}, &d); headgate.CodeOf(err) != headgate.Unavailable || d.Allowed {
			t.Errorf("%s, a plain connection: %v", name, err)
		}
	}
}
