package pgopen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that have a meaning here.
const (
	stateWrongPassword = "28P01" // or it is missing
	stateNoDatabase    = "3D000"
	stateNoTable       = "42P01"
	stateNoRight       = "42501"
)

// ErrStandby says that the server takes no writes.
var ErrStandby = errors.New("the server is a standby")

// errNoSchema says that no schema of the search path is there, or none may be used.
var errNoSchema = errors.New("there is no schema to keep the tables in")

// tableError says that a table is gone, or lacks a right.
type tableError struct {
	name string
	gone bool
}

func (e *tableError) Error() string {
	if e.gone {
		return fmt.Sprintf("table %q is gone: restore it, or name a new schema in search_path, which begins with nothing", e.name)
	}
	return "permission denied for table " + e.name
}

// versionError says that the server is too old.
type versionError struct{ version int }

func (e *versionError) Error() string {
	return fmt.Sprintf("the server is PostgreSQL %d: must be %d or later", e.version/10000, oldest)
}

// newerError says that the tables are those of a newer program.
type newerError struct{ found, known int64 }

func (e *newerError) Error() string {
	return fmt.Sprintf("the tables have version %d, and this program knows only %d: it is older than one that has used the database; start a newer one", e.found, e.known)
}

// ErrPasswordWanted is what [Prepare] wraps where the server wants a password and the
// URL has none.
var ErrPasswordWanted = errors.New("the URL has no password")

// addresses lists the servers that a URL names.
func addresses(c *pgx.ConnConfig) []string {
	all := []string{net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	for _, f := range c.Fallbacks { // with TLS and without, a server is there twice
		if a := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port))); !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// Place names servers and database in messages.
func Place(c *pgx.ConnConfig) string {
	return fmt.Sprintf("%s, database %q", strings.Join(addresses(c), ", "), c.Database)
}

// Explain puts an error of opening a database into one sentence.
func Explain(c *pgx.ConnConfig, err error) error {
	at := Place(c)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		_, connecting := errors.AsType[*pgconn.ConnectError](err)
		return explainAnswer(c, at, e, connecting)
	}
	if e, ok := errors.AsType[*newerError](err); ok {
		return fmt.Errorf("%s: %w", at, e)
	}
	if e, ok := errors.AsType[*tableError](err); ok && e.gone {
		return fmt.Errorf("%s: %w", at, e)
	} else if ok {
		return lacking(c, at, e.Error())
	}
	if e, ok := errors.AsType[*versionError](err); ok {
		return fmt.Errorf("%s: %w", at, e)
	}
	if errors.Is(err, ErrStandby) {
		return fmt.Errorf("%s: %w, or still recovers: name the primary, or all servers as in HOST,HOST", at, ErrStandby)
	}
	if errors.Is(err, errNoSchema) {
		return fmt.Errorf("%s: %w: create the one that search_path names, and let user %q use it", at, errNoSchema, c.User)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return fmt.Errorf("cannot connect to %s: %w", at, e)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("cannot connect to %s: %w", at, e)
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%s shows a certificate that cannot be trusted: %w: sslrootcert is to name the file of its authority", at, e.Err)
	}
	if errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) {
		return fmt.Errorf("%s did not answer in time", at)
	}
	if e, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		err = e.Unwrap() // its own words repeat where
	}
	return fmt.Errorf("cannot use %s: %s", at, strings.Join(strings.Fields(err.Error()), " "))
}

// explainAnswer explains what the server answered, connecting or later.
func explainAnswer(c *pgx.ConnConfig, at string, e *pgconn.PgError, connecting bool) error {
	switch {
	case e.Code == stateWrongPassword && c.Password == "":
		return fmt.Errorf("%s does not let user %q in: %w: write it into the URL, postgres://USER:PASSWORD@HOST/DATABASE", at, c.User, ErrPasswordWanted)
	case strings.HasPrefix(e.Code, "28"):
		return fmt.Errorf("%s does not let user %q in: %s", at, c.User, e.Message)
	case e.Code == stateNoDatabase:
		return fmt.Errorf("%s: there is no such database: create it, or name another one", at)
	case e.Code == stateNoRight && connecting:
		return fmt.Errorf("%s: user %q lacks a right: %s", at, c.User, e.Message)
	case e.Code == stateNoRight:
		return lacking(c, at, e.Message)
	default:
		return fmt.Errorf("cannot use %s: %s (SQLSTATE %s)", at, e.Message, e.Code)
	}
}

func lacking(c *pgx.ConnConfig, at, what string) error {
	return fmt.Errorf("%s: user %q lacks a right: %s: it needs usage and create on the schema to create the tables, and once they are there usage, and select, insert, update and delete on them", at, c.User, what)
}
