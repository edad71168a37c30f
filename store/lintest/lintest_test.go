package lintest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// memory returns a subject of three nodes that share a store in memory, each as
// wrap makes it.
func memory(t *testing.T, wrap func(headgate.Store) headgate.Store) *Subject {
	m := memstore.New(memstore.Config{})
	t.Cleanup(func() { _ = m.Close() })
	s := &Subject{Truth: m}
	for range 3 {
		s.Nodes = append(s.Nodes, wrap(open{m}))
	}
	return s
}

// open is a store that stays open.
type open struct{ headgate.Store }

func (open) Close() error { return nil }

// wrapper changes what a store answers.
type wrapper struct {
	headgate.Store
	apply func(ctx context.Context, s headgate.Store, b *headgate.Batch) error
}

func (w wrapper) Apply(ctx context.Context, b *headgate.Batch) error { return w.apply(ctx, w.Store, b) }

type apply = func(ctx context.Context, s headgate.Store, b *headgate.Batch) error

func TestMemory(t *testing.T) {
	Run(t, Config{Histories: 5}, func(t *testing.T) *Subject {
		return memory(t, func(s headgate.Store) headgate.Store { return s })
	})
}

var errLost = errors.New("lost")

// copied returns a batch that asks the same.
func copied(b *headgate.Batch) *headgate.Batch {
	c := new(headgate.Batch)
	c.Reset(b.Op)
	for _, ch := range b.Charges() {
		if _, err := c.Add(ch); err != nil {
			panic(err)
		}
	}
	return c
}

// giveBack gives back what an unknown take charged, where that is allowed.
func giveBack(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
	for _, ch := range b.Charges() {
		if ch.Limit.Algorithm == headgate.TokenBucket {
			continue
		}
		r := new(headgate.Batch)
		r.Reset(headgate.Refund)
		if _, err := r.Add(ch); err != nil {
			return err
		}
		if err := s.Apply(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// losing returns a store that fails, now and then, as lose has it.
func losing(lose apply) func(headgate.Store) headgate.Store {
	var n atomic.Int64
	return func(s headgate.Store) headgate.Store {
		return wrapper{s, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			if n.Add(1)%11 == 0 {
				if err := lose(ctx, s, b); err != nil {
					return err
				}
				return errLost
			}
			return s.Apply(ctx, b)
		}}
	}
}

// What unknown operations may do is no violation.
func TestUnknown(t *testing.T) {
	var late sync.WaitGroup
	for _, tt := range []struct {
		name string
		lose apply
		// spent says that it shows in the end.
		spent bool
	}{
		{"not done", func(context.Context, headgate.Store, *headgate.Batch) error { return nil }, false},
		{"done", func(ctx context.Context, s headgate.Store, b *headgate.Batch) error { return s.Apply(ctx, b) }, true},
		{"done late", func(_ context.Context, s headgate.Store, b *headgate.Batch) error {
			c := copied(b)
			late.Go(func() {
				if err := s.Apply(context.Background(), c); err != nil {
					t.Error(err)
				}
			})
			return nil
		}, true},
		{"given back late", func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			err := s.Apply(ctx, b)
			if c := copied(b); b.Allowed && b.Op == headgate.Take {
				late.Go(func() {
					if err := giveBack(context.Background(), s, c); err != nil {
						t.Error(err)
					}
				})
			}
			return err
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sum := Run(t, Config{Histories: 3}, func(t *testing.T) *Subject {
				s := memory(t, losing(tt.lose))
				s.Disturb = func(*rand.Rand, bool) error { return nil }
				return s
			})
			late.Wait()
			if sum.Unknown < sum.Allowed/20 {
				t.Errorf("%d unknown", sum.Unknown)
			}
			if (sum.Spent > 0) != tt.spent {
				t.Errorf("unknown takes were seen in %d budgets", sum.Spent)
			}
		})
	}
}

// often counts to n again and again; its zero value begins.
type often struct{ n atomic.Int64 }

func (o *often) each(n int64) bool { return o.n.Add(1)%n == 0 }

// Every wrong store is caught in the first of a few histories.
func TestCaught(t *testing.T) {
	var o often
	var mu sync.Mutex
	stale := make(map[string]headgate.Outcome)
	for _, tt := range []struct {
		name   string
		leased bool
		apply  apply
	}{
		{"a charge for two", false, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			if b.Op == headgate.Take && o.each(500) {
				b.Op = headgate.Peek // answers as if it had charged
				err := s.Apply(ctx, b)
				for i := range b.Outcomes() {
					if b.Allowed {
						b.Outcomes()[i].Used += b.Charges()[i].Cost
					}
				}
				return err
			}
			return s.Apply(ctx, b)
		}},
		{"one let pass too many", false, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			err := s.Apply(ctx, b)
			if !b.Allowed && o.each(200) {
				b.Allowed = true
				for i := range b.Outcomes() {
					b.Outcomes()[i].Allowed = true
				}
			}
			return err
		}},
		{"one refused for nothing", false, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			if b.Op == headgate.Take && o.each(300) {
				b.Op = headgate.Peek
				err := s.Apply(ctx, b)
				b.Allowed, b.Outcomes()[0].Allowed = false, false
				return err
			}
			return s.Apply(ctx, b)
		}},
		{"a batch in parts", false, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			if b.Op != headgate.Take || len(b.Charges()) == 1 {
				return s.Apply(ctx, b)
			}
			b.Op = headgate.Peek
			if err := s.Apply(ctx, b); err != nil || !b.Allowed {
				return err
			}
			for i, ch := range b.Charges() {
				part := new(headgate.Batch)
				if _, err := part.Add(ch); err != nil {
					return err
				}
				if err := s.Apply(ctx, part); err != nil {
					return err
				}
				b.Outcomes()[i] = part.Outcomes()[0]
			}
			b.Op, b.Allowed = headgate.Take, true
			return nil
		}},
		{"an old answer to a peek", false, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			err := s.Apply(ctx, b)
			if len(b.Charges()) > 1 || !b.Allowed {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			ch := b.Charges()[0]
			key := ch.Owner + ch.Limit.Name
			old, ok := stale[key]
			if b.Op == headgate.Peek && ok && o.each(3) {
				b.Outcomes()[0].Used = old.Used
				delete(stale, key)
			} else if !ok {
				stale[key] = b.Outcomes()[0]
			}
			return err
		}},
		{"an unknown take done twice", false, losingTwice(&o, 2)},
		{"an unknown take that is not one", false, losingTwice(&o, 0)},
		{"leases: one let pass too many", true, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			err := s.Apply(ctx, b)
			if b.Op == headgate.Take && !b.Allowed {
				b.Allowed = true
			}
			return err
		}},
		{"leases: refused too early", true, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			if b.Op == headgate.Take && o.each(10) {
				b.Allowed = false
				b.Outcomes()[0] = headgate.Outcome{Leased: true}
				return nil
			}
			return s.Apply(ctx, b)
		}},
		{"leases: a charge for two", true, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			if b.Op == headgate.Take && o.each(500) {
				b.Op = headgate.Peek
			}
			return s.Apply(ctx, b)
		}},
		{"leases: a charge for nobody", true, func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
			if b.Op == headgate.Take && o.each(100) {
				if err := s.Apply(ctx, copied(b)); err != nil {
					return err
				}
			}
			return s.Apply(ctx, b)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Leased: tt.leased}.withDefaults()
			for seed := range uint64(5) {
				_, err := once(t, &c, seed, func(t *testing.T) *Subject {
					s := memory(t, func(s headgate.Store) headgate.Store { return wrapper{s, tt.apply} })
					s.Lost = func() int64 { return 0 }
					if !tt.leased {
						s.Truth = nil // the sum in the end would tell, too
					}
					if strings.Contains(tt.name, "unknown") {
						s.Disturb = func(*rand.Rand, bool) error { return nil }
					}
					return s
				})
				if err != nil {
					t.Log(err)
					return
				}
			}
			t.Error("5 histories passed")
		})
	}
}

