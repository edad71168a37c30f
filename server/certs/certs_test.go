package certs

import (
	"crypto/tls"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/internal/certtest"
)

// rig is files of a server, and a listener that uses them.
type rig struct {
	t     *testing.T
	files Files
	root  *certtest.Authority
	keep  *Keeper
	at    string
}

func (r *rig) write(file string, data []byte) {
	r.t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// serveAs writes a certificate of the server.
func (r *rig) serveAs(name string) {
	cert, key := r.root.Server(r.t, name)
	r.write(r.files.Cert, cert)
	r.write(r.files.Key, key)
}

func newRig(t *testing.T, clients *certtest.Authority) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, root: certtest.New(t, "root"), files: Files{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}}
	if clients != nil {
		r.files.ClientCA = filepath.Join(dir, "ca")
		r.write(r.files.ClientCA, clients.PEM())
	}
	r.serveAs("first")
	var err error
	if r.keep, err = Open(r.files); err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", r.keep.TLS("x"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r.at = l.Addr().String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.WriteString(c, "hello")
				c.Close()
			}()
		}
	}()
	return r
}

// greet connects and returns the name of the server; "" if it sends the client away.
func (r *rig) greet(cert, key []byte) string {
	r.t.Helper()
	c := &tls.Config{RootCAs: r.root.Pool(), NextProtos: []string{"x"}}
	if cert != nil {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			r.t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	conn, err := tls.Dial("tcp", r.at, c)
	if err != nil {
		return ""
	}
	defer conn.Close()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "hello" {
		return ""
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// A renewed certificate is used by the next connection, a broken one never.
func TestReload(t *testing.T) {
	r := newRig(t, nil)
	if got := r.greet(nil, nil); got != "first" {
		t.Fatalf("%q", got)
	}
	if changed, err := r.keep.Reload(); changed || err != nil {
		t.Errorf("unchanged files: %v, %v", changed, err)
	}
	r.serveAs("second")
	if changed, err := r.keep.Reload(); !changed || err != nil {
		t.Errorf("%v, %v", changed, err)
	}
	if got := r.greet(nil, nil); got != "second" {
		t.Errorf("after a renewal %q", got)
	}
	other, _ := r.root.Server(t, "third")
	r.write(r.files.Cert, other) // with the key of the second
	if changed, err := r.keep.Reload(); changed || err == nil || !strings.Contains(err.Error(), r.files.Cert) {
		t.Errorf("a foreign key: %v, %v", changed, err)
	}
	if got := r.greet(nil, nil); got != "second" {
		t.Errorf("after a broken renewal %q", got)
	}
	if left := time.Until(r.keep.Expires()); left <= 0 || left > time.Hour {
		t.Errorf("expires in %v", left)
	}
}

// With roots for clients only those come in whose certificate one of them signed, for
// clients; and roots that have changed count for the next connection.
func TestClientCertificates(t *testing.T) {
	ours, theirs := certtest.New(t, "ours"), certtest.New(t, "theirs")
	r := newRig(t, ours)
	cert, key := ours.Client(t, "client")
	if got := r.greet(cert, key); got != "first" {
		t.Errorf("a client of ours: %q", got)
	}
	if got := r.greet(nil, nil); got != "" {
		t.Error("a client without a certificate came in")
	}
	otherCert, otherKey := theirs.Client(t, "client")
	if got := r.greet(otherCert, otherKey); got != "" {
		t.Error("a client of others came in")
	}
	serverCert, serverKey := ours.Server(t, "server")
	if got := r.greet(serverCert, serverKey); got != "" {
		t.Error("a server came in as a client")
	}
	r.write(r.files.ClientCA, theirs.PEM())
	if changed, err := r.keep.Reload(); !changed || err != nil {
		t.Fatalf("%v, %v", changed, err)
	}
	if got := r.greet(cert, key); got != "" {
		t.Error("a client of roots that are gone came in")
	}
	if got := r.greet(otherCert, otherKey); got != "first" {
		t.Errorf("a client of the new roots: %q", got)
	}
}

func TestOpenFaults(t *testing.T) {
	r := newRig(t, certtest.New(t, "clients"))
	for name, f := range map[string]Files{
		"no such file":   {Cert: r.files.Cert + "x", Key: r.files.Key},
		"with":           {Cert: r.files.Key, Key: r.files.Key},
		"no certificate": {Cert: r.files.Cert, Key: r.files.Key, ClientCA: r.files.Key},
	} {
		if _, err := Open(f); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}
