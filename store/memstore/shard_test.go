package memstore

import (
	"math/bits"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/headgate/headgate"
)

const plenty = 1 << 40

// check fails unless the table is in order, every entry can be found from its
// home, and as many places are used as the shard counts.
func (sh *shard) check(t *testing.T) {
	t.Helper()
	used := 0
	var last ident
	for i := range sh.table {
		e := &sh.table[i]
		if e.version == 0 {
			continue
		}
		id := ident{e.hi, e.lo}
		if used > 0 && !last.less(id) {
			t.Fatalf("place %d: %x does not come after %x", i, id, last)
		}
		last = id
		used++
		h := home(e.hi, len(sh.table))
		if h > i {
			t.Fatalf("place %d: home is at %d", i, h)
		}
		for ; h < i; h++ {
			if sh.table[h].version == 0 {
				t.Fatalf("place %d: place %d between it and its home is free", i, h)
			}
		}
	}
	if used != sh.used {
		t.Fatalf("%d places are used, the shard counts %d", used, sh.used)
	}
}

// against compares the table with a map.
func (sh *shard) against(t *testing.T, want map[ident]int64) {
	t.Helper()
	sh.check(t)
	if sh.used != len(want) {
		t.Fatalf("%d entries, want %d", sh.used, len(want))
	}
	for id, state := range want {
		if i, found := sh.find(id); !found || sh.table[i].state != state {
			t.Fatalf("%x is lost", id)
		}
	}
}

func TestTableAgainstMap(t *testing.T) {
	for _, test := range []struct {
		name string
		hash func(rng *rand.Rand) ident
	}{
		{"uniform", func(rng *rand.Rand) ident { return ident{rng.Uint64(), rng.Uint32()} }},
		{"few", func(rng *rand.Rand) ident { return ident{rng.Uint64N(40) << 58, rng.Uint32N(20)} }},
		{"crowded", func(rng *rand.Rand) ident { return ident{rng.Uint64() >> (rng.Uint64N(4) * 2), rng.Uint32()} }},
		{"towards the end", func(rng *rand.Rand) ident { return ident{^(rng.Uint64() >> (rng.Uint64N(4))), 0} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			sh := shard{budget: plenty}
			want := make(map[ident]int64)
			var ids []ident
			for n := range 20_000 {
				id := test.hash(rng)
				_, known := want[id]
				if _, found := sh.find(id); found != known {
					t.Fatalf("%x: found %v, want %v", id, found, known)
				}
				// Waves of coming and going.
				remove := rng.IntN(3) == 0
				if n/4000%2 == 1 {
					remove = !remove
				}
				switch {
				case remove && len(ids) > 0:
					i := rng.IntN(len(ids))
					at, found := sh.find(ids[i])
					if !found {
						t.Fatalf("%x is lost", ids[i])
					}
					sh.remove(at)
					delete(want, ids[i])
					ids[i] = ids[len(ids)-1]
					ids = ids[:len(ids)-1]
				case !known:
					if !sh.insert(entry{hi: id.hi, lo: id.lo, version: 1, state: int64(n)}) {
						t.Fatal("no room")
					}
					want[id] = int64(n)
					ids = append(ids, id)
				}
				if n%200 == 0 {
					sh.against(t, want)
				}
				if n%3000 == 0 {
					sh.shrink(2)
				}
			}
			sh.against(t, want)
			for _, id := range ids {
				at, _ := sh.find(id)
				sh.remove(at)
			}
			sh.check(t)
			sh.shrink(2)
			if sh.bytes() != 0 {
				t.Fatalf("%d bytes for nothing", sh.bytes())
			}
		})
	}
}

