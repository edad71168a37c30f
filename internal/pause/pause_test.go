package pause

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k Keys[int]
		if left, by := k.Left("a"); left != 0 || by != 0 {
			t.Errorf("a new key: got %v by %d", left, by)
		}
		k.Stop("a", 3*time.Second, 429)
		k.Stop("a", time.Second, 503) // shorter than what is said already
		if left, by := k.Left("a"); left != 3*time.Second || by != 429 {
			t.Errorf("got %v by %d, want 3s by 429", left, by)
		}
		k.Stop("a", 4*time.Second, 503)
		if left, by := k.Left("a"); left != 4*time.Second || by != 503 {
			t.Errorf("got %v by %d, want 4s by 503", left, by)
		}
		if left, _ := k.Left("b"); left != 0 {
			t.Errorf("another key: got %v", left)
		}
		<-time.After(4 * time.Second)
		if left, _ := k.Left("a"); left > 0 || len(k.of) != 0 {
			t.Errorf("after the stop: got %v and %d keys", left, len(k.of))
		}
	})
}

func TestKeysAreBounded(t *testing.T) {
	var k Keys[struct{}]
	for i := range MaxKeys + 500 {
		k.Stop(strconv.Itoa(i), time.Hour, struct{}{})
	}
	if len(k.of) != MaxKeys {
		t.Errorf("%d keys are kept, want %d", len(k.of), MaxKeys)
	}
	if left, _ := k.Left(strconv.Itoa(MaxKeys + 499)); left <= 0 {
		t.Error("the newest is forgotten")
	}
}

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		none, short, long := Patience{}, Patience{Most: 5 * time.Second}, Patience{Most: time.Minute}
		for _, tt := range []struct {
			name string
			p    *Patience
			d    time.Duration
			want bool
		}{
			{"none", &none, time.Nanosecond, false},
			{"within", &short, 5 * time.Second, true},
			{"beyond", &short, 5*time.Second + 1, false},
			{"before the deadline", &long, 8 * time.Second, true},
			{"after the deadline", &long, 8*time.Second + 1, false},
		} {
			if got := tt.p.Covers(ctx, tt.d); got != tt.want {
				t.Errorf("%s: got %v", tt.name, got)
			}
		}
		<-time.After(3 * time.Second)
		if !short.Covers(ctx, 2*time.Second) || short.Covers(ctx, 2*time.Second+1) {
			t.Error("what was waited does not count")
		}
	})
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if err := Sleep(t.Context(), time.Second); err != nil || time.Since(begin) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := Sleep(ctx, time.Minute); !errors.Is(err, context.Canceled) || time.Since(begin) != 2*time.Second {
			t.Errorf("cancelled: got %v after %v", err, time.Since(begin))
		}
		if err := Sleep(ctx, 0); err != nil {
			t.Errorf("nothing to wait for: got %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := Sleep(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 2*time.Second {
			t.Errorf("a deadline that is known: got %v after %v", err, time.Since(begin))
		}
	})
}
