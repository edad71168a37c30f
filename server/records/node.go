package records

import (
	"context"
	"time"
)

// Node is a server that uses the records.
type Node struct {
	Name          string
	Started, Seen time.Time
	// Detail is a JSON object of what it says of itself.
	Detail string
}

// nodeLife is how long a node is listed that is heard of no more.
const nodeLife = 24 * time.Hour

// PutNode puts on record that a node is there, now.
func (d *DB) PutNode(ctx context.Context, n Node) error {
	_, err := d.write.ExecContext(ctx, `
		insert into headgate_node (name, started, seen, detail) values ($1, $2, $3, $4)
		on conflict (name) do update set started = excluded.started, seen = excluded.seen, detail = excluded.detail`,
		n.Name, micros(n.Started), micros(now()), n.Detail)
	return err
}

// DeleteNode forgets a node that has ended.
func (d *DB) DeleteNode(ctx context.Context, name string) error {
	_, err := d.write.ExecContext(ctx, `delete from headgate_node where name = $1`, name)
	return err
}

// Nodes lists the nodes that were heard of lately, by name.
func (d *DB) Nodes(ctx context.Context) ([]Node, error) {
	return collect(ctx, d.read, func(row scanner) (n Node, err error) {
		var started, seen int64
		err = row.Scan(&n.Name, &started, &seen, &n.Detail)
		n.Started, n.Seen = instant(started), instant(seen)
		return n, err
	}, `select name, started, seen, detail from headgate_node where seen > $1 order by name limit $2`, micros(now().Add(-nodeLife)), MaxPage)
}