// All hashes at the very end share a home, so that no growth helps: the table
// must say that it is full, and stay whole.
func TestTableOfOneHome(t *testing.T) {
	const limit = 1 << 20
	sh := shard{budget: limit}
	want := make(map[ident]int64)
	for n := range uint32(1000) {
		id := ident{^uint64(0), 2 * (n * 7919 % 1000)}
		if !sh.insert(entry{hi: id.hi, lo: id.lo, version: 1, state: int64(n)}) {
			break
		}
		want[id] = int64(n)
	}
	if len(want) < tail || len(want) == 1000 || sh.bytes() > limit {
		t.Fatalf("%d entries of one home in %d bytes", len(want), sh.bytes())
	}
	sh.against(t, want)
}

func TestTableStaysWithinBudget(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, budget := range []int64{leastShard, 5000, 64 << 10, 1 << 20} {
		sh := shard{budget: budget}
		for sh.insert(entry{hi: rng.Uint64(), version: 1}) {
			if sh.bytes() > sh.own() {
				t.Fatalf("%d bytes of %d", sh.bytes(), budget)
			}
		}
		own := sh.used
		if full := float64(int64(own)*entryBytes) / float64(budget); full < 0.55 {
			t.Errorf("budget %d: %d entries are %.2f of it", budget, own, full)
		}
		for sh.insert(entry{hi: rng.Uint64(), lo: 1, version: 1}) {
			if sh.bytes() > sh.own() {
				t.Fatalf("%d bytes of %d", sh.bytes(), budget)
			}
		}
		sh.check(t)
		if shared := sh.used - own; shared < own/16 && budget > 5000 {
			t.Errorf("budget %d: room for %d overflow cells beside %d own ones", budget, shared, own)
		}
		if sh.insert(entry{hi: rng.Uint64(), version: 1}) {
			t.Errorf("budget %d: an own cell took a place of the overflow cells", budget)
		}
	}
}

func TestArenaClasses(t *testing.T) {
	for c := 1; c < classes; c++ {
		if classWords(c) <= classWords(c-1) || 2*classWords(c) > 3*classWords(c-1)+1 {
			t.Errorf("class %d has %d words, the one before %d", c, classWords(c), classWords(c-1))
		}
	}
	for n := 1; n <= classWords(classes-1); n++ {
		c := classFor(n)
		if classWords(c) < n || c > 0 && classWords(c-1) >= n {
			t.Fatalf("%d words are of class %d, of %d words", n, c, classWords(c))
		}
	}
	// A sliding log and its entries, and the holds of a concurrency limit.
	if most := classWords(classes - 1); most < 2*(headgate.MaxLog+1)+8 || most < 3*(headgate.MaxInFlight+1)+8 {
		t.Errorf("the largest class has %d words", most)
	}
}

func TestArenaAgainstMap(t *testing.T) {
	const room = 200_000
	rng := rand.New(rand.NewPCG(5, 6))
	var a arena
	type block struct {
		words int
		stamp int64
	}
	live := make(map[int64]block)
	var refs []int64
	most, denied := int64(0), 0
	for n := range 50_000 {
		if len(refs) > 0 && rng.IntN(100) < 45 {
			i := rng.IntN(len(refs))
			ref := refs[i]
			b := live[ref]
			if *a.keep(ref) != b.stamp {
				t.Fatalf("block %d: keep is %d, want %d", ref, *a.keep(ref), b.stamp)
			}
			for i, w := range a.state(ref)[:b.words] {
				if w != b.stamp+int64(i) {
					t.Fatalf("block %d of %d words: word %d is not its own", ref, b.words, i)
				}
			}
			a.release(ref)
			delete(live, ref)
			refs[i] = refs[len(refs)-1]
			refs = refs[:len(refs)-1]
			continue
		}
		words := 1 + rng.IntN(40)
		ref, ok := a.alloc(words, room)
		if a.bytes() > room || a.bytes() < most {
			t.Fatalf("%d bytes after %d, room for %d", a.bytes(), most, room)
		}
		most = a.bytes()
		if !ok {
			denied++
			continue
		}
		if _, known := live[ref]; known || len(a.state(ref)) < words {
			t.Fatalf("block %d of %d words for %d, in use: %v", ref, len(a.state(ref)), words, known)
		}
		stamp := int64(n) << 20
		*a.keep(ref) = stamp
		for i := range a.state(ref)[:words] {
			a.state(ref)[i] = stamp + int64(i)
		}
		live[ref] = block{words, stamp}
		refs = append(refs, ref)
	}
	if most < room*9/10 || denied == 0 || len(live) == 0 {
		t.Fatalf("%d bytes of %d, %d denied, %d live: the test fills nothing", most, room, denied, len(live))
	}
}

