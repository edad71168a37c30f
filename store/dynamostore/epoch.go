package dynamostore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/headgate/headgate/store/cas"
)

// leaseLife is how long leases of an earlier incarnation may still be spent
// after the next one was noticed.
const leaseLife = time.Second

// last returns the newest incarnation that was met, and when that was last seen.
func (t *table) last() (incarnation, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known, t.seen
}

// forget makes the next question look for the incarnation.
func (t *table) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = time.Time{}
}

// meet notes the mark that was found by a question of the instant asked.
func (t *table) meet(found incarnation, asked time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !found.same(t.known):
		t.seen = time.Time{}
	case !t.seen.IsZero() && asked.After(t.seen):
		t.seen = asked
	}
}

// present returns the incarnation. due says that it was not seen lately.
func (t *table) present(ctx context.Context) (known incarnation, due bool, err error) {
	if known, seen := t.last(); !seen.IsZero() {
		return known, time.Since(seen) >= epochLife, nil
	}
	select {
	case t.shaking <- struct{}{}:
		defer func() { <-t.shaking }()
	case <-ctx.Done():
		return incarnation{}, false, ctx.Err()
	}
	if known, seen := t.last(); !seen.IsZero() { // somebody was faster
		return known, false, nil
	}
	if known, err = t.handshake(ctx); err != nil {
		return incarnation{}, false, t.diagnose(err)
	}
	return known, false, nil
}

var (
	errMarks  = errors.New("the table's mark changes all the time")
	errSchema = fmt.Errorf("the table must have the partition key %q of type binary, and no sort key", attrKey)
)

// handshake finds the table's mark. It makes one where there is none, or where the
// one that is there is of another table.
func (t *table) handshake(ctx context.Context) (incarnation, error) {
	for range 5 {
		start := time.Now()
		d, err := t.db.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &t.name})
		if err != nil {
			return incarnation{}, err
		}
		if err := checkSchema(d.Table); err != nil {
			return incarnation{}, &cas.Failure{Kind: "table", Unsent: true, Err: err}
		}
		id := aws.ToString(d.Table.TableId)
		found, err := t.mark(ctx)
		if err != nil {
			return incarnation{}, err
		}
		known, _ := t.last()
		next := successor(found, known, id, t.lenient, start)
		if next != found {
			if made, err := t.remark(ctx, found, next); err != nil {
				return incarnation{}, err
			} else if !made {
				continue // somebody else has
			}
		}
		t.announce(next, known, next != found)
		t.mu.Lock()
		t.known, t.seen = next, start
		t.mu.Unlock()
		return next, nil
	}
	return incarnation{}, &cas.Failure{Kind: "epoch", Unsent: true, Passing: true, Err: fmt.Errorf("dynamodb: %w", errMarks)}
}

func checkSchema(d *types.TableDescription) error {
	keys := d.KeySchema
	if len(keys) == 1 && aws.ToString(keys[0].AttributeName) == attrKey {
		for _, a := range d.AttributeDefinitions {
			if aws.ToString(a.AttributeName) == attrKey && a.AttributeType == types.ScalarAttributeTypeB {
				return nil
			}
		}
	}
	return errSchema
}

// successor returns the mark that the table with the id must have, of which found
// was found and known is remembered; either may be none. A table that nobody
// remembers and that has no mark is new: everything is full.
func successor(found, known incarnation, id string, lenient bool, now time.Time) incarnation {
	next := incarnation{id: rand.Uint64N(1<<52) + 1, table: id}
	again := now.Add(leaseLife).UnixMicro()
	switch {
	case found.id == 0 && known.id == 0:
	case lenient && found.id == 0:
	case lenient:
		found.table = id
		return found
	case found.id == 0:
		next.since = again
	case found.table != id: // the mark came with another table's items
		next.since = again
	case known.id != 0 && known.id != found.id && found.since == 0: // made by somebody who remembered none
		next.since = again
	default:
		return found
	}
	return next
}

// mark reads the table's mark.
func (t *table) mark(ctx context.Context) (incarnation, error) {
	answer, _, err := t.ask(ctx, []attributes{keyOf([]byte(epochKey))})
	if err != nil || len(answer) == 0 {
		return incarnation{}, err
	}
	return readIncarnation(answer[0])
}

// remark replaces the mark. It reports false if another one is there meanwhile.
func (t *table) remark(ctx context.Context, found, next incarnation) (made bool, err error) {
	condition, values := "attribute_not_exists("+attrKey+")", attributes(nil)
	if found.id != 0 {
		condition, values = attrID+" = :id", attributes{":id": number(found.id)}
	}
	a := keyOf([]byte(epochKey))
	a[attrID], a[attrSince], a[attrTable] = number(next.id), number(next.since), &types.AttributeValueMemberS{Value: next.table}
	_, err = t.db.PutItem(ctx, &dynamodb.PutItemInput{TableName: &t.name, Item: a, ConditionExpression: &condition, ExpressionAttributeValues: values})
	if isCode(err, codeCondition) {
		return false, nil
	}
	return err == nil, err
}

// announce logs an incarnation that was not known.
func (t *table) announce(next, known incarnation, made bool) {
	if next.same(known) || next.since == 0 || known.id == 0 && !made {
		return
	}
	t.log.Warn("dynamodb: another incarnation of the table, which may lack charges; limits start empty", "table", t.name, "since", time.UnixMicro(next.since).UTC())
}
