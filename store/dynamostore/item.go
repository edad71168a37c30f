package dynamostore

import (
	"fmt"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/headgate/headgate/store/cas"
)

// The attributes of an item.
const (
	attrKey     = "k" // binary: the hash of an owner, or one of the names below
	attrVersion = "v" // number: names the write that made the item
	attrValue   = "d" // binary: as package record writes it
	attrAt      = "t" // number: when it was decided, in µs
	attrExpires = "x" // number: when it may be deleted, in s, for the service's time to live
)

// The items that are none of an owner. Owners' keys are longer.
const (
	epochKey = "epoch"
	nodesKey = "nodes"
)

const (
	// mostSize is how many bytes a value may have: an item has 400 KiB, names and
	// other attributes included.
	mostSize = 400_000
	// afterlife is for how many seconds an item that is over is kept, so that no
	// node's clock has yet to reach its end.
	afterlife = 3600
	// latestEnd bounds when an item may be deleted: the year 9999.
	latestEnd = 253_402_300_799
)

// attributes are what an item is made of.
type attributes = map[string]types.AttributeValue

func keyOf(key []byte) attributes {
	return attributes{attrKey: &types.AttributeValueMemberB{Value: key}}
}

func number[T int64 | uint64](n T) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: fmt.Sprint(n)}
}

// encode returns the attributes of x.
func encode(x *cas.Item) attributes {
	return attributes{
		attrKey:     &types.AttributeValueMemberB{Value: x.Key[:]},
		attrVersion: number(x.Version),
		attrValue:   &types.AttributeValueMemberB{Value: x.Value},
		attrAt:      number(x.At),
		attrExpires: number(min(x.Expires/1_000_000+1+afterlife, latestEnd)),
	}
}

// decode returns the item with a key, absent if it has no attributes.
func decode(key cas.Key, a attributes) (cas.Item, error) {
	x := cas.Item{Key: key}
	if len(a) == 0 {
		return x, nil
	}
	r := reader{a: a}
	x.Version, x.Value, x.At = uint64(r.number(attrVersion)), r.bytes(attrValue), int64(r.number(attrAt))
	if r.missing != "" || x.Version == 0 {
		return x, fmt.Errorf("item %x has no good attribute %q: it is not ours", key, r.missing)
	}
	return x, nil
}

// reader reads attributes.
type reader struct {
	a       attributes
	missing string // the last one that is not there, or not of its type
}

func (r *reader) number(name string) uint64 {
	if v, ok := r.a[name].(*types.AttributeValueMemberN); ok {
		if n, err := strconv.ParseInt(v.Value, 10, 64); err == nil {
			return uint64(n)
		}
		if n, err := strconv.ParseUint(v.Value, 10, 64); err == nil {
			return n
		}
	}
	r.missing = name
	return 0
}

func (r *reader) bytes(name string) []byte {
	if v, ok := r.a[name].(*types.AttributeValueMemberB); ok {
		return v.Value
	}
	r.missing = name
	return nil
}

func (r *reader) text(name string) string {
	if v, ok := r.a[name].(*types.AttributeValueMemberS); ok {
		return v.Value
	}
	r.missing = name
	return ""
}
