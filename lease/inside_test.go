package lease

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

const second = 1_000_000

// The clock goes on while the machine sleeps, and never runs slower than the
// monotonic clock from a stamp on, however the wall clock is set.
func TestClock(t *testing.T) {
	var c clock
	c.begin()
	c.origin = 0
	for _, row := range []struct {
		name       string
		mono, wall int64
		mark       bool
		want       int64
	}{
		{"start", 0, 0, true, 0},
		{"runs", 10 * second, 10 * second, false, 10 * second},
		{"jitter", 20 * second, 20*second + 900, true, 20 * second},
		{"sleeps an hour", 21 * second, 3621 * second, false, 3621 * second},
		{"noted", 22 * second, 3622 * second, true, 3622 * second},
		{"wall clock set back", 23 * second, 23 * second, false, 3623 * second},
		{"noted", 24 * second, 24 * second, true, 3624 * second},
		{"sleeps a minute", 25 * second, 85 * second, false, 3685 * second},
		{"wall clock set forward and back, unnoted", 26 * second, 26 * second, false, 3626 * second},
	} {
		got := c.at(row.mono, row.wall)
		if row.mark {
			got = c.mark(row.mono, row.wall)
		}
		if got != row.want {
			t.Errorf("%s: %d, want %d", row.name, got, row.want)
		}
	}
}

func TestClockNeverShortensALease(t *testing.T) {
	var c clock
	c.begin()
	r := rand.New(rand.NewPCG(1, 2))
	mono, wall, sent, sentAt := int64(0), int64(0), c.mark(0, 0), int64(0)
	for i := range 200_000 {
		d := r.Int64N(50_000)
		mono += d
		wall += d + r.Int64N(200) - 100
		switch r.IntN(50) {
		case 0:
			wall += r.Int64N(7200*second) - 3600*second
		case 1:
			sent, sentAt = c.mark(mono, wall), mono
		}
		if got := c.at(mono, wall) - sent; got < mono-sentAt {
			t.Fatalf("step %d: %d µs since the stamp, when %d have passed", i, got, mono-sentAt)
		}
	}
}

func TestHeat(t *testing.T) {
	h := newHeat(256, 20)
	if len(h.sets) != 256 {
		t.Fatalf("%d sets", len(h.sets))
	}
	const key = 0x1234_5678_9abc_def0
	now := int64(1_700_000_000) * second
	count := func(every int64, n int) (hot int) {
		for range n {
			if h.charge(key, now) {
				hot++
			}
			now += every
		}
		return hot
	}
	for _, row := range []struct {
		name    string
		every   int64
		n, from int // hot from that charge on, 0 for never
	}{
		{"8 a second", second / 8, 200, 0},
		{"after a pause", 70_000 * second, 3, 0}, // as often as a period comes round
		{"50 a second", second / 50, 200, 20},
		{"a second's silence", 2 * second, 1, 0},
		{"1,000 a second", second / 1000, 100, 20},
	} {
		now += 3 * second
		want := 0
		if row.from > 0 {
			want = row.n - row.from + 1
		}
		if got := count(row.every, row.n); got != want {
			t.Errorf("%s: %d of %d were hot, want %d", row.name, got, row.n, want)
		}
	}
}

// In a flood of keys that come once, a hot one is found.
func TestHeatUnderFlood(t *testing.T) {
	h := newHeat(256, 20)
	r := rand.New(rand.NewPCG(1, 2))
	now, hot := int64(1_700_000_000)*second, 0
	for range 200_000 {
		now += 10 // 100,000 a second, 100 to a set
		h.charge(r.Uint64(), now)
		if now%5000 == 0 && h.charge(0x1234_5678_9abc_def0, now) { // 200 a second
			hot++
		}
	}
	if hot < 200 {
		t.Errorf("the hot key was found %d times", hot)
	}
}

func TestDemand(t *testing.T) {
	const horizon = 100_000
	var d demand
	now, spent := int64(5*second), int64(0)
	d.at = now
	run := func(perSecond, spells int64) {
		for range spells {
			now += horizon / 4
			spent += perSecond / 80
			d.measure(now, spent, perSecond/80, horizon) // half of it is missing
		}
	}
	expect := func(name string, cost, latency, full, low int64) {
		t.Helper()
		f, l := d.sizes(cost, horizon, latency)
		if f < full*99/100 || f > full*101/100+1 || l < low*99/100 || l > low*101/100+1 {
			t.Errorf("%s: filled up to %d from %d, want %d from %d", name, f, l, full, low)
		}
	}
	expect("nothing", 1, 0, 0, 0)
	run(80_000, 4)
	if rate := d.rate * second; rate < 60_000 {
		t.Errorf("after a tenth of a second of 80,000: %.0f", rate)
	}
	run(80_000, 200)
	expect("80,000 a second", 1, 0, 12_000, 4000)
	expect("and 50 ms to answer", 1, 50_000, 16_000, 8000)
	run(80, 400)
	expect("80 a second", 1, 0, 16, 4)
	expect("of 10 each", 10, 0, 40, 4)
	run(0, 400)
	expect("nothing any more", 1, 0, 1, 1)
	d.measure(now+1, spent+1000, 0, horizon)
	if d.spent == spent+1000 {
		t.Error("measured a microsecond")
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{
		{Hot: -1}, {Hot: 1 << 16}, {Horizon: 999 * time.Microsecond}, {Horizon: 2 * time.Second}, {MaxLeases: -1}, {MaxLeases: 1<<20 + 1},
		{Timeout: -1}, {Return: -1},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v was taken", c)
				}
			}()
			New(nil, c)
		}()
	}
}

