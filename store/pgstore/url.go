package pgstore

import (
	"cmp"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headgate/headgate/store/pgstore/pgopen"
)

// target is what a URL names.
type target struct {
	pool              *pgxpool.Config
	lenient, unleased bool
}

// sessionSettings are those of every session: what the server does for us is bounded
// and always done in the same way.
var sessionSettings = map[string]string{
	"lock_timeout": lockTime, "statement_timeout": statementTime,
	"default_transaction_isolation": "read committed", "default_transaction_read_only": "off",
	// The statements are those of functions and always the same: rows by their keys.
	// What is planned while a table is small must do when it is large.
	"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
	"enable_bitmapscan": "off", "jit": "off",
}

// Leases reports whether a URL as that of [Config] wants leases over the store:
// true unless its option leases is false. A [Store] itself takes no notice of it. The
// errors are those of [Open] that concern the URL.
func Leases(url string) (bool, error) {
	t, err := parseURL(url)
	if err != nil {
		return false, fmt.Errorf("postgres: %w", err)
	}
	return !t.unleased, nil
}

// parseURL reads a URL as [Config] describes it. No error repeats what may be a
// password.
func parseURL(text string) (*target, error) {
	t := new(target)
	opposite := func(to *bool) func(string) error {
		return func(value string) error {
			b, err := strconv.ParseBool(value)
			if err != nil {
				return fmt.Errorf("must be true or false, not %q", value)
			}
			*to = !b
			return nil
		}
	}
	var err error
	t.pool, err = pgopen.ParseURL(text, map[string]func(string) error{"leases": opposite(&t.unleased), "strict": opposite(&t.lenient)})
	if err != nil {
		return nil, err
	}
	t.pool.MaxConns = cmp.Or(t.pool.MaxConns, lanes+spare)
	t.pool.ConnConfig.AfterConnect = pgopen.Settle(sessionSettings)
	return t, nil
}
