package pgstore

import (
	"context"
	"time"

	"github.com/headgate/headgate/store/cas"
)

// Nodes notes that a node lives and counts those that do; see [cas.Table].
func (t *table) Nodes(ctx context.Context, node [16]byte, ttl time.Duration) (n int, err error) {
	err = t.scan(ctx, &n, `select headgate_nodes($1, $2, $3)`, node, ttl.Microseconds(), cas.MostLife.Microseconds())
	return n, err
}
