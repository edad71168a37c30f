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

	"github.com/headgate/headgate/store/cas"
)

// nodeSize is what a node takes in the census: its id and until when it lives.
const nodeSize = 24

var errCensus = &cas.Failure{Kind: "conflict", Unsent: true, Passing: true, Err: errors.New("dynamodb: other nodes change the census all the time")}

// Nodes notes the node in the item of all nodes and counts them; see [cas.Table].
func (t *table) Nodes(ctx context.Context, node [16]byte, ttl time.Duration) (n int, err error) {
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
func live(list []byte, node [16]byte, ttl time.Duration, now int64) (kept []byte, n int) {
	kept = []byte{}
	for ; len(list) >= nodeSize; list = list[nodeSize:] {
		until := int64(binary.BigEndian.Uint64(list[16:]))
		if [16]byte(list) != node && until > now && until <= now+(cas.MostLife+MostSkew).Microseconds() {
			kept = append(kept, list[:nodeSize]...)
		}
	}
	if ttl > 0 {
		kept = append(kept, node[:]...)
		kept = binary.BigEndian.AppendUint64(kept, uint64(now+ttl.Microseconds()))
	}
	return kept, len(kept) / nodeSize
}
