package dynamostore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/cas"
)

// table is the service's table as package cas wants it.
type table struct {
	db      *dynamodb.Client
	name    string
	log     *slog.Logger
	lenient bool
	skew    *skew // nil where nobody minds

	shaking chan struct{} // has room for one handshake
	mu      sync.Mutex
	known   incarnation // the newest that was met
	seen    time.Time   // when it was last known to be the present one; zero if it may not be
}

var _ cas.Table = (*table)(nil)

// epochLife is how long an incarnation that was seen is believed without another
// look. A table cannot be deleted and made again in less.
const epochLife = time.Second

// Read fills in items; see [cas.Table].
func (t *table) Read(ctx context.Context, items []cas.Item) (cas.Moment, error) {
	for range 2 {
		known, due, err := t.present(ctx)
		if err != nil {
			return cas.Moment{}, unsent(err)
		}
		due = due || len(items) == 0
		found, err := t.fetch(ctx, items, due)
		if err != nil {
			return cas.Moment{}, unsent(t.diagnose(err))
		}
		if !due || found.same(known) {
			if f := t.clock(); f != nil {
				return cas.Moment{}, f
			}
			return t.moment(known), nil
		}
	}
	return cas.Moment{}, unsent(errNoEpoch)
}

var errNoEpoch = errors.New("dynamodb: the table is emptied, or made anew, all the time")

// unsent says that an error is one of a question that only reads.
func unsent(err error) error {
	f := *diagnose(err)
	f.Unsent = true
	return &f
}

// moment is the present one, as far as the node's clock may be believed: what is once
// told cannot be taken back.
func (t *table) moment(i incarnation) cas.Moment {
	now := time.Now()
	m := cas.Moment{Now: now.UnixMicro(), Epoch: headgate.Epoch{ID: i.id, Since: i.since}}
	if t.skew != nil {
		m.Now = t.skew.ahead(m.Now, t.skew.mono(now)).believed(m.Now)
	}
	return m
}

// clock returns why the node's clock is of no use, if it is.
func (t *table) clock() *cas.Failure {
	if t.skew == nil {
		return nil
	}
	return t.skew.now().check()
}

// diagnose says what an error means, and forgets what the service says is not there.
func (t *table) diagnose(err error) *cas.Failure {
	if isCode(err, codeNoTable) {
		t.forget()
	}
	return diagnose(err)
}

// mostKeys is how many items one question may be for.
const mostKeys = 100

// fetch fills in items, and finds the incarnation if told to.
func (t *table) fetch(ctx context.Context, items []cas.Item, epoch bool) (found incarnation, err error) {
	start := time.Now()
	at := make(map[string]int, len(items))
	var keys []attributes
	if epoch {
		keys = append(keys, keyOf([]byte(epochKey)))
	}
	for i := range items {
		k := items[i].Key
		at[string(k[:])] = i
		items[i] = cas.Item{Key: k}
		keys = append(keys, keyOf(k[:]))
	}
	for len(keys) > 0 {
		n := min(len(keys), mostKeys)
		answer, left, err := t.ask(ctx, keys[:n])
		if err != nil {
			return found, err
		}
		keys = append(left, keys[n:]...)
		for _, a := range answer {
			r := reader{a: a}
			key := string(r.bytes(attrKey))
			if key == epochKey {
				if found, err = readIncarnation(a); err != nil {
					return found, err
				}
				continue
			}
			i := at[key]
			if items[i], err = decode(items[i].Key, a); err != nil {
				return found, err
			}
		}
	}
	if epoch {
		t.meet(found, start)
	}
	return found, nil
}

// ask reads the items with the keys. left are those that the service had no time
// for.
func (t *table) ask(ctx context.Context, keys []attributes) (answer, left []attributes, err error) {
	if len(keys) == 1 {
		one, err := t.db.GetItem(ctx, &dynamodb.GetItemInput{TableName: &t.name, Key: keys[0], ConsistentRead: aws.Bool(true)})
		if err != nil || len(one.Item) == 0 {
			return nil, nil, err
		}
		return []attributes{one.Item}, nil, nil
	}
	many, err := t.db.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{
		RequestItems: map[string]types.KeysAndAttributes{t.name: {Keys: keys, ConsistentRead: aws.Bool(true)}},
	})
	if err != nil {
		return nil, nil, err
	}
	if left = many.UnprocessedKeys[t.name].Keys; len(left) == len(keys) {
		return nil, nil, &cas.Failure{Kind: "throttled", Unsent: true, Passing: true, Err: errors.New("dynamodb: the service has no capacity to read")}
	}
	return many.Responses[t.name], left, nil
}

