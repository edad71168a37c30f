package records

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// AuditQuery says which entries a list has. The zero value of a field asks for nothing
// in particular.
type AuditQuery struct {
	Application, Subject string
	// Actor and Action are exact; an Action that ends in a dot is how it begins.
	Actor, Action string
	Since         time.Time
	// Before is the ID before which the list begins.
	Before int64
	// Limit is how many there are at most, 1 to [MaxPage].
	Limit int
}

func scanEntry(row scanner) (e Entry, err error) {
	var at int64
	err = row.Scan(&e.ID, &at, &e.Name, &e.Via, &e.Address, &e.Action, &e.Application, &e.Subject, &e.Target, &e.Refused, &e.Detail)
	e.At = instant(at)
	return e, err
}

// Audits lists entries, the newest first. more says that there are earlier ones.
func (d *DB) Audits(ctx context.Context, q AuditQuery) (list []Entry, more bool, err error) {
	var where []string
	var args []any
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf("%s $%d", condition, len(args)))
	}
	if q.Application != "" {
		add("application =", q.Application)
	}
	if q.Subject != "" {
		add("subject =", q.Subject)
	}
	if q.Actor != "" {
		add("actor =", q.Actor)
	}
	if family := strings.HasSuffix(q.Action, "."); family {
		add("action >", q.Action)
		add("action <", beyond(q.Action))
	} else if q.Action != "" {
		add("action =", q.Action)
	}
	if !q.Since.IsZero() {
		add("at >=", micros(q.Since))
	}
	if q.Before != 0 {
		add("id <", q.Before)
	}
	query := `select id, at, actor, via, address, action, application, subject, target, refused, detail from headgate_audit`
	if len(where) > 0 {
		query += " where " + strings.Join(where, " and ")
	}
	args = append(args, q.Limit+1)
	list, err = collect(ctx, d.read, scanEntry, query+fmt.Sprintf(" order by id desc limit $%d", len(args)), args...)
	list, more = page(list, q.Limit)
	return list, more, err
}
