package redisstore

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// scriptStore is the script with as little around it as can be: one call at a time,
// to one server, with the instants that it is told.
type scriptStore struct {
	scheme *scheme
	client rueidis.Client
	sha    string
	manual bool
	epoch  headgate.Epoch

	mu     sync.Mutex
	now    int64 // the latest instant told
	closed bool
	// stale counts the calls that had to be made again for their calendar.
	stale int
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

// group has the script decide a group of calls.
func (s *scriptStore) group(ctx context.Context, now int64, group ...*payload) ([]string, error) {
	var keys []string
	for _, p := range group {
		keys = append(keys, p.keys...)
	}
	cmd := s.client.B().Arbitrary("EVALSHA", s.sha, strconv.Itoa(len(keys))).Keys(keys...).Args(string(header(s.epoch, now, group...)))
	for _, p := range group {
		cmd = cmd.Args(string(p.blob))
	}
	answers, err := s.client.Do(ctx, cmd.Build()).AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", &headgate.Error{Code: headgate.Unavailable, Err: err})
	}
	if len(answers) != len(group) {
		return nil, fmt.Errorf("%d answers to %d calls", len(answers), len(group))
	}
	return answers, nil
}

// instant returns the instant to tell the script: clocks of servers do not go back.
func (s *scriptStore) instant(now int64) int64 {
	if !s.manual {
		return 0
	}
	s.now = max(s.now, now)
	return s.now
}

func (s *scriptStore) Apply(ctx context.Context, b *headgate.Batch) error {
	return s.apply(ctx, scriptOp(b.Op), b, 0)
}

func (s *scriptStore) apply(ctx context.Context, op scriptOp, b *headgate.Batch, trial uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return &headgate.Error{Code: headgate.Closed, Err: errors.New("closed")}
	}
	if err := validate(b); err != nil {
		return err
	}
	now := s.instant(b.Now)
	p := payload{around: now}
	for range 3 {
		p.batch(s.scheme, op, b, nil, trial)
		answers, err := s.group(ctx, now, &p)
		if err != nil {
			return err
		}
		v, err := decodeBatch(answers[0], b, nil)
		if err != nil || v.calendar == 0 {
			return err
		}
		p.around = v.calendar
		s.stale++
	}
	return errors.New("no calendar is right")
}

func (s *scriptStore) Acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.instant(0)
	p := payload{around: now}
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
		p.around = v.calendar
		s.stale++
	}
	return errors.New("no calendar is right")
}

func (s *scriptStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