// Swap makes changes; see [cas.Table]. Each is of one item. Whether the incarnation is
// still that of epoch is asked beside, where that is due: nobody waits for it, and what
// was written when it turns out to be another one is not known to be decided.
func (t *table) Swap(ctx context.Context, epoch uint64, changes []cas.Change) (cas.Moment, error) {
	known, due, err := t.present(ctx)
	if err != nil {
		return cas.Moment{}, unsent(err)
	}
	if f := t.clock(); f != nil {
		// What its next answer says may be better.
		if _, err := t.fetch(ctx, nil, true); err != nil {
			return cas.Moment{}, unsent(t.diagnose(err))
		}
		if f = t.clock(); f != nil {
			return cas.Moment{}, f
		}
	}
	if known.id != epoch {
		return cas.Moment{}, errStale
	}
	var checks []*cas.Change
	var work sync.WaitGroup
	for i := range changes {
		x := &changes[i]
		switch {
		case len(x.Items) == 0:
			x.Done = true
		case !x.Items[0].Write:
			checks = append(checks, x)
		default:
			work.Go(func() { t.put(ctx, x) })
		}
	}
	if len(checks) > 0 || due {
		if err = t.check(ctx, checks, due); err != nil {
			err = t.diagnose(err)
		}
	}
	work.Wait()
	if now, seen := t.last(); now.id != epoch || due && err == nil && seen.IsZero() {
		return cas.Moment{}, after(changes, errStale)
	}
	if err != nil {
		return cas.Moment{}, after(changes, err)
	}
	return t.moment(known), nil
}

// after says that a failure came when some of the changes may have been made.
func after(changes []cas.Change, err error) error {
	f := *diagnose(err)
	f.Unsent = f.Unsent && !slices.ContainsFunc(changes, func(x cas.Change) bool {
		if len(x.Items) == 0 || !x.Items[0].Write {
			return false
		}
		if x.Err == nil {
			return x.Done
		}
		f, ok := errors.AsType[*cas.Failure](x.Err)
		return !ok || !f.Unsent
	})
	return &f
}

var errStale = &cas.Failure{Kind: "epoch", Unsent: true, Stale: true, Err: errors.New("dynamodb: the table is another one")}

// check finds whether items stand as they were found, and, if that is due, the
// incarnation. The error is that nothing is known of the latter.
func (t *table) check(ctx context.Context, checks []*cas.Change, due bool) error {
	items := make([]cas.Item, len(checks))
	for i, x := range checks {
		items[i].Key = x.Items[0].Old.Key
	}
	_, err := t.fetch(ctx, items, due)
	for i, x := range checks {
		if err != nil {
			x.Err = unsent(t.diagnose(err))
			continue
		}
		x.Err = nil
		if x.Done = items[i].Version == x.Items[0].Old.Version; !x.Done {
			x.Items[0].Old = items[i]
		}
	}
	if !due {
		return nil
	}
	return err
}

// put makes a change, if the item stands as it was found.
func (t *table) put(ctx context.Context, x *cas.Change) {
	w := &x.Items[0]
	found, err := t.write(ctx, w)
	switch {
	case err != nil:
		x.Err = t.diagnose(err)
	case found == nil:
		x.Done, x.Err = true, nil
	default:
		// It is ours already if an earlier answer was lost.
		w.Old, x.Err = *found, nil
		x.Done = found.Version == w.New.Version
	}
}

// write replaces w.Old by w.New. It returns what the table has if that is something
// else.
func (t *table) write(ctx context.Context, w *cas.Swap) (*cas.Item, error) {
	condition, values := "attribute_not_exists("+attrKey+")", attributes(nil)
	if w.Old.Version != 0 {
		condition, values = attrVersion+" = :v", attributes{":v": number(w.Old.Version)}
	}
	var err error
	if len(w.New.Value) == 0 {
		_, err = t.db.DeleteItem(ctx, &dynamodb.DeleteItemInput{
			TableName: &t.name, Key: keyOf(w.Old.Key[:]), ConditionExpression: &condition, ExpressionAttributeValues: values,
			ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
		})
	} else {
		_, err = t.db.PutItem(ctx, &dynamodb.PutItemInput{
			TableName: &t.name, Item: encode(&w.New), ConditionExpression: &condition, ExpressionAttributeValues: values,
			ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
		})
	}
	refused, ok := errors.AsType[*types.ConditionalCheckFailedException](err)
	if !ok {
		return nil, err
	}
	found := []cas.Item{{Key: w.Old.Key}}
	if len(refused.Item) > 0 {
		found[0], err = decode(w.Old.Key, refused.Item)
	} else if _, err = t.fetch(ctx, found, false); err != nil { // gone, or a service that does not tell
		f := t.diagnose(err)
		g := *f
		g.Unsent = true // the write was refused
		return nil, &g
	}
	return &found[0], err
}

// MaxValue is how many bytes an item may have; see [cas.Table].
func (t *table) MaxValue() int { return mostSize }

// Close releases nothing.
func (t *table) Close() error { return nil }

// incarnation is the mark of a table.
type incarnation struct {
	id    uint64 // 0 is none
	since int64
	table string // the service's own id of the table that has the mark
}

func (i incarnation) same(j incarnation) bool { return i.id == j.id && i.since == j.since }

// The attributes of a mark, besides the key.
const (
	attrID    = "id"
	attrSince = "since"
	attrTable = "table"
)

func readIncarnation(a attributes) (incarnation, error) {
	r := reader{a: a}
	i := incarnation{id: r.number(attrID), since: int64(r.number(attrSince)), table: r.text(attrTable)}
	if r.missing != "" || i.id == 0 {
		return i, fmt.Errorf("dynamodb: the item %q has no good attribute %q: it is not ours", epochKey, r.missing)
	}
	return i, nil
}
