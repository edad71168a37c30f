package pgstore

import (
	"context"
	"time"

	"github.com/headgate/headgate/store/cas"
)

// Nodes notes that a node lives and counts those that do; see [cas.Table].
func (t *table) Nodes(ctx context.Context, node [16]byte, ttl time.Duration) (n int, err error) {
	c, err := t.acquire(ctx)
	if err != nil {
		return 0, err
	}
	err = c.QueryRow(ctx, `select headgate_nodes($1, $2, $3)`, node, ttl.Microseconds(), cas.MostLife.Microseconds()).Scan(&n)
	if err == nil {
		release(c, nil)
		return n, nil
	}
	f := diagnose(err, false)
	release(c, f)
	return 0, f
}
