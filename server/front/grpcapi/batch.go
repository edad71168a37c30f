package grpcapi

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/headgate/headgate"
	headgatev1 "github.com/headgate/headgate/api/headgate/v1"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/front"
	"github.com/headgate/headgate/server/front/problem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// batch is a TakeBatchRequest whose items are read one by one: a thousand of them at
// one time would take many times the memory of the message.
type batch struct {
	items  [][]byte
	atomic bool
}

// The fields of TakeBatchRequest and of TakeBatchResponse.
const (
	itemsField   = 1
	atomicField  = 2
	resultsField = 1
)

func decodeBatch(raw []byte) (b batch, err error) {
	for len(raw) > 0 {
		num, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return b, errWire
		}
		raw = raw[n:]
		if n = protowire.ConsumeFieldValue(num, kind, raw); n < 0 {
			return b, errWire
		}
		switch {
		case num == itemsField && kind == protowire.BytesType:
			if len(b.items) == MaxItems {
				return b, invalid("items", "more than %d", MaxItems)
			}
			item, _ := protowire.ConsumeBytes(raw)
			b.items = append(b.items, item)
		case num == atomicField && kind == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(raw)
			b.atomic = v != 0
		}
		raw = raw[n:]
	}
	switch {
	case len(b.items) == 0:
		err = invalid("items", "must be 1 to %d", MaxItems)
	case b.atomic && len(b.items) > gate.MaxAtomic:
		err = invalid("items", "%d: at most %d with atomic: true", len(b.items), gate.MaxAtomic)
	}
	return b, err
}

// read reads one item into a and in, of which a's strings are parts.
func (b *batch) read(a *ask, in *headgatev1.TakeRequest, i int) error {
	if err := takeShape.read(b.items[i], in); err != nil {
		return err
	}
	if err := a.read(in); err != nil {
		return err
	}
	r := &a.req
	switch {
	case r.MaxWait > 0:
		return invalid("max_wait_ms", "items of a batch do not wait: leave it out")
	case b.atomic && r.IdempotencyKey != "":
		return invalid("idempotency_key", "only with atomic: false")
	}
	r.NoWait = true
	// Slots that were taken together could only be released one by one.
	r.Releases = r.Releases && !b.atomic
	return nil
}

// itemError is an error that one item caused as one of the batch. Others are left as
// they are.
func itemError(i int, err error) error {
	e, ok := errors.AsType[*headgate.Error](err)
	if !ok || i < 0 {
		return err
	}
	switch e.Code {
	case headgate.InvalidRequest, headgate.InvalidLimit, headgate.NotFound, headgate.Conflict:
		field := "items." + strconv.Itoa(i)
		if e.Field != "" {
			field += "." + e.Field
		}
		return &headgate.Error{Code: e.Code, Field: field, Err: e.Err}
	}
	return err
}

func (d *door) batch(ctx context.Context, c *call) error {
	b, err := decodeBatch(c.raw)
	if err != nil {
		return err
	}
	var at int64
	if d.Now != nil {
		at = d.Now()
	}
	c.written = make([]byte, 0, len(b.items)*resultSize)
	if b.atomic {
		return d.takeAll(ctx, c, &b, at)
	}
	d.takeEach(ctx, c, &b, at)
	return nil
}

// resultSize is about as long as most results.
const resultSize = 256

// takeEach decides items one after the other, all at one instant if the store's clock
// is ours to read.
func (d *door) takeEach(ctx context.Context, c *call, b *batch, at int64) {
	began := time.Now()
	for i := range b.items {
		c.ask.reset()
		err := b.read(&c.ask, &c.take, i)
		if err == nil {
			err = front.Reach(c.caller, c.req.Application)
		}
		if err == nil {
			err = ctx.Err() // nobody reads this any more, so it is not charged
		}
		if err == nil {
			c.req.Now = at
			err = d.Gate.Take(ctx, &c.req, &c.d)
		}
		if err != nil {
			if broken(err) && ctx.Err() == nil {
				d.log("TakeBatch", err)
			}
			c.problem(itemError(i, err))
			began = time.Now()
			continue
		}
		c.decided(&c.d)
		now := time.Now()
		d.Decided(&c.d, now.Sub(began))
		began = now
	}
}

// takeAll decides the items together.
func (d *door) takeAll(ctx context.Context, c *call, b *batch, at int64) error {
	n := len(b.items)
	asks, ins, decisions := make([]ask, n), make([]headgatev1.TakeRequest, n), make([]gate.Decision, n)
	rs, ds := make([]*gate.Request, n), make([]*gate.Decision, n)
	for i := range n {
		err := b.read(&asks[i], &ins[i], i)
		if err == nil {
			err = front.Reach(c.caller, asks[i].req.Application)
		}
		if err != nil {
			return itemError(i, err)
		}
		asks[i].req.Now = at
		rs[i], ds[i] = &asks[i].req, &decisions[i]
	}
	began := time.Now()
	failed, err := d.Gate.TakeAll(ctx, rs, ds)
	if err != nil {
		return itemError(failed, err)
	}
	for _, one := range ds {
		c.decided(one)
		d.Decided(one, time.Since(began))
	}
	return nil
}

// decided appends the result of an item that was decided.
func (c *call) decided(d *gate.Decision) {
	c.result(&headgatev1.TakeBatchResult{Result: &headgatev1.TakeBatchResult_Decision{Decision: c.reply.fill(d)}})
}

// problem appends that of an item that was not.
func (c *call) problem(err error) {
	p := problem.Of(err)
	c.result(&headgatev1.TakeBatchResult{Result: &headgatev1.TakeBatchResult_Problem{Problem: &headgatev1.Problem{
		Name: p.Name, Code: int32(code(err)), Detail: text(p.Detail), Field: text(p.Field),
	}}})
}

func (c *call) result(r *headgatev1.TakeBatchResult) {
	size := proto.Size(r)
	b := protowire.AppendTag(c.written, resultsField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, r)
	if err != nil {
		panic(err) // all texts are valid
	}
	c.written = b
}
