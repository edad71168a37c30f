package cas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// swap has the table make the changes. Where it may have made them without our
// hearing of it, it is asked again, as before: it then knows ours by their versions.
// What stands as somebody else wrote it may have been ours before, and nobody knows.
// A change that may have been made in an epoch that is over is not decided again: it
// might be found, or be made twice. The error is that of all parts.
func (l *lane) swap(start time.Time, epoch uint64, parts []part) error {
	var left []int // of the changes, those that the table has said nothing of
	for i := range l.changes {
		if !l.changes[i].Done {
			left = append(left, i)
		}
	}
	if len(left) == 0 {
		return nil
	}
	var m Moment
	asked := false
	err := l.try(&start, func(ctx context.Context) (err error) {
		if asked {
			if left = l.putBack(left, parts); len(left) == 0 {
				return nil
			}
		}
		asked = true
		// The table may write into what it is given, and fail then.
		changes := make([]Change, len(left))
		swaps := make([]Swap, 0, len(l.subjects))
		for j, i := range left {
			from := len(swaps)
			swaps = append(swaps, l.changes[i].Items...)
			changes[j].Items = swaps[from:len(swaps):len(swaps)]
		}
		m, err = l.store.table.Swap(ctx, epoch, changes)
		still, err := l.review(left, changes, err)
		if len(still) < len(left) {
			start = time.Now() // it is busy, and gets on
		}
		left = still
		return err
	})
	if f, ok := errors.AsType[*Failure](err); ok && f.Stale {
		l.store.clock.stale(epoch)
		l.cache.clear()
		for i := range l.changes {
			switch x := &l.changes[i]; {
			case !x.writes():
				x.Done = false // it is as good to look again
			case x.doubt && !x.Done:
				parts[i].err = cmp.Or(parts[i].err, error(&Failure{Kind: f.Kind, Err: fmt.Errorf("whether it was charged is not known: %w", err)}))
			}
		}
		return nil
	}
	if err == nil {
		l.store.clock.confirmed(m)
	}
	for _, i := range left {
		parts[i].err = cmp.Or(parts[i].err, l.changes[i].Err, err)
	}
	for i := range l.changes {
		if x := &l.changes[i]; !x.Done && x.doubt && parts[i].err == nil && x.writes() {
			if x.Done = x.ours(); !x.Done {
				parts[i].err = errUnknown
			}
		}
	}
	return nil
}

// putBack returns the changes left without those that were certainly not made and of
// which a caller has gone: they are decided again for the callers who wait.
func (l *lane) putBack(left []int, parts []part) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(left, func(i int) bool {
		x := &l.changes[i]
		x.again = !x.doubt && slices.ContainsFunc(parts[i].calls, (*call).deserted)
		return x.again
	})
}

// review notes what the table said of the changes left, err being its error. It
// returns those of which it said nothing, and why it is to be asked again.
func (l *lane) review(left []int, changes []Change, err error) (still []int, again error) {
	if f, ok := errors.AsType[*Failure](err); ok && f.Stale {
		for _, i := range left {
			l.changes[i].doubt = l.changes[i].doubt || !f.Unsent
		}
		return left, err
	}
	for j, i := range left {
		x, said := &l.changes[i], &changes[j]
		if x.Err = said.Err; err == nil && said.Err == nil {
			x.Items, x.Done = said.Items, said.Done
			continue
		}
		still = append(still, i)
		why := cmp.Or(said.Err, err)
		if f, ok := errors.AsType[*Failure](why); !ok || !f.Unsent {
			x.doubt = true
		}
		if again == nil || !passing(again) {
			again = why
		}
	}
	return still, again
}

// passing reports whether asking again soon may help.
func passing(err error) bool {
	f, ok := errors.AsType[*Failure](err)
	return ok && f.Passing
}

var errUnknown = &Failure{Kind: "unknown", Err: errors.New("no answer came in time, and others have changed the state since")}

// writes reports whether the change would write anything.
func (x *Change) writes() bool {
	return slices.ContainsFunc(x.Items, func(w Swap) bool { return w.Write })
}

// ours reports whether the items that the table has are those that the change
// writes. One without a value need not be kept.
func (x *Change) ours() bool {
	return !slices.ContainsFunc(x.Items, func(w Swap) bool {
		return w.Write && w.Old.Version != w.New.Version && (w.Old.Version != 0 || len(w.New.Value) > 0)
	})
}

// settle ends the calls of the parts that are done, and notes what the table says
// of the others.
func (l *lane) settle(parts []part) {
	l.calls = l.calls[:0]
	for i := range parts {
		p, x := &parts[i], &l.changes[i]
		switch {
		case p.err != nil:
			for _, k := range p.keys {
				l.cache.drop(k)
			}
			for _, c := range p.calls {
				l.finish(c, p.err)
			}
		case x.Done:
			for _, w := range x.Items {
				if w.Write {
					x := l.subjects[w.New.Key]
					own := x.Owner
					own.Forget(x.at) // as it was written
					if len(w.New.Value) == 0 {
						w.New = Item{Key: w.New.Key} // it was deleted
					}
					l.cache.know(w.New, cached{owner: own})
				}
			}
			for _, c := range p.calls {
				l.finish(c, c.err)
			}
		default:
			for _, w := range x.Items {
				switch k := w.Old.Key; {
				case x.again || l.cache.items[k] == nil:
				case w.Old.Version != 0 && len(w.Old.Value) == 0:
					l.cache.drop(k) // the table does not say what it has
				default:
					l.cache.remember(w.Old).told = l.group
				}
			}
			l.calls = append(l.calls, p.calls...)
		}
	}
	n := len(l.store.lanes)
	l.cache.trim(mostCached/n, mostCachedSize/n)
}
