package headgate_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

// A Key spends the budget of its limiter's key, with limits that stores can keep
// at hand and with others.
func TestKeySharesTheBudget(t *testing.T) {
	for name, limits := range map[string][]headgate.Limit{
		"token bucket":  {headgate.PerHour(6)},
		"not in a word": {{Count: 1_000_003, Period: time.Hour, Burst: 6}},
		"window":        {headgate.Window(6, time.Hour)},
		"leaky bucket":  {leaky(6, time.Hour)},
		"two limits":    {headgate.PerHour(6), headgate.QuotaPer(100, headgate.Day)},
		"the second":    {headgate.PerHour(100), headgate.QuotaPer(6, headgate.Year)},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			l := newLimiter(t, limits...)
			k, same := l.Key("alice"), l.Key("alice")
			defer k.Close()
			bob := l.Key("bob")
			defer bob.Close()
			allow := func(want bool) func(bool, error) {
				return func(got bool, err error) {
					t.Helper()
					if err != nil || got != want {
						t.Fatalf("%v, %v; want %v", got, err, want)
					}
				}
			}
			allow(true)(k.Allow(ctx, 1))
			allow(true)(same.Allow(ctx, 1))
			decided(t, true)(l.Take(ctx, "alice", 1))
			allow(true)(k.AllowAt(ctx, time.Now().UnixMicro(), 1))
			same.Close()
			if d := decided(t, true)(k.Take(ctx, 1)); d.Remaining != 1 {
				t.Fatalf("%+v: want 1 left", d)
			}
			if d := decided(t, true)(k.Peek(ctx, 1)); d.Remaining != 1 {
				t.Fatalf("%+v after a look: want 1 left", d)
			}
			decided(t, false)(k.Take(ctx, 2))
			allow(true)(k.Allow(ctx, 1))
			allow(false)(k.Allow(ctx, 1))
			if d := decided(t, false)(k.Take(ctx, 1)); d.Reason == headgate.OK || d.RetryAfter <= 0 || !d.Retryable {
				t.Errorf("%+v: want a reason and a time", d)
			}
			if d := decided(t, false)(k.Take(ctx, 101)); d.Reason != headgate.CostExceedsLimit || d.Retryable || d.RetryAfter != 0 {
				t.Errorf("%+v: want a cost that can never pass", d)
			}
			allow(true)(bob.Allow(ctx, 6))
			if err := l.Reset(ctx, "alice"); err != nil {
				t.Fatal(err)
			}
			allow(true)(k.Allow(ctx, 6))
			allow(false)(k.Allow(ctx, 1))
		})
	}
}

func TestKeyErrors(t *testing.T) {
	ctx := t.Context()
	k := newLimiter(t, headgate.PerHour(6)).Key("alice")
	defer k.Close()
	for _, cost := range []int64{-1, headgate.MaxInt + 1} {
		for name, err := range map[string]error{
			"Allow":   second(k.Allow(ctx, cost)),
			"AllowAt": second(k.AllowAt(ctx, time.Now().UnixMicro(), cost)),
			"Take":    second(k.Take(ctx, cost)),
			"Peek":    second(k.Peek(ctx, cost)),
		} {
			if e, ok := errors.AsType[*headgate.Error](err); !ok || e.Code != headgate.InvalidRequest || e.Field != "cost" {
				t.Errorf("%s of %d: %v", name, cost, err)
			}
		}
	}
	if d, err := k.Peek(ctx, 1); err != nil || d.Remaining != 6 {
		t.Errorf("%+v, %v: something was charged", d, err)
	}
}

func second[T any](_ T, err error) error { return err }

func ExampleLimiter_Key() {
	ctx := context.Background()
	limiter, err := headgate.New(memstore.New(memstore.Config{}), headgate.PerMinute(60).WithBurst(2))
	if err != nil {
		log.Fatal(err)
	}
	upstream := limiter.Key("upstream")
	defer upstream.Close()
	for range 3 {
		ok, err := upstream.Allow(ctx, 1)
		if err != nil {
			log.Fatal(err) // nothing was decided
		}
		fmt.Println(ok)
	}
	// Output:
	// true
	// true
	// false
}
