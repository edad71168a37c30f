package pgstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// certificate makes a certificate of a server at 127.0.0.1 that is its own authority.
func certificate(t testing.TB) (cert, key []byte) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "headgate test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &secret.PublicKey, secret)
	if err != nil {
		t.Fatal(err)
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs})
}

// authority writes a certificate into a file and returns its path.
func authority(t testing.TB, cert []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(path, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A server is believed if its certificate is of the authority that the URL names.
func TestTLS(t *testing.T) {
	cert, key := certificate(t)
	server := pgtest.Standalone(t, pgtest.Options{Config: []string{"ssl=on"}, Files: map[string][]byte{"server.crt": cert, "server.key": key}})
	s := openStore(t, Config{URL: server.URL("sslmode=verify-full", "sslrootcert="+authority(t, cert))})
	if !allowed(t, s, bucket(t, 1)) {
		t.Error("refused")
	}
	if n := server.Int(t, "", `select count(*) from pg_stat_ssl join pg_stat_activity using (pid) where ssl and application_name = 'headgate'`); n == 0 {
		t.Error("no connection is encrypted")
	}
	other, _ := certificate(t)
	expect(t, refused(t, server.URL("sslmode=verify-full", "sslrootcert="+authority(t, other))), "shows a certificate that cannot be trusted", "unknown authority", "sslrootcert")
	expect(t, refused(t, pgtest.Shared(t).URL("sslmode=verify-full", "sslrootcert="+authority(t, cert))), "server refused TLS connection")
}
