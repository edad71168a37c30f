package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/cobra"
)

// trust is whom a verb takes for the server, and who it says that it is itself.
type trust struct {
	ca        string // file of the roots, "" for those of the machine
	cert, key string // files of the certificate that is shown, "" for none
}

// addTrustFlags declares the flags of TLS.
func addTrustFlags(cmd *cobra.Command) func() trust {
	flag := func(name, usage string) func() string {
		said := cmd.Flags().String(name, "", usage+" ["+envName(name)+"]")
		return func() string { return cmp.Or(*said, os.Getenv(envName(name))) }
	}
	ca := flag("ca", "`FILE` of the certificates that sign the server's (default: those that this machine trusts)")
	cert := flag("cert", "`FILE` of the certificate to show to a server that asks for one")
	key := flag("key", "`FILE` of its private key")
	return func() trust { return trust{ca(), cert(), key()} }
}

// client returns a client that trusts so.
func (t trust) client() (*http.Client, error) {
	if t == (trust{}) {
		return http.DefaultClient, nil
	}
	c := new(tls.Config)
	if t.ca != "" {
		pem, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca %s: holds no certificate in PEM", t.ca)
		}
	}
	switch {
	case (t.cert == "") != (t.key == ""):
		return nil, usageError{errors.New("--cert and --key go together")}
	case t.cert != "":
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf("--cert %s, --key %s: %w", t.cert, t.key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = c
	return &http.Client{Transport: transport}, nil
}
