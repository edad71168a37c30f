package records

import (
	"context"
	"time"
)

// Event is something that webhooks are told of, once.
type Event struct {
	// ID is the same whoever notices it.
	ID string
	At time.Time
	// Until is when it can come again: it is remembered as long.
	Until                      time.Time
	Kind, Application, Subject string
	// Body is what they are told, a JSON object.
	Body string
}

// Delivery is an event on its way to a webhook.
type Delivery struct {
	Event
	Webhook string
	// Attempts were made to deliver it, this one included.
	Attempts int
}

// PutEvent puts an event on record, with its deliveries to webhooks, and reports whether
// it is new.
func (d *DB) PutEvent(ctx context.Context, e Event, webhooks []string) (fresh bool, err error) {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer tx.Rollback()
	done, err := tx.ExecContext(ctx, `
		insert into headgate_event (id, at, until, kind, application, subject, body) values ($1, $2, $3, $4, $5, $6, $7) on conflict (id) do nothing`,
		e.ID, micros(e.At), micros(e.Until), e.Kind, e.Application, e.Subject, e.Body)
	if err != nil {
		return false, err
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	for _, w := range webhooks {
		if _, err := tx.ExecContext(ctx, `
			insert into headgate_delivery (event, webhook, attempts, next, delivered, failure) values ($1, $2, 0, $3, 0, '')`, e.ID, w, micros(e.At)); err != nil {
			return false, err
		}
	}
	return true, tx.Commit()
}

// ClaimDelivery takes the delivery that is due for longest to one of the webhooks: nobody
// else gets it before until. The error is [ErrNotFound] where none is due.
func (d *DB) ClaimDelivery(ctx context.Context, webhook string, at, until time.Time) (c Delivery, err error) {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return c, err
	}
	defer tx.Rollback()
	c.Webhook = webhook
	if c.ID, err = one(tx.QueryRowContext(ctx, `
		update headgate_delivery set next = $1, attempts = attempts + 1
		where webhook = $2 and event = (
			select event from headgate_delivery where webhook = $2 and next > 0 and next <= $3 order by next limit 1`+d.skipLocked+`)
		returning event, attempts`, micros(until), webhook, micros(at)), func(row scanner) (id string, err error) {
		return id, row.Scan(&id, &c.Attempts)
	}); err != nil {
		return c, err
	}
	c.Event, err = one(tx.QueryRowContext(ctx, `select id, at, until, kind, application, subject, body from headgate_event where id = $1`, c.ID), scanEvent)
	if err != nil {
		return c, err
	}
	return c, tx.Commit()
}

func scanEvent(row scanner) (e Event, err error) {
	var at, until int64
	err = row.Scan(&e.ID, &at, &until, &e.Kind, &e.Application, &e.Subject, &e.Body)
	e.At, e.Until = instant(at), instant(until)
	return e, err
}

// Delivered ends a delivery, unless another attempt has begun since it was claimed.
func (d *DB) Delivered(ctx context.Context, c *Delivery) error {
	_, err := d.write.ExecContext(ctx, `update headgate_delivery set next = 0, delivered = $1, failure = '' where event = $2 and webhook = $3 and attempts = $4`,
		micros(now()), c.ID, c.Webhook, c.Attempts)
	return err
}

// Undelivered says that an attempt has failed and when the next one is made; zero for
// none any more. It changes nothing where another attempt has begun since.
func (d *DB) Undelivered(ctx context.Context, c *Delivery, failure string, next time.Time) error {
	_, err := d.write.ExecContext(ctx, `update headgate_delivery set next = $1, failure = $2 where event = $3 and webhook = $4 and attempts = $5`,
		micros(next), failure, c.ID, c.Webhook, c.Attempts)
	return err
}
