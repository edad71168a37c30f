package redisstore

import (
	"errors"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// Where one partition cannot be asked, its leases fail and the others do not. If
// none can, the call fails.
func TestAcquireOfPartitionsThatFail(t *testing.T) {
	s := openStore(t, Config{URL: redistest.SharedCluster(t).URL(prefixed())})
	l := prepare(t, headgate.Limit{Name: "leased", Algorithm: headgate.FixedWindow, Count: 10_000, Period: headgate.MaxPeriod})
	requests := make([]headgate.LeaseRequest, 3)
	for i, owner := range []string{"alice", "bob", "carol"} {
		requests[i] = headgate.LeaseRequest{Limit: l, Owner: owner, Holder: [2]uint64{1, uint64(i)}, Want: 10, Min: 1}
	}
	gone := s.scheme.partition("bob", l)
	if gone == s.scheme.partition("alice", l) || gone == s.scheme.partition("carol", l) {
		t.Fatal("the owners' budgets stand in one partition")
	}
	every := false
	meddleWith(s, func(partition int, _ int64) func(error) error {
		if partition != gone && !every {
			return nil
		}
		return func(error) error { return errors.New("connection reset") }
	})
	replies := make([]headgate.LeaseReply, len(requests))
	if err := s.Acquire(t.Context(), requests, replies); err != nil {
		t.Fatal(err)
	}
	for i, want := range []headgate.LeaseReply{{Granted: 10, TTL: time.Second}, {Status: headgate.LeaseFailed}, {Granted: 10, TTL: time.Second}} {
		if r := replies[i]; r.Status != want.Status || r.Granted != want.Granted || r.TTL != want.TTL {
			t.Errorf("%s: %+v", requests[i].Owner, r)
		}
	}
	every = true
	if err := s.Acquire(t.Context(), requests, replies); headgate.CodeOf(err) != headgate.Unavailable {
		t.Errorf("no partition can be asked: %v", err)
	}
}
