package inlet

import (
	"cmp"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/internal/ratefield"
)

// Items appends to items what clients are told of the limits of d, the tightest first:
// of those that are the subject's own, as the budget of others is none of its business,
// and not in shadow mode. It allocates nothing where items has room for all limits of d,
// at most [headgate.MaxCharges].
func Items(items []ratefield.Item, d *gate.Decision) []ratefield.Item {
	limits := d.Limits()
	for i := range limits {
		if l := &limits[i]; l.Owner == "subject" && !l.Shadow {
			items = append(items, ratefield.From(l.ID, cmp.Or(l.Share, l.Limit), &l.Outcome))
		}
	}
	return ratefield.Tightest(items)
}