// losingTwice answers a take with an error now and then, and does it so many
// times; or it does it and charges a stranger's take.
func losingTwice(o *often, times int) apply {
	return func(ctx context.Context, s headgate.Store, b *headgate.Batch) error {
		if b.Op != headgate.Take || !o.each(50) {
			return s.Apply(ctx, b)
		}
		if times == 0 {
			c := copied(b)
			for i := range c.Charges() {
				c.Charges()[i].Cost *= 2 // no take costs that
			}
			if err := s.Apply(ctx, c); err != nil {
				return err
			}
		}
		for range times {
			if err := s.Apply(ctx, copied(b)); err != nil {
				return err
			}
		}
		return errLost
	}
}

// What is used tells which unknown takes are in effect.
func TestExplain(t *testing.T) {
	// Budget 0 is a bucket, 1 a window, 2 a quota, 3 a bucket.
	s := &spec{classes: []class{{0, []int{0, 3}}, {0, []int{1, 2}}, {1, []int{0, 1}}, {1, []int{2}}, {1, []int{3}}}}
	for i := range s.limits {
		l, err := limit(i, 1000)
		if err != nil {
			t.Fatal(err)
		}
		s.limits[i] = l
	}
	for i, c := range s.classes {
		for _, b := range c.budgets {
			s.of[b][c.digit] = i
		}
	}
	st := s.start(1)
	for _, c := range []int{0, 0, 1, 2} {
		_, st = s.exact(st, &record{class: c, err: errLost})
	}
	type look struct {
		budget int
		used   int64
	}
	for _, tt := range []struct {
		name  string
		looks []look
		// used is of the budgets in the end; nil if it cannot be.
		used []int64
	}{
		{"nothing", []look{{0, 0}, {1, 0}}, []int64{0, 0, 0, 0}},
		{"one of two", []look{{0, 1}}, []int64{1, 0, 0, 1}},
		{"and the other", []look{{0, 1}, {3, 2}}, []int64{2, 0, 0, 2}},
		{"three of two", []look{{0, 3}}, nil},
		{"a bucket gives nothing back", []look{{0, 1}, {3, 0}}, nil},
		{"a batch is whole, with a bucket", []look{{1, 256}}, []int64{256, 256, 0, 0}},
		{"a window gives back, the bucket does not", []look{{1, 256}, {1, 0}}, []int64{256, 0, 0, 0}},
		{"a window may have given back at once", []look{{0, 256}, {1, 0}}, []int64{256, 0, 0, 0}},
		{"a window alone", []look{{0, 0}, {1, 256}, {0, 0}}, nil},
		{"several", []look{{0, 257}, {1, 1}, {2, 1}}, []int64{257, 1, 1, 1}},
		{"nobody asked for that", []look{{2, 256}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st, ok := st, true
			for _, l := range tt.looks {
				ok = ok && s.explain(&st, l.budget, split(l.used))
			}
			if ok != (tt.used != nil) {
				t.Fatalf("explained: %v", ok)
			}
			for b, want := range tt.used {
				if got := st.unknown[b].total(); got != want {
					t.Errorf("budget %d: %d, want %d", b, got, want)
				}
			}
		})
	}
}