func TestArenaReuses(t *testing.T) {
	var a arena
	first, _ := a.alloc(5, plenty)
	a.alloc(5, plenty)
	a.release(first)
	other, _ := a.alloc(20, plenty)
	again, _ := a.alloc(5, plenty)
	if other == first || again != first {
		t.Errorf("blocks %d, then %d of another class, then %d", first, other, again)
	}
	if _, ok := a.alloc(1000, a.bytes()); ok {
		t.Error("the arena grew beyond its room")
	}
}

// Near its room the arena must not copy itself for every block.
func TestArenaGrowsInFewSteps(t *testing.T) {
	const room = 1 << 20
	var a arena
	copies, before := 0, int64(0)
	for {
		if _, ok := a.alloc(10, room); !ok {
			break
		}
		if a.bytes() != before {
			copies++
			before = a.bytes()
		}
	}
	if copies > 60 || a.bytes() < room*99/100 {
		t.Errorf("%d copies for %d bytes", copies, a.bytes())
	}
}

// The collector has nothing to follow in a table or an arena.
func TestNoPointers(t *testing.T) {
	var follow func(at reflect.Type) bool
	follow = func(at reflect.Type) bool {
		switch at.Kind() {
		case reflect.Struct:
			for field := range at.Fields() {
				if follow(field.Type) {
					return true
				}
			}
			return false
		case reflect.Array:
			return follow(at.Elem())
		default:
			return at.Kind() < reflect.Bool || at.Kind() > reflect.Float64 || at.Kind() == reflect.Uintptr
		}
	}
	for _, v := range []any{shard{}.table, arena{}.words} {
		if e := reflect.TypeOf(v).Elem(); follow(e) {
			t.Errorf("%v holds pointers", e)
		}
	}
	if !follow(reflect.TypeFor[headgate.Charge]()) {
		t.Error("the test finds no pointers anywhere")
	}
}

func TestIdentities(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	l := mustPrepare(t, headgate.PerSecond(1))
	other := mustPrepare(t, headgate.PerSecond(2))
	classOf := make(map[ident]int)
	seen := make(map[ident]bool)
	ones := 0
	const n = 20_000
	for range n {
		h1, h2 := rng.Uint64(), rng.Uint64()
		for _, p := range []*headgate.Prepared{l, other} {
			id := identify(h1, h2, p)
			if id.lo&1 != 0 {
				t.Fatalf("%x has the bit of overflow cells", id)
			}
			if seen[id] {
				t.Fatalf("%x comes twice", id)
			}
			seen[id] = true
			ones += bits.OnesCount64(id.hi) + bits.OnesCount32(id.lo)
			over := overflowIDs(id, p)[0]
			if over.lo&1 == 0 || over.hi == 0 {
				t.Fatalf("overflow cell %x lacks its bit", over)
			}
			classOf[over]++
		}
	}
	if len(classOf) != 2*sharedClasses {
		t.Errorf("%d overflow cells for two limits, want %d", len(classOf), 2*sharedClasses)
	}
	for id, keys := range classOf {
		if keys < n/sharedClasses*4/5 || keys > n/sharedClasses*5/4 {
			t.Errorf("overflow cell %x serves %d keys of %d", id, keys, n)
		}
	}
	if mean := float64(ones) / (2 * n); mean < 47 || mean > 48 { // 95 bits
		t.Errorf("%.2f bits are set in the mean", mean)
	}
}

func mustPrepare(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}
