package dynamostore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/cas"
)

const (
	// mostLife is the longest that a node may say that it lives.
	mostLife = time.Minute
	// nodesTries is how often the census is asked where asking again may help, or
	// another node was faster.
	nodesTries = 10
	// nodeSize is what a node takes in the census: its id and until when it lives.
	nodeSize = 24
)

// Nodes counts the nodes that live; see [headgate.Census].
func (s *Store) Nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (int, error) {
	start := time.Now()
	n, err := s.nodes(ctx, node, ttl)
	kind := ""
	if f, ok := errors.AsType[*cas.Failure](err); ok {
		kind = f.Kind
	}
	if s.observe != nil {
		s.observe("nodes", time.Since(start), kind)
	}
	if err != nil {
		return 0, fmt.Errorf("nodes: %w", err)
	}
	return n, nil
}

func (s *Store) nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (n int, err error) {
	if ttl != 0 && ttl < time.Millisecond || ttl > mostLife {
		return 0, &headgate.Error{Code: headgate.InvalidRequest, Err: fmt.Errorf("a node that lives for %v: must be 1ms to %v, or 0", ttl, mostLife)}
	}
	if s.closed.Load() {
		return 0, &headgate.Error{Code: headgate.Closed, Err: errors.New("store is closed")}
	}
	for try := range nodesTries {
		n, err = s.table.census(ctx, node, ttl)
		if err == nil {
			return n, nil
		}
		if !diagnose(err).Passing {
			break
		}
		timer := time.NewTimer(rand.N(time.Millisecond << min(try, 6)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, &headgate.Error{Code: headgate.Unavailable, Err: diagnose(ctx.Err())}
		}
	}
	return 0, &headgate.Error{Code: headgate.Unavailable, Err: diagnose(err)}
}

var errCensus = &cas.Failure{Kind: "conflict", Unsent: true, Passing: true, Err: errors.New("dynamodb: other nodes change the census all the time")}

// census notes the node in the item of all nodes and counts them. Doing it twice does
// no harm.
func (t *table) census(ctx context.Context, node [2]uint64, ttl time.Duration) (n int, err error) {
	answer, _, err := t.ask(ctx, []attributes{keyOf([]byte(nodesKey))})
	if err != nil {
		return 0, t.diagnose(err)
	}
	var version uint64
	var list []byte
	if len(answer) > 0 {
		r := reader{a: answer[0]}
		if version, list = r.number(attrVersion), r.bytes(attrValue); r.missing != "" {
			return 0, &cas.Failure{Kind: "table", Unsent: true, Err: fmt.Errorf("dynamodb: the item %q has no good attribute %q: it is not ours", nodesKey, r.missing)}
		}
	}
	list, n = live(list, node, ttl, time.Now().UnixMicro())
	condition, values := "attribute_not_exists("+attrKey+")", attributes(nil)
	if version != 0 {
		condition, values = attrVersion+" = :v", attributes{":v": number(version)}
	}
	a := keyOf([]byte(nodesKey))
	a[attrVersion], a[attrValue] = number(rand.Uint64()|1), &types.AttributeValueMemberB{Value: list}
	_, err = t.db.PutItem(ctx, &dynamodb.PutItemInput{TableName: aws.String(t.name), Item: a, ConditionExpression: &condition, ExpressionAttributeValues: values})
	switch {
	case isCode(err, codeCondition):
		return 0, errCensus
	case err != nil:
		return 0, t.diagnose(err)
	default:
		return n, nil
	}
}

// live returns the nodes of list that live at now, with the node as long as ttl says,
// and how many there are. What claims to live for longer than it may was noted before
// a clock was set back.
func live(list []byte, node [2]uint64, ttl time.Duration, now int64) (kept []byte, n int) {
	var own [16]byte
	binary.BigEndian.PutUint64(own[:8], node[0])
	binary.BigEndian.PutUint64(own[8:], node[1])
	kept = []byte{}
	for ; len(list) >= nodeSize; list = list[nodeSize:] {
		until := int64(binary.BigEndian.Uint64(list[16:]))
		if [16]byte(list) != own && until > now && until <= now+(mostLife+MostSkew).Microseconds() {
			kept = append(kept, list[:nodeSize]...)
		}
	}
	if ttl > 0 {
		kept = append(kept, own[:]...)
		kept = binary.BigEndian.AppendUint64(kept, uint64(now+ttl.Microseconds()))
	}
	return kept, len(kept) / nodeSize
}
