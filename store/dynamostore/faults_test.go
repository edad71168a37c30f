package dynamostore

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/servertest"
	"github.com/headgate/headgate/lease"
	"github.com/headgate/headgate/store/dynamostore/dynamotest"
)

// year is a window that does not end within a test.
func year(name string, count int64) headgate.Limit {
	return headgate.Limit{Name: name, Algorithm: headgate.FixedWindow, Count: count, Period: headgate.MaxPeriod}
}

// kinds notes the failures that a store tells of.
type kinds struct {
	mu   sync.Mutex
	last string
}

func (k *kinds) observe(_ string, _ time.Duration, failure string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = failure
}

func (k *kinds) kind() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last
}

// A write whose answer is lost is done once, and its caller told so.
func TestLostAnswers(t *testing.T) {
	p := newProxy(t)
	s := openStore(t, Config{URL: p.url(t, dynamotest.Table())})
	l := prepared(t, year("l", 1000))
	for _, owner := range []string{"a", ""} { // one that is there, and one that is not
		if owner == "a" {
			if _, err := take(t, s, headgate.Charge{Limit: l, Owner: owner, Cost: 1}); err != nil {
				t.Fatal(err)
			}
		}
		var n, lost atomic.Int64
		p.meddleWith(func(op string) fate {
			if op != "PutItem" {
				return fate{}
			}
			f := fate{lose: n.Add(1)%2 == 1}
			if f.lose {
				lost.Add(1)
			}
			return f
		})
		for range 20 {
			if b, err := take(t, s, headgate.Charge{Limit: l, Owner: owner, Cost: 1}); err != nil || !b.Allowed {
				t.Fatal(err, b.Allowed)
			}
		}
		p.meddleWith(nil)
		want := int64(20)
		if owner == "a" {
			want++
		}
		if u := used(t, s, owner, l); u != want || lost.Load() < 20 {
			t.Errorf("%q: %d are used, want %d; %d answers were lost", owner, u, want, lost.Load())
		}
	}
}

// Of a write whose answer is lost and whose item others have changed since nobody
// knows.
func TestUnknownOutcome(t *testing.T) {
	p := newProxy(t)
	table := dynamotest.Table()
	s, other := openStore(t, Config{URL: p.url(t, table)}), openStore(t, Config{URL: dynamotest.Shared(t).URL(table)})
	l := prepared(t, year("l", 1000))
	charge := headgate.Charge{Limit: l, Owner: "a", Cost: 1}
	if _, err := take(t, s, charge); err != nil {
		t.Fatal(err)
	}
	var once atomic.Bool
	p.meddleWith(func(op string) fate {
		if op != "PutItem" {
			return fate{}
		}
		if !once.Swap(true) {
			return fate{lose: true}
		}
		if b, err := take(t, other, headgate.Charge{Limit: l, Owner: "a", Cost: 10}); err != nil || !b.Allowed {
			t.Error(err)
		}
		return fate{}
	})
	if _, err := take(t, s, charge); headgate.CodeOf(err) != headgate.Unavailable || !strings.Contains(err.Error(), "others have changed the state") {
		t.Errorf("error %v", err)
	}
	p.meddleWith(nil)
	if n := used(t, other, "a", l); n != 12 {
		t.Errorf("%d are used, want 12", n)
	}
}

// oldMark makes the table's mark due to be looked at again.
func oldMark(s *Store) {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	s.table.seen = s.table.seen.Add(-2 * epochLife)
}

// A write that is made while the table turns out to be another one is not made again:
// nobody knows what it is worth there.
func TestWriteToAnotherTable(t *testing.T) {
	p := newProxy(t)
	table := dynamotest.Table()
	s, other := openStore(t, Config{URL: p.url(t, table)}), openStore(t, Config{URL: dynamotest.Shared(t).URL(table)})
	l := prepared(t, year("l", 1000))
	charge := headgate.Charge{Limit: l, Owner: "a", Cost: 1}
	if _, err := take(t, s, charge); err != nil {
		t.Fatal(err)
	}
	marked := make(chan struct{})
	var once sync.Once
	p.meddleWith(func(op string) fate {
		if op != "PutItem" {
			return fate{wait: marked}
		}
		once.Do(func() {
			defer close(marked)
			known, _ := other.table.last()
			next := known
			next.id, next.since = known.id+1, time.Now().UnixMicro()
			if made, err := other.table.remark(t.Context(), known, next); err != nil || !made {
				t.Errorf("mark: %v, %v", made, err)
			}
		})
		return fate{}
	})
	oldMark(s)
	if _, err := take(t, s, charge); headgate.CodeOf(err) != headgate.Unavailable || !strings.Contains(err.Error(), "whether it was charged is not known") {
		t.Errorf("error %v", err)
	}
	p.meddleWith(nil)
	for i := range int64(2) {
		if n := used(t, s, "a", l); n != 2+i {
			t.Errorf("%d are used, want %d", n, 2+i)
		}
		if b, err := take(t, s, charge); err != nil || !b.Allowed {
			t.Error(err)
		}
	}
}

