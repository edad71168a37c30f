package redisstore

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/headgate/headgate"
)

// mostLife is the longest that a node may say that it lives.
const mostLife = time.Minute

// census keeps the nodes in a sorted set, each with the instant until which it
// lives, in milliseconds of the server's clock. Who would live longer than nodes do
// has said so before that clock was set back, and says it again if it still lives.
//
//	KEYS[1] the set   ARGV node, ttl in ms, 0 for gone, and the longest
//
// It answers how many live.
var census = rueidis.NewLuaScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ttl = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. ('%.0f'):format(now + ARGV[3]), '+inf')
if ttl > 0 then
  redis.call('ZADD', KEYS[1], 'GT', now + ttl, ARGV[1])
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
  redis.call('EXPIREAT', KEYS[1], math.ceil(last[2] / 1000) + 1)
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return redis.call('ZCARD', KEYS[1])
`)

// Nodes counts the nodes that live; see [headgate.Census].
func (s *Store) Nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (int, error) {
	start := time.Now()
	n, err := s.nodes(ctx, node, ttl)
	return n, s.ended("nodes", start, err)
}

func (s *Store) nodes(ctx context.Context, node [2]uint64, ttl time.Duration) (int, error) {
	if ttl != 0 && ttl < time.Millisecond || ttl > mostLife {
		return 0, &headgate.Error{Code: headgate.InvalidRequest, Err: fmt.Errorf("a node that lives for %v: must be 1ms to %v, or 0", ttl, mostLife)}
	}
	id := make([]byte, 0, 16)
	id = binary.BigEndian.AppendUint64(id, node[0])
	id = binary.BigEndian.AppendUint64(id, node[1])
	type answer struct {
		n   int64
		err error
	}
	answers := make(chan answer, 1)
	// Not under ctx: a command that is given up would take its connection, which
	// all share, down with it.
	if !s.background(func() {
		n, err := census.Exec(context.Background(), s.client, []string{s.scheme.prefix + "nodes"},
			[]string{hex.EncodeToString(id), strconv.FormatInt(ttl.Milliseconds(), 10), strconv.FormatInt(mostLife.Milliseconds(), 10)}).AsInt64()
		answers <- answer{n, err}
	}) {
		return 0, errClosed
	}
	select {
	case a := <-answers:
		if a.err == nil && ttl > 0 && a.n < 1 {
			a.err = &failure{kind: kindProtocol, err: errors.New("no node lives, not even this one")}
		}
		return int(a.n), a.err
	case <-ctx.Done():
		w := patience{ctx: ctx}
		return 0, w.canceled(nil)
	}
}
