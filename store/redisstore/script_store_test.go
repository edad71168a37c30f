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
func (s *scriptStore) command(now int64, group ...*payload) rueidis.Completed {
	var keys []string
	for _, p := range group {
		keys = append(keys, p.keys...)
	}
	cmd := s.client.B().Arbitrary("EVALSHA", s.sha, strconv.Itoa(len(keys))).Keys(keys...).Args(string(header(s.epoch, now, group...)))
	for _, p := range group {
		cmd = cmd.Args(string(p.blob))
	}
	return cmd.Build()
}

func (s *scriptStore) group(ctx context.Context, now int64, group ...*payload) ([]string, error) {
	answers, err := s.client.Do(ctx, s.command(now, group...)).AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", &headgate.Error{Code: headgate.Unavailable, Err: err})
	}
	if len(answers) != len(group) {
		return nil, fmt.Errorf("%d answers to %d calls", len(answers), len(group))
	}
	return answers, nil
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
		v, err := decodeBatch(answers[0], b)
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
		v, err := decodeLeases(answers[0], s.epoch, requests, replies)
		if err != nil || v.calendar == 0 {
			return err
		}
		p.reach(v.calendar)
	}
	return errors.New("no calendar is right")
}
