package records

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
)

const tokenColumns = `id, digest, name, scopes, applications, created, author, expires, revoked, seq`

// all stands for all applications.
const all = "*"

func scanToken(row scanner) (t Token, err error) {
	var digest, scopes, applications string
	var created, expires, revoked int64
	if err = row.Scan(&t.ID, &digest, &t.Name, &scopes, &applications, &created, &t.Author, &expires, &revoked, &t.Version); err != nil {
		return t, err
	}
	t.Created, t.Expires, t.Revoked = instant(created), instant(expires), instant(revoked)
	if n, err := hex.Decode(t.Digest[:], []byte(digest)); err != nil || n != len(t.Digest) {
		return t, fmt.Errorf("records: the digest of token %s cannot be read", t.ID)
	}
	for s := range strings.FieldsSeq(scopes) {
		t.Scopes = append(t.Scopes, Scope(s))
	}
	if applications != all {
		t.Applications = strings.Fields(applications)
	}
	return t, nil
}

// CreateToken puts a token on record and returns it with its Created, Author and
// Version. ID and Digest must be new ones.
func (d *DB) CreateToken(ctx context.Context, t Token, e Entry) (Token, error) {
	err := d.change(ctx, e, func(ctx context.Context, c *change) error {
		t.Created, t.Author, t.Version = c.at, e.Name, c.seq
		scopes := make([]string, len(t.Scopes))
		for i, s := range t.Scopes {
			scopes[i] = string(s)
		}
		applications := all
		if t.Applications != nil {
			applications = strings.Join(t.Applications, " ")
		}
		_, err := c.ExecContext(ctx, `
			insert into headgate_token (`+tokenColumns+`) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			t.ID, hex.EncodeToString(t.Digest[:]), t.Name, strings.Join(scopes, " "), applications, micros(t.Created), t.Author,
			micros(t.Expires), micros(t.Revoked), t.Version)
		return err
	})
	return t, err
}

// RevokeToken ends a token at once, and returns it. The error is [ErrNotFound] where
// there is none that lives.
func (d *DB) RevokeToken(ctx context.Context, id string, e Entry) (t Token, err error) {
	err = d.change(ctx, e, func(ctx context.Context, c *change) error {
		t, err = one(c.QueryRowContext(ctx, `
			update headgate_token set revoked = $1, seq = $2 where id = $3 and revoked = 0 returning `+tokenColumns,
			micros(c.at), c.seq, id), scanToken)
		return err
	})
	return t, err
}

// Token returns a token; the error is [ErrNotFound] where there is none.
func (d *DB) Token(ctx context.Context, id string) (Token, error) {
	return one(d.read.QueryRowContext(ctx, `select `+tokenColumns+` from headgate_token where id = $1`, id), scanToken)
}

// Tokens lists tokens by their ids, those that were revoked too, after one; more says
// that there are others behind them.
func (d *DB) Tokens(ctx context.Context, after string, limit int) (list []Token, more bool, err error) {
	list, err = collect(ctx, d.read, scanToken, `select `+tokenColumns+` from headgate_token where id > $1 order by id limit $2`, after, limit+1)
	list, more = page(list, limit)
	return list, more, err
}