// A write that was made is not made twice because the mark could not be read beside it,
// also where others have changed the item before that is tried again.
func TestWriteBesideFailure(t *testing.T) {
	p := newProxy(t)
	table := dynamotest.Table()
	s, other := openStore(t, Config{URL: p.url(t, table)}), openStore(t, Config{URL: dynamotest.Shared(t).URL(table)})
	l := prepared(t, year("l", 1000))
	if _, err := take(t, s, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); err != nil {
		t.Fatal(err)
	}
	var writes atomic.Int64
	p.meddleWith(func(op string) fate {
		switch {
		case op == "GetItem" && writes.Load() < 2:
			return fate{code: http.StatusBadRequest, kind: "ThrottlingException"}
		case op == "PutItem" && writes.Add(1) == 2:
			if b, err := take(t, other, headgate.Charge{Limit: l, Owner: "a", Cost: 10}); err != nil || !b.Allowed {
				t.Error(err)
			}
		}
		return fate{}
	})
	oldMark(s)
	if _, err := take(t, s, headgate.Charge{Limit: l, Owner: "a", Cost: 1}); headgate.CodeOf(err) != headgate.Unavailable || !strings.Contains(err.Error(), "others have changed the state") {
		t.Errorf("error %v", err)
	}
	p.meddleWith(nil)
	if n := used(t, other, "a", l); n != 12 {
		t.Errorf("%d are used, want 12", n)
	}
}