// What is asked for a budget in use, with a lease of a second that is filled up to
// 150 tokens when 50 are left.
func TestSize(t *testing.T) {
	const now = 10 * second
	for _, row := range []struct {
		name                 string
		left, deadline, ends int64 // from now on
		hold, cost           int64
		want, least          int64
		ask                  bool
		low, keeps           int64
	}{
		{"enough", 60, second, 0, 0, 1, 0, 0, false, 30, 60},
		{"low", 50, second, 0, 0, 1, 100, 16, true, 25, 50},
		{"none", 0, second, 0, 0, 1, 150, 16, true, 0, 0},
		{"large requests", 0, second, 0, 0, 5, 150, 37, true, 0, 0},
		{"one very large request", 0, second, 0, 0, 1_000_000, 500, 125, true, 0, 0},
		{"past the deadline", 60, -1, 0, 0, 1, 150, 16, true, 0, 60},
		{"near the deadline", 60, second / 2, 0, 0, 1, 90, 16, true, 30, 60},
		{"near the deadline, and full", 200, second / 2, 0, 0, 1, 0, 0, true, 50, 200},
		{"too much", 301, second, 0, 0, 1, 0, 0, true, 50, 150},
		{"low, on hold", 50, second, 0, 1000, 1, 0, 0, false, 25, 50},
		{"near the deadline, on hold", 50, second / 2, 0, 1000, 1, 0, 0, true, 25, 50},
		{"too little, on hold", 9, second, 0, 1000, 10, 0, 0, true, 0, 0},
		{"the window goes on", 50, second, 2 * second, 0, 1, 100, 16, true, 25, 50},
		{"the window ends soon", 20, 90_000, 90_000, 0, 1, 70, 16, true, 10, 20},
		{"the window ends sooner", 20, 20_000, 20_000, 0, 1, 0, 0, false, 10, 20},
		{"the window is over", 20, -1, -1, 0, 1, 150, 16, true, 0, 20},
	} {
		k := &keeper{Store: &Store{horizon: 100_000}}
		c := &cell{kept: newKept(now, 0.001, second)}
		c.holder.begin([2]uint64{1, 1})
		l := c.holder.Lease()
		l.left.Store(row.left)
		l.deadline.Store(now + row.deadline)
		if row.ends != 0 {
			l.ends.Store(now + row.ends)
		}
		c.hold = now + row.hold
		c.cost.Store(row.cost)
		want, least, ask := k.size(c, l, now)
		if want != row.want || least != row.least || ask != row.ask || c.low.Load() != row.low || l.Left() != row.keeps {
			t.Errorf("%s: want %d, at least %d, ask %v, low %d, keeps %d; want %d, %d, %v, %d, %d", row.name,
				want, least, ask, c.low.Load(), l.Left(), row.want, row.least, row.ask, row.low, row.keeps)
		}
		if c.called.Load() != (!ask && row.hold != 0 || ask && want == 0 && row.hold != 0) {
			t.Errorf("%s: called %v", row.name, c.called.Load())
		}
	}
}

// The table finds what is in it, while others come and go.
func TestTable(t *testing.T) {
	var tab table
	tab.begin(100)
	l, err := headgate.PerSecond(1000).Prepare()
	if err != nil {
		t.Fatal(err)
	}
	name := func(i int) string { return string(rune('a' + i)) }
	var cells [200]*cell
	for i := range cells {
		cells[i] = tab.add(uint64(i%3)<<62, l, name(i), [2]uint64{1, uint64(i)}, kept{})
		if (cells[i] != nil) != (i < 100) {
			t.Fatalf("cell %d: %v", i, cells[i])
		}
	}
	for i := range 100 {
		if i%2 == 0 {
			tab.remove(cells[i])
			tab.remove(cells[i])
		}
	}
	for i := range 100 {
		c := tab.find(uint64(i%3)<<62, l, name(i))
		if i%2 == 0 && (c != nil || !cells[i].retired.Load()) || i%2 == 1 && c != cells[i] {
			t.Errorf("cell %d: %v", i, c)
		}
	}
	if again := tab.add(1<<62, l, name(1), [2]uint64{}, kept{}); again != cells[1] || tab.n != 50 {
		t.Errorf("a cell was made twice; %d cells", tab.n)
	}
	tab.close()
	if tab.add(0, l, "x", [2]uint64{}, kept{}) != nil || tab.find(1<<62, l, name(1)) != nil {
		t.Error("a closed table has cells")
	}
}
