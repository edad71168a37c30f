package admin

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// TokenFile is the name of the token's file in the data directory.
const TokenFile = "admin-token"

const (
	tokenPrefix = "hga_"
	tokenBytes  = 32
	// minToken and maxToken bound a token of the operator's choice, in bytes: a
	// short one could be found by trying.
	minToken, maxToken = 32, 512
)

// OpenToken returns the admin token of a data directory. At the first start it
// makes the directory, for its owner only, and the token; of several servers
// that start at once one does. Errors say what to do.
func OpenToken(dir string) (token string, created bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if to, link := os.Readlink(dir); link == nil && errors.Is(err, fs.ErrExist) {
			return "", false, fmt.Errorf("data directory: it is a symbolic link to %s, which is not there", to)
		}
		return "", false, fmt.Errorf("data directory: %w", err)
	}
	file := filepath.Join(dir, TokenFile)
	token, err = readPrivate(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, false, err
	}
	switch err := writeToken(dir, file); {
	case errors.Is(err, fs.ErrExist):
	case err != nil:
		return "", false, fmt.Errorf("data directory: %w", err)
	default:
		created = true
	}
	token, err = readPrivate(file)
	return token, created, err
}

// readPrivate reads a token that nobody else can read.
func readPrivate(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file", file)
	case info.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("%s may be read or written by others (mode %04o): remove it to get a new token at the next start, or chmod 600 it if nobody has", file, info.Mode().Perm())
	}
	return readToken(f, file)
}

// ReadToken reads a token from a file, whoever may read it.
func ReadToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return readToken(f, file)
}

func readToken(r io.Reader, file string) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxToken+2))
	if err != nil {
		return "", err
	}
	token := strings.TrimRight(string(data), "\r\n")
	if err := CheckToken(token); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return token, nil
}

// CheckToken says what is wrong with a token that somebody chose, without
// repeating it.
func CheckToken(token string) error {
	if n := len(token); n < minToken || n > maxToken {
		return fmt.Errorf("a token of %d bytes: must be %d to %d", n, minToken, maxToken)
	}
	for i := 0; i < len(token); i++ {
		if c := token[i]; c <= ' ' || c > '~' {
			return errors.New("a token must be of printable ASCII characters, without spaces")
		}
	}
	return nil
}

// writeToken makes a token and puts it in place whole, unless there is a file
// already.
func writeToken(dir, file string) error {
	f, err := os.CreateTemp(dir, TokenFile+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	secret := make([]byte, tokenBytes)
	rand.Read(secret) // never fails
	_, err = f.WriteString(tokenPrefix + base64.RawURLEncoding.EncodeToString(secret) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), file)
}
