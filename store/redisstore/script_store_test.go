package redisstore

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// scriptStore is the script with as little around it as can be, for what a [Store]
// does not let through: groups of calls as a test puts them together, epochs that it
// makes up, the engine where it would not be asked. One goroutine may use it.
type scriptStore struct {
	scheme *scheme
	client rueidis.Client
	sha    string
	manual bool
	engine bool // is to decide everything
	epoch  headgate.Epoch

	now int64 // the instant told last
}

func newScriptStore(t testing.TB, manual bool) *scriptStore {
	t.Helper()
	server := redistest.Shared(t)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr()}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s := &scriptStore{
		scheme: newScheme(redistest.Prefix(), false), client: client, manual: manual,
		epoch: headgate.Epoch{ID: 1<<32 + 7},
	}
	s.sha = s.load(t, source("test"))
	return s
}

func (s *scriptStore) load(t testing.TB, script string) string {
	t.Helper()
	sum := sha1.Sum([]byte(script))
	sha, err := s.client.Do(t.Context(), s.client.B().ScriptLoad().Script(script).Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	if want := hex.EncodeToString(sum[:]); sha != want {
		t.Fatalf("sha %s, want %s", sha, want)
	}
	return sha
}

// command has the script decide a group of calls.
func (s *scriptStore) command(g *group, now int64, calls ...*payload) rueidis.Completed {
	g.fill(s.epoch, now, calls)
	return s.client.B().Arbitrary("EVALSHA", s.sha, strconv.Itoa(len(g.keys))).Keys(g.keys...).Args(g.args...).Build()
}

func (s *scriptStore) group(ctx context.Context, now int64, calls ...*payload) ([]reply, error) {
	var g group
	answers, err := s.client.Do(ctx, s.command(&g, now, calls...)).AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", &headgate.Error{Code: headgate.Unavailable, Err: err})
	}
	return g.replies(answers)
}

// replies returns the answers to all the calls.
func (g *group) replies(answers []string) (replies []reply, err error) {
	if err = g.share(answers); err != nil {
		return nil, err
	}
	for i := range g.places {
		replies = append(replies, g.reply(i, answers))
	}
	return replies, nil
}

// instant notes the instant to tell the script; 0 is the server's clock.
func (s *scriptStore) instant(now int64) int64 {
	if !s.manual {
		return 0
	}
	s.now = cmp.Or(now, s.now)
	return s.now
}

func (s *scriptStore) Apply(ctx context.Context, b *headgate.Batch) error {
	return s.apply(ctx, scriptOp(b.Op), b, 0)
}

func (s *scriptStore) apply(ctx context.Context, op scriptOp, b *headgate.Batch, trial uint64) error {
	if err := b.Validate(); err != nil {
		return err
	}
	now := s.instant(b.Now)
	var p payload
	p.expect(now)
	for range 3 {
		p.batch(s.scheme, op, b, trial)
		p.fast = p.fast && !s.engine
		answers, err := s.group(ctx, now, &p)
		if err != nil {
			return err
		}
		v, err := decodeBatch(answers[0], s.epoch, b)
		if err != nil || v.calendar == 0 {
			return err
		}
		p.reach(v.calendar)
	}
	return errors.New("no calendar is right")
}

func (s *scriptStore) Acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	now := s.instant(0)
	var p payload
	p.expect(now)
	for range 3 {
		p.leases(s.scheme, requests)
		answers, err := s.group(ctx, now, &p)
		if err != nil {
			return err
		}
		v, err := decodeLeases(answers[0].text, s.epoch, requests, replies)
		if err != nil || v.calendar == 0 {
			return err
		}
		p.reach(v.calendar)
	}
	return errors.New("no calendar is right")
}
