package main

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/internal/certtest"
)

// papers is a directory with the certificates of a server.
type papers struct {
	t    *testing.T
	dir  string
	root *certtest.Authority
}

func (p *papers) write(name string, data []byte) string {
	p.t.Helper()
	file := filepath.Join(p.dir, name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return file
}

// serveAs writes a certificate of that name.
func (p *papers) serveAs(name string) {
	cert, key := p.root.Server(p.t, name)
	p.write("cert.pem", cert)
	p.write("key.pem", key)
}

func newPapers(t *testing.T) *papers {
	t.Helper()
	p := &papers{t: t, dir: t.TempDir(), root: certtest.New(t, "root")}
	p.serveAs("first")
	p.write("ca.pem", p.root.PEM())
	return p
}

// config writes a configuration with more lines under tls.
func (p *papers) config(more string) string {
	return p.write("config.yaml", []byte("version: 1\ntls:\n  cert: "+filepath.Join(p.dir, "cert.pem")+"\n  key: "+filepath.Join(p.dir, "key.pem")+"\n"+more))
}

// nameAt is the name of the certificate of a server.
func (p *papers) nameAt(address string) string {
	p.t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: p.root.Pool()})
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// ask runs a verb, and returns its exit code and what it wrote.
func ask(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	code := run(t.Context(), args, &out, &out)
	return code, out.String()
}

// TestTLS: every listener on the network speaks TLS, one on a unix socket does not; the
// verbs come in by --ca, and are told when they knock in the wrong way; a renewed
// certificate is used without a restart.
func TestTLS(t *testing.T) {
	p := newPapers(t)
	s := startServe(t, "--http", "127.0.0.1:0", "--store", "memory", "--config", p.config(""))
	at := s.address(t)
	ca := filepath.Join(p.dir, "ca.pem")
	if code, out := ask(t, "take", "default", "x", "alice", "--server", "https://"+at, "--ca", ca); code != exitDone || !strings.Contains(out, "allowed") {
		t.Errorf("by TLS: %d %s", code, out)
	}
	for what, args := range map[string][]string{
		"speaks TLS: say https://":                   {"--server", at},
		"certificate signed by unknown authority":    {"--server", "https://" + at},
		"--ca: there is no file":                     {"--server", "https://" + at, "--ca", ca + "x"},
		"--cert and --key go together":               {"--server", "https://" + at, "--cert", ca},
		"holds no certificate in PEM":                {"--server", "https://" + at, "--ca", filepath.Join(p.dir, "key.pem")},
		"does not speak TLS: leave out the https://": {"--server", "https://" + plainServer(t)},
	} {
		if code, out := ask(t, append([]string{"take", "default", "x", "alice"}, args...)...); code == exitDone || !strings.Contains(out, what) {
			t.Errorf("%v: %d %s, want %q", args, code, out, what)
		}
	}
	if got := p.nameAt(at); got != "first" {
		t.Errorf("at first %q", got)
	}
	p.serveAs("second")
	s.await(t, `msg="certificates in use"`)
	if got := p.nameAt(at); got != "second" {
		t.Errorf("after the renewal %q", got)
	}
	p.write("cert.pem", []byte("nothing"))
	s.await(t, `msg="certificates not reloaded, the old ones stay in use"`)
	if got := p.nameAt(at); got != "second" {
		t.Errorf("after a broken renewal %q", got)
	}
	s.stop(t)
}

// plainServer is where a server without TLS listens.
func plainServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// TestMutualTLS: with client_ca nobody comes in without a certificate that it signs.
func TestMutualTLS(t *testing.T) {
	p := newPapers(t)
	s := startServe(t, "--http", "127.0.0.1:0", "--store", "memory", "--config", p.config("  client_ca: "+filepath.Join(p.dir, "ca.pem")+"\n"))
	at := s.address(t)
	cert, key := p.root.Client(t, "ops")
	said := []string{"take", "default", "x", "alice", "--server", "https://" + at, "--ca", filepath.Join(p.dir, "ca.pem")}
	if code, out := ask(t, said...); code == exitDone || !strings.Contains(out, "certificate required") {
		t.Errorf("without a certificate: %d %s", code, out)
	}
	if code, out := ask(t, append(said, "--cert", p.write("ops.pem", cert), "--key", p.write("ops.key", key))...); code != exitDone {
		t.Errorf("with one: %d %s", code, out)
	}
	s.stop(t)
}

// A socket of this machine needs no TLS.
func TestTLSNotOnSockets(t *testing.T) {
	p := newPapers(t)
	socket := "unix:" + filepath.Join(p.dir, "s")
	s := startServe(t, "--http", socket, "--store", "memory", "--config", p.config(""))
	s.address(t)
	if code, out := ask(t, "take", "default", "x", "alice", "--server", socket); code != exitDone {
		t.Errorf("%d %s", code, out)
	}
	s.stop(t)
}

func TestTLSFaults(t *testing.T) {
	p := newPapers(t)
	p.write("key.pem", []byte("x"))
	code, out := ask(t, "serve", "--data", filepath.Join(p.dir, "data"), "--http", "127.0.0.1:0", "--config", p.config(""))
	if code != exitCouldNot || !strings.Contains(out, "tls: "+filepath.Join(p.dir, "cert.pem")) {
		t.Errorf("%d %s", code, out)
	}
}