// Failures have their names, and what helps is tried again.
func TestFailures(t *testing.T) {
	p := newProxy(t)
	l := prepared(t, year("l", 1000))
	for _, c := range []struct {
		code       int
		answer     string
		kind       string
		passing    bool
		afterwards int64 // used
	}{
		{http.StatusBadRequest, "ProvisionedThroughputExceededException", "throttled", true, 1},
		{http.StatusBadRequest, "ThrottlingException", "throttled", true, 1},
		{http.StatusBadRequest, "RequestLimitExceeded", "throttled", true, 1},
		{http.StatusInternalServerError, "InternalServerError", "server", true, 1},
		{http.StatusServiceUnavailable, "ServiceUnavailable", "server", true, 1},
		{http.StatusBadRequest, "AccessDeniedException", "auth", false, 0},
		{http.StatusBadRequest, "UnrecognizedClientException", "auth", false, 0},
		{http.StatusBadRequest, "ExpiredTokenException", "auth", false, 0},
		{http.StatusBadRequest, "ValidationException", "request", false, 0},
		{http.StatusBadRequest, "SomethingNewException", "server", false, 0},
	} {
		t.Run(c.answer, func(t *testing.T) {
			var k kinds
			p.meddleWith(nil)
			s := openStore(t, Config{URL: p.url(t, dynamotest.Table()), Observe: k.observe})
			var n atomic.Int64
			p.meddleWith(func(op string) fate {
				if op == "PutItem" && n.Add(1) <= 2 {
					return fate{code: c.code, kind: c.answer}
				}
				return fate{}
			})
			_, err := take(t, s, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
			if (err == nil) != c.passing || err != nil && (headgate.CodeOf(err) != headgate.Unavailable || k.kind() != c.kind || !strings.Contains(err.Error(), "dynamodb: ")) {
				t.Errorf("%v, of kind %q", err, k.kind())
			}
			p.meddleWith(nil)
			if u := used(t, s, "a", l); u != c.afterwards {
				t.Errorf("%d are used, want %d", u, c.afterwards)
			}
			p.meddleWith(func(op string) fate { return fate{code: c.code, kind: c.answer} })
			b := batchOf(t, headgate.Take, headgate.Charge{Limit: l, Owner: "b", Cost: 1})
			b.Patience = time.Millisecond.Microseconds()
			if c.passing { // it is tried for longer than that
				if err := s.Apply(t.Context(), b); headgate.CodeOf(err) != headgate.Unavailable || k.kind() != "timeout" {
					t.Errorf("%v, of kind %q", err, k.kind())
				}
			}
			p.meddleWith(nil)
		})
	}
}

// Callers have their errors in time where the service does not answer, and what was
// on its way is found when it does.
func TestSilentService(t *testing.T) {
	server := dynamotest.Standalone(t)
	var k kinds
	s, err := open(t.Context(), Config{URL: server.URL(dynamotest.Table()), Observe: k.observe}, newSkew())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := prepared(t, year("l", 1000))
	charge := headgate.Charge{Limit: l, Owner: "a", Cost: 1}
	if _, err := take(t, s, charge); err != nil {
		t.Fatal(err)
	}
	server.Pause(t)
	b := batchOf(t, headgate.Take, charge)
	b.Patience = (25 * time.Millisecond).Microseconds()
	start := time.Now()
	if err := s.Apply(t.Context(), b); headgate.CodeOf(err) != headgate.Unavailable || k.kind() != "timeout" {
		t.Errorf("%v, of kind %q after %v", err, k.kind(), time.Since(start))
	}
	server.Resume(t)
	if b, err := take(t, s, charge); err != nil || !b.Allowed {
		t.Error(err)
	}
	if n := used(t, s, "a", l); n < 2 || n > 3 {
		t.Errorf("%d are used", n)
	}
	// A server that is gone is no server that does not answer.
	server.Stop(t)
	b = batchOf(t, headgate.Take, charge)
	if err := s.Apply(t.Context(), b); headgate.CodeOf(err) != headgate.Unavailable || k.kind() != "dial" && k.kind() != "connection" {
		t.Errorf("%v, of kind %q", err, k.kind())
	}
	server.Start(t)
	err = servertest.Await("be answered again", func() error {
		_, err := take(t, s, charge)
		if headgate.CodeOf(err) == headgate.Unavailable && k.kind() == "table" {
			return nil // the server has lost it, and says so
		}
		return fmt.Errorf("%w, of kind %q", err, k.kind())
	})
	if err != nil {
		t.Error(err)
	}
}

// Nodes on one table whose owners and parents cross never pass more than there is,
// whatever becomes of their requests; and nothing is lost but what nobody knows of.
func TestNodesRace(t *testing.T) {
	for _, faulty := range []bool{false, true} {
		t.Run(map[bool]string{false: "calm", true: "with faults"}[faulty], func(t *testing.T) {
			p := newProxy(t)
			table := dynamotest.Table()
			own, shared := prepared(t, year("own", 20)), prepared(t, year("shared", 75))
			var passed, shares, unknown atomic.Int64
			var wait sync.WaitGroup
			var n atomic.Int64
			var nodes []*Store
			for range 3 {
				nodes = append(nodes, openStore(t, Config{URL: p.url(t, table)}))
			}
			if faulty {
				p.meddleWith(func(op string) fate {
					switch i := n.Add(1); i % 16 {
					case 3:
						return fate{lose: true}
					case 7:
						return fate{drop: true}
					case 11:
						return fate{code: http.StatusBadRequest, kind: "ThrottlingException"}
					case 15:
						return fate{code: http.StatusInternalServerError, kind: "InternalServerError"}
					}
					return fate{}
				})
			}
			for _, s := range nodes {
				for w := range 8 {
					wait.Go(func() {
						for i := range 10 {
							owner := fmt.Sprint("owner ", (w+i)%5)
							b, err := take(t, s,
								headgate.Charge{Limit: own, Owner: owner, Cost: 1},
								headgate.Charge{Limit: shared, Owner: fmt.Sprint("org ", i%2), Cost: 1, Parent: true})
							switch {
							case err != nil:
								unknown.Add(1)
								if !faulty {
									t.Error(err)
								}
							case b.Allowed:
								passed.Add(1)
								shares.Add(int64(1 - i%2))
							}
						}
					})
				}
			}
			wait.Wait()
			p.meddleWith(nil)
			for _, s := range nodes[1:] { // what they left to do is done
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			sum := int64(0)
			for i := range 5 {
				n := used(t, nodes[0], fmt.Sprint("owner ", i), own)
				if sum += n; n > 20 {
					t.Errorf("owner %d: %d of 20", i, n)
				}
			}
			even := used(t, nodes[0], "org 0", shared)
			if sum < passed.Load() || sum > passed.Load()+unknown.Load() || even < shares.Load() || even > shares.Load()+unknown.Load() || passed.Load() < 75 {
				t.Errorf("%d passed, of %d nobody knows; %d are used, of org 0 %d for %d", passed.Load(), unknown.Load(), sum, even, shares.Load())
			}
		})
	}
}

// Leases over the store spend no more than it has.
func TestUnderLeases(t *testing.T) {
	table := dynamotest.Table()
	l := prepared(t, year("l", 5000))
	var nodes []*lease.Store
	for range 3 {
		nodes = append(nodes, lease.New(openStore(t, Config{URL: dynamotest.Shared(t).URL(table)}), lease.Config{Hot: 1, Horizon: 20 * time.Millisecond}))
	}
	var passed, local atomic.Int64
	var wait sync.WaitGroup
	for _, s := range nodes {
		for range 8 {
			wait.Go(func() {
				for {
					b, err := take(t, s, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
					if err != nil {
						t.Error(err)
						return
					}
					if !b.Allowed {
						return
					}
					passed.Add(1)
				}
			})
		}
	}
	wait.Wait()
	for _, s := range nodes {
		local.Add(s.Stats().Local)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	// How many are decided by leases depends on how fast the table is: most, where it is
	// not asked by many at once.
	if n := passed.Load(); n > 5000 || n < 4000 || local.Load() < n/10 {
		t.Errorf("%d passed of 5000, %d by leases", n, local.Load())
	}
}
