package records

import "context"

const modeColumns = `application, rule, shadow, until, author`

func scanMode(row scanner) (m Mode, err error) {
	var until int64
	err = row.Scan(&m.Application, &m.Rule, &m.Shadow, &until, &m.Author)
	m.Until = instant(until)
	return m, err
}

// PutMode puts m in force, in place of one with the same application and rule.
func (d *DB) PutMode(ctx context.Context, m Mode, e Entry) error {
	return d.change(ctx, e, func(ctx context.Context, c *change) error {
		_, err := c.ExecContext(ctx, `
			insert into headgate_mode (`+modeColumns+`, seq) values ($1, $2, $3, $4, $5, $6)
			on conflict (application, rule) do update
			set shadow = excluded.shadow, until = excluded.until, author = excluded.author, seq = excluded.seq`,
			m.Application, m.Rule, m.Shadow, micros(m.Until), e.Name, c.seq)
		return err
	})
}
