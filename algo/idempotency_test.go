package algo_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
)

// remembered is what the model keeps of a request.
type remembered struct {
	print, hold uint64
	until       int64
}

// checkKeys runs random requests through an idempotency limit and a map.
func checkKeys(t *testing.T, r *rand.Rand, steps int) (full, hits int) {
	limit := func() *headgate.Prepared {
		return prepare(t, headgate.Limit{Algorithm: headgate.Idempotency, Count: pick(r, []int64{1, 2, 7, 64}), TTL: time.Duration(1+r.Int64N(1000)) * time.Microsecond})
	}
	l, now := limit(), epoch
	b := newBudget(l, now, false)
	model := map[[2]uint64]remembered{}
	for range steps {
		now += r.Int64N(pick(r, []int64{1, 20, 400}) + 1)
		for id, k := range model {
			if k.until <= now {
				delete(model, id)
			}
		}
		last := now
		for _, k := range model {
			last = max(last, k.until)
		}
		if at := max(now, algo.AbsentAt(l, b.st)); at != last {
			t.Fatalf("absent at %d, want %d", at, last)
		}
		if r.IntN(50) == 0 {
			to := limit()
			dst := make([]int64, algo.ConvertWords(l, to, b.st))
			algo.Convert(l, to, dst, b.st, now)
			l, b = to, budget{l: to, st: dst}
		}
		key := headgate.RequestKey{ID: [2]uint64{r.Uint64N(9), r.Uint64N(9)}, Print: r.Uint64N(3)}
		k, known := model[key.ID]
		print, hold, found := algo.Remembered(b.st, key.ID, now)
		if found != known || print != k.print || hold != k.hold {
			t.Fatalf("%v at %d: %d, %d, %v, want %+v, %v", key.ID, now, print, hold, found, k, known)
		}
		o := b.call(algo.Call{Now: now})
		if n := int64(len(model)); !o.Allowed || o.Used != n || o.Remaining != max(0, l.Count-n) || o.ResetAfter != time.Duration(last-now)*time.Microsecond {
			t.Fatalf("%d of %d remembered: %s", n, l.Count, show(o))
		}
		if found {
			hits++
			continue
		}
		hold = r.Uint64()
		room := int64(len(model)) < l.Count
		if got := algo.Remember(l, b.st, now, key, hold); got != room {
			t.Fatalf("remembered %v with %d of %d", got, len(model), l.Count)
		}
		if !room {
			full++
			continue
		}
		model[key.ID] = remembered{key.Print, hold, now + l.TTLMicros}
	}
	return full, hits
}

func TestKeysAgainstAMap(t *testing.T) {
	full, hits := checkKeys(t, rand.New(rand.NewPCG(5, 6)), 20_000)
	if full < 1000 || hits < 1000 {
		t.Errorf("full %d times, %d replays: the requests decide nothing", full, hits)
	}
}

func FuzzRemember(f *testing.F) {
	r := rand.New(rand.NewPCG(6, 6))
	for range 4 {
		data := make([]byte, 400)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkKeys(t, rand.New(&bytesSource{data: data}), len(data)/8)
	})
}
