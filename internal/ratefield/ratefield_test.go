package ratefield

import (
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

func prepare(t testing.TB, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFrom holds, per algorithm and state, the two fields that it gives.
func TestFrom(t *testing.T) {
	perHour := headgate.PerHour(100).WithBurst(110)
	for _, tt := range []struct {
		name          string
		limit         headgate.Limit
		outcome       headgate.Outcome
		policy, field string
	}{
		{"bucket, allowed", perHour, headgate.Outcome{Allowed: true, Limit: 110, Remaining: 50, ResetAfter: 36 * time.Minute},
			`"n";q=110;w=3960`, `"n";r=50;t=1800`},
		{"bucket, allowed, r per t is at most the rate", headgate.PerSecond(3), headgate.Outcome{Allowed: true, Limit: 3, Remaining: 2},
			`"n";q=3;w=1`, `"n";r=2;t=1`},
		{"bucket, full", headgate.PerMinute(60), headgate.Outcome{Allowed: true, Limit: 60, Remaining: 60},
			`"n";q=60;w=60`, `"n";r=60;t=60`},
		{"bucket, last token taken", perHour, headgate.Outcome{Allowed: true, Limit: 110, ResetAfter: 3960 * time.Second},
			`"n";q=110;w=3960`, `"n";r=0;t=36`},
		{"bucket, half a token left", perHour, headgate.Outcome{Allowed: true, Limit: 110, ResetAfter: 3942 * time.Second},
			`"n";q=110;w=3960`, `"n";r=0;t=18`},
		{"bucket, fast and empty", headgate.PerSecond(1000), headgate.Outcome{Allowed: true, Limit: 1000, ResetAfter: time.Second},
			`"n";q=1000;w=1`, `"n";r=0;t=1`},
		{"bucket, in debt", headgate.PerSecond(1), headgate.Outcome{Allowed: true, Limit: 1, ResetAfter: 3 * time.Second},
			`"n";q=1;w=1`, `"n";r=0;t=3`},
		{"bucket, burst of a part of a second", headgate.Per(10, time.Second).WithBurst(15), headgate.Outcome{Allowed: true, Limit: 15, Remaining: 15},
			`"n";q=15;w=2`, `"n";r=15;t=2`},
		{"bucket, refused", headgate.PerMinute(60), headgate.Outcome{Limit: 60, Remaining: 3, RetryAfter: 1500 * time.Millisecond, ResetAfter: time.Minute},
			`"n";q=60;w=60`, `"n";r=0;t=2`},
		{"bucket, refused for a moment", headgate.PerSecond(1000), headgate.Outcome{Limit: 1000, RetryAfter: time.Microsecond},
			`"n";q=1000;w=1`, `"n";r=0;t=1`},
		{"bucket, can never hold the cost", headgate.PerMinute(60), headgate.Outcome{Never: true, Limit: 60, Remaining: 60},
			`"n";q=60;w=60`, `"n";r=60;t=60`},
		{"leaky bucket", headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 2, Period: time.Second, Burst: 10}, headgate.Outcome{Allowed: true, Limit: 10, Remaining: 4},
			`"n";q=10;w=5`, `"n";r=4;t=2`},
		{"fixed window", headgate.Window(100, time.Minute), headgate.Outcome{Allowed: true, Limit: 100, Remaining: 7, ResetAfter: 12*time.Second + 1},
			`"n";q=100;w=60`, `"n";r=7;t=13`},
		{"fixed window, exactly whole seconds", headgate.Window(100, time.Minute), headgate.Outcome{Allowed: true, Limit: 100, ResetAfter: 12 * time.Second},
			`"n";q=100;w=60`, `"n";r=0;t=12`},
		{"fixed window, not begun", headgate.Window(100, time.Minute), headgate.Outcome{Allowed: true, Limit: 100, Remaining: 100},
			`"n";q=100;w=60`, `"n";r=100;t=60`},
		{"window below a second", headgate.Window(100, time.Millisecond), headgate.Outcome{Allowed: true, Limit: 100, Remaining: 1, ResetAfter: 1},
			`"n";q=100;w=1`, `"n";r=1;t=1`},
		{"sliding window, refused", headgate.Sliding(300, 90500*time.Millisecond), headgate.Outcome{Limit: 300, RetryAfter: 3 * time.Second, ResetAfter: 99 * time.Second},
			`"n";q=300;w=91`, `"n";r=0;t=3`},
		{"sliding log", headgate.Log(5, time.Second), headgate.Outcome{Allowed: true, Limit: 5, Remaining: 4, ResetAfter: time.Second},
			`"n";q=5;w=1`, `"n";r=4;t=1`},
		{"hourly quota", headgate.QuotaPer(10, headgate.Hour), headgate.Outcome{Allowed: true, Limit: 10, Remaining: 9, ResetAfter: time.Minute},
			`"n";q=10;w=3600`, `"n";r=9;t=60`},
		{"daily quota, refused", headgate.QuotaPer(1000, headgate.Day), headgate.Outcome{Limit: 1000, RetryAfter: 41 * time.Second, ResetAfter: 41 * time.Second},
			`"n";q=1000;w=86400`, `"n";r=0;t=41`},
		{"weekly quota", headgate.QuotaPer(10, headgate.Week), headgate.Outcome{Allowed: true, Limit: 10, Remaining: 9, ResetAfter: time.Hour},
			`"n";q=10;w=604800`, `"n";r=9;t=3600`},
		{"monthly quota with rollover", headgate.Limit{Algorithm: headgate.Quota, Count: 10, Rollover: 2, Calendar: headgate.Calendar{Unit: headgate.Month}},
			headgate.Outcome{Allowed: true, Limit: 12, Remaining: 11, ResetAfter: time.Hour}, `"n";q=12`, `"n";r=11;t=3600`},
		{"yearly quota", headgate.QuotaPer(10, headgate.Year), headgate.Outcome{Allowed: true, Limit: 10, ResetAfter: time.Hour},
			`"n";q=10`, `"n";r=0;t=3600`},
		{"concurrency", headgate.InFlight(20, time.Minute), headgate.Outcome{Allowed: true, Limit: 20, Remaining: 3, ResetAfter: time.Minute},
			`"n";q=20;qu="concurrent-requests"`, `"n";r=3;t=60`},
		{"concurrency, last slot taken", headgate.InFlight(20, time.Minute), headgate.Outcome{Allowed: true, Limit: 20, ResetAfter: time.Minute - 1},
			`"n";q=20;qu="concurrent-requests"`, `"n";r=0;t=60`},
		{"concurrency, unused", headgate.InFlight(20, time.Minute), headgate.Outcome{Allowed: true, Limit: 20, Remaining: 20},
			`"n";q=20;qu="concurrent-requests"`, `"n";r=20;t=1`},
		{"concurrency, can never hold the cost", headgate.InFlight(20, time.Minute), headgate.Outcome{Never: true, Limit: 20, ResetAfter: 9 * time.Second},
			`"n";q=20;qu="concurrent-requests"`, `"n";r=0;t=9`},
		{"concurrency, refused", headgate.InFlight(20, time.Minute), headgate.Outcome{Limit: 20, RetryAfter: 7 * time.Second, ResetAfter: time.Minute},
			`"n";q=20;qu="concurrent-requests"`, `"n";r=0;t=7`},
		{"largest numbers", headgate.Window(headgate.MaxInt, headgate.MaxPeriod), headgate.Outcome{Allowed: true, Limit: headgate.MaxInt, Remaining: headgate.MaxInt, ResetAfter: headgate.MaxPeriod},
			`"n";q=999999999999999;w=3153600000`, `"n";r=999999999999999;t=3153600000`},
		{"ban", headgate.Limit{Algorithm: headgate.Ban, Count: 50, Period: time.Minute, TTL: time.Hour}, headgate.Outcome{RetryAfter: time.Hour}, "", ""},
		{"soft quota", headgate.Limit{Algorithm: headgate.Quota, Count: 10, Soft: true, Calendar: headgate.Calendar{Unit: headgate.Day}},
			headgate.Outcome{Allowed: true, Limit: 10, Used: 11, Overage: 1}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			items := []Item{From("n", prepare(t, tt.limit), &tt.outcome)}
			if got := string(AppendPolicy(nil, items)); got != tt.policy {
				t.Errorf("RateLimit-Policy: got %s, want %s", got, tt.policy)
			}
			if got := string(AppendLimit(nil, items)); got != tt.field {
				t.Errorf("RateLimit: got %s, want %s", got, tt.field)
			}
		})
	}
}

func TestTightest(t *testing.T) {
	for _, tt := range []struct {
		name  string
		items []Item
		want  string
	}{
		{"none", nil, ""},
		{"fewest remaining", []Item{{Name: "a", Remaining: 9}, {Name: "b", Remaining: 3}, {Name: "c", Remaining: 5}}, "b c a"},
		{"equal ones keep their order", []Item{{Name: "a"}, {Name: "b"}, {Name: "c"}}, "a b c"},
		{"refusing before empty", []Item{{Name: "a"}, {Name: "b", Refused: true, Wait: 1}}, "b a"},
		{"longest wait", []Item{{Name: "a", Refused: true, Wait: 1}, {Name: "b", Refused: true, Wait: 2}, {Name: "c", Remaining: 0}}, "b a c"},
		{"never before the longest wait", []Item{{Name: "a", Refused: true, Wait: 9}, {Name: "b", Refused: true, Never: true, Remaining: 50}}, "b a"},
		{"at most four", []Item{{Name: "a", Remaining: 5}, {Name: "b", Remaining: 4}, {Name: "c", Remaining: 3}, {Name: "d", Remaining: 2}, {Name: "e", Remaining: 1}}, "e d c b"},
		{"unnamed ones", []Item{{}, {Name: "a\r\nSet-Cookie: x", Remaining: 1}, {Name: "ü", Remaining: 1}, {Name: "b", Remaining: 9}}, "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var names []string
			for _, it := range Tightest(slices.Clone(tt.items)) {
				names = append(names, it.Name)
			}
			if got := strings.Join(names, " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAppendSeveral(t *testing.T) {
	items := []Item{
		{Name: "burst", Limit: 100, Remaining: 50, Window: 60, Wait: 30 * time.Second},
		{Name: "a\nb", Limit: 1},
		{Name: `plan/"daily\`, Limit: -1, Remaining: -5, Window: 86400, Wait: -time.Second},
		{Name: "inflight", Limit: 20, Concurrent: true},
	}
	const policy = `x"burst";q=100;w=60, "plan/\"daily\\";q=0;w=86400, "inflight";q=20;qu="concurrent-requests"`
	if got := string(AppendPolicy([]byte("x"), items)); got != policy {
		t.Errorf("RateLimit-Policy: got %s, want %s", got, policy)
	}
	const field = `x"burst";r=50;t=30, "plan/\"daily\\";r=0;t=1, "inflight";r=0;t=1`
	if got := string(AppendLimit([]byte("x"), items)); got != field {
		t.Errorf("RateLimit: got %s, want %s", got, field)
	}
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		wait   time.Duration
		jitter int
		random uint64
		want   int64
	}{
		{0, 0, 0, 1},
		{-time.Second, 0, 0, 1},
		{1, 0, 0, 1},
		{time.Second, 0, math.MaxUint64, 1},
		{time.Second + 1, 0, 0, 2},
		{41 * time.Second, 0, 0, 41},
		{headgate.MaxPeriod, 0, 0, 3_153_600_000},
		{math.MaxInt64, 100, math.MaxUint64, 2 * 9_223_372_037},
		{100 * time.Second, 10, 0, 100},
		{100 * time.Second, 10, math.MaxUint64, 110},
		{100 * time.Second, 10, math.MaxUint64 / 2, 105},
		{time.Second, 10, 0, 1},
		{time.Second, 10, math.MaxUint64, 2},
	} {
		if got := RetryAfter(tt.wait, tt.jitter, tt.random); got != tt.want {
			t.Errorf("RetryAfter(%v, %d, %#x): got %d, want %d", tt.wait, tt.jitter, tt.random, got, tt.want)
		}
	}
}

func TestSetStyles(t *testing.T) {
	now := time.Unix(1_700_000_000, 1)
	allowed := []Item{{Name: "a", Limit: 100, Remaining: 7, Window: 60, Wait: 5 * time.Second, Reset: 56500 * time.Millisecond}, {Name: "b", Limit: 9, Remaining: 9}}
	refused := []Item{{Name: "a", Limit: 100, Window: 60, Refused: true, Wait: 1500 * time.Millisecond, Reset: time.Minute}}
	never := []Item{{Name: "a", Limit: 100, Remaining: 100, Window: 60, Refused: true, Never: true, Wait: time.Minute}}
	for _, tt := range []struct {
		name   string
		styles Styles
		items  []Item
		want   string
	}{
		{"ietf", IETF, allowed, `Ratelimit-Policy: "a";q=100;w=60, "b";q=9|Ratelimit: "a";r=7;t=5, "b";r=9;t=1`},
		{"draft03", Draft03, allowed, "Ratelimit-Limit: 100|Ratelimit-Remaining: 7|Ratelimit-Reset: 57"},
		{"x-delta", XDelta, allowed, "X-Ratelimit-Limit: 100|X-Ratelimit-Remaining: 7|X-Ratelimit-Reset: 57"},
		{"x-epoch", XEpoch, allowed, "X-Ratelimit-Limit: 100|X-Ratelimit-Remaining: 7|X-Ratelimit-Reset: 1700000057"},
		{"x-epoch wins", XDelta | XEpoch, refused, "X-Ratelimit-Limit: 100|X-Ratelimit-Remaining: 0|X-Ratelimit-Reset: 1700000002"},
		{"draft03 refused", Draft03, refused, "Ratelimit-Limit: 100|Ratelimit-Remaining: 0|Ratelimit-Reset: 2"},
		{"never", XDelta, never, "X-Ratelimit-Limit: 100|X-Ratelimit-Remaining: 100|X-Ratelimit-Reset: 1"},
		{"all", AllStyles, refused, `Ratelimit-Limit: 100|Ratelimit-Policy: "a";q=100;w=60|Ratelimit-Remaining: 0|Ratelimit-Reset: 2|Ratelimit: "a";r=0;t=2|` +
			"X-Ratelimit-Limit: 100|X-Ratelimit-Remaining: 0|X-Ratelimit-Reset: 1700000002"},
		{"no style", 0, allowed, ""},
		{"no items", AllStyles, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			new(Setter).Set(h, tt.styles, tt.items, now)
			var lines []string
			for name, values := range h {
				if name != http.CanonicalHeaderKey(name) {
					t.Errorf("%q is not canonical", name)
				}
				lines = append(lines, name+": "+strings.Join(values, "|"))
			}
			slices.Sort(lines)
			if got := strings.Join(lines, "|"); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// Two limiters behind each other: lists grow, single values are replaced.
func TestSetTwice(t *testing.T) {
	h := http.Header{}
	var s Setter
	s.Set(h, IETF|XDelta, []Item{{Name: "outer", Limit: 9, Remaining: 8}}, time.Time{})
	s.Set(h, IETF|XDelta, []Item{{Name: "inner", Limit: 5, Remaining: 4}}, time.Time{})
	if got, want := strings.Join(h["Ratelimit"], "|"), `"outer";r=8;t=1|"inner";r=4;t=1`; got != want {
		t.Errorf("RateLimit: got %s, want %s", got, want)
	}
	if got, want := strings.Join(h["Ratelimit-Policy"], "|"), `"outer";q=9|"inner";q=5`; got != want {
		t.Errorf("RateLimit-Policy: got %s, want %s", got, want)
	}
	if got := strings.Join(h["X-Ratelimit-Limit"], "|"); got != "5" {
		t.Errorf("X-RateLimit-Limit: got %s, want 5", got)
	}
}

// Values that were handed out stay as they are, and apart, while blocks fill.
func TestSetterKeepsItsValues(t *testing.T) {
	var s Setter
	items := []Item{{Name: "a", Limit: 100}}
	headers := make([]http.Header, 20*valuesBlock)
	for i := range headers {
		headers[i] = http.Header{}
		items[0].Remaining = int64(i)
		s.Set(headers[i], IETF|XDelta, items, time.Time{})
		headers[i].Add("X-Ratelimit-Remaining", "more")
	}
	for i, h := range headers {
		want := string(AppendLimit(nil, []Item{{Name: "a", Remaining: int64(i)}}))
		if got := strings.Join(h["Ratelimit"], "|"); got != want {
			t.Fatalf("header %d: got %s, want %s", i, got, want)
		}
		if got, want := strings.Join(h["X-Ratelimit-Remaining"], "|"), string(appendInteger(nil, int64(i)))+"|more"; got != want {
			t.Fatalf("header %d: got %s, want %s", i, got, want)
		}
	}
	if got := s.text.Cap(); got > 2*textBlock {
		t.Errorf("a block grew to %d bytes", got)
	}
	items[0].Name = strings.Repeat("long", textBlock)
	h := http.Header{}
	s.Set(h, IETF, items, time.Time{})
	if got := h.Get("Ratelimit"); len(got) < 4*textBlock {
		t.Errorf("a name longer than a block was cut to %d bytes", len(got))
	}
}

func TestNoAllocation(t *testing.T) {
	p := prepare(t, headgate.PerMinute(60))
	q := prepare(t, headgate.QuotaPer(1000, headgate.Day))
	o := &headgate.Outcome{Allowed: true, Limit: 60, Remaining: 30, ResetAfter: 30 * time.Second}
	buf := make([]byte, 0, 512)
	items := make([]Item, 2)
	if n := testing.AllocsPerRun(100, func() {
		items[0], items[1] = From("rate", p, o), From("daily", q, o)
		list := Tightest(items)
		buf = AppendLimit(AppendPolicy(buf[:0], list), list)
	}); n != 0 || len(buf) != len(`"rate";q=60;w=60, "daily";q=60;w=86400"rate";r=30;t=30, "daily";r=30;t=30`) {
		t.Errorf("%v allocations for %s, want 0", n, buf)
	}
	// Two values per call, valuesBlock of them per block.
	var s Setter
	h := http.Header{}
	if n := testing.AllocsPerRun(10*valuesBlock, func() { s.Set(h, IETF, items, time.Time{}); clear(h) }); n != 0 {
		t.Errorf("Set: %v allocations, want 0 on average", n)
	}
}

func FuzzAppend(f *testing.F) {
	f.Add("burst", int64(100), int64(50), int64(60), false, false, int64(30e9), int64(0), uint64(0))
	f.Add("plan/daily", int64(-1), int64(math.MaxInt64), int64(-60), true, false, int64(math.MaxInt64), int64(1), uint64(math.MaxUint64))
	f.Add("a\"\\b", int64(0), int64(0), int64(0), false, true, int64(math.MinInt64), int64(1e9+1), uint64(1)<<63)
	f.Add("a\r\nb", int64(0), int64(0), int64(0), true, true, int64(0), int64(0), uint64(7))
	f.Fuzz(func(t *testing.T, name string, limit, remaining, window int64, refused, concurrent bool, wait, reset int64, random uint64) {
		it := Item{Name: name, Limit: limit, Remaining: remaining, Window: window, Concurrent: concurrent, Refused: refused, Wait: time.Duration(wait), Reset: time.Duration(reset)}
		items := Tightest([]Item{it, {Name: "other", Limit: 5, Remaining: 5, Window: 1}, it, it, it})
		policies, err := parseList(string(AppendPolicy(nil, items)))
		if err != nil {
			t.Fatal(err)
		}
		limits, err := parseList(string(AppendLimit(nil, items)))
		if err != nil {
			t.Fatal(err)
		}
		if len(policies) != len(items) || len(limits) != len(items) || len(items) > MaxItems {
			t.Fatalf("%d items, %d policies, %d limits", len(items), len(policies), len(limits))
		}
		for i, it := range items {
			p, l := policies[i], limits[i]
			if p.name != it.Name || l.name != it.Name {
				t.Fatalf("names %q and %q, want %q", p.name, l.name, it.Name)
			}
			if w, ok := p.number["w"]; ok && w < 1 || ok != (it.Window > 0) {
				t.Fatalf("w=%d for %+v", w, it)
			}
			if p.text["qu"] == "concurrent-requests" != it.Concurrent {
				t.Fatalf("qu=%q for %+v", p.text["qu"], it)
			}
			if q := p.number["q"]; p.keys[0] != "q" || it.Limit >= 0 && it.Limit <= maxInteger && q != it.Limit {
				t.Fatalf("q=%d for %+v", q, it)
			}
			if l.keys[0] != "r" || l.keys[1] != "t" || len(l.keys) != 2 || l.number["t"] < 1 {
				t.Fatalf("RateLimit %+v", l)
			}
			if time.Duration(l.number["t"])*time.Second < it.Wait && it.Wait < headgate.MaxPeriod {
				t.Fatalf("t=%d is before %v", l.number["t"], it.Wait)
			}
			for _, jitter := range []int{0, 10, 100} {
				after, top := RetryAfter(it.Wait, jitter, random), l.number["t"]*int64(100+jitter)/100+1
				if after < l.number["t"] || after > top {
					t.Fatalf("Retry-After %d for t=%d and %d %% of jitter", after, l.number["t"], jitter)
				}
			}
		}
		h := http.Header{}
		new(Setter).Set(h, AllStyles, items, time.Unix(1_700_000_000, reset%1e9))
		for field, values := range h {
			for _, v := range values {
				if strings.ContainsAny(v, "\r\n\x00") {
					t.Fatalf("%s: %q", field, v)
				}
			}
		}
	})
}

func BenchmarkSet(b *testing.B) {
	p := prepare(b, headgate.PerMinute(60).WithName("rate"))
	o := &headgate.Outcome{Allowed: true, Limit: 60, Remaining: 30, ResetAfter: 30 * time.Second}
	var s Setter
	h, items := http.Header{}, make([]Item, 1)
	b.ReportAllocs()
	for b.Loop() {
		clear(h)
		items[0] = From(p.Name, p, o)
		s.Set(h, IETF, Tightest(items), time.Time{})
	}
	if got := h.Get("RateLimit"); got != `"rate";r=30;t=30` {
		b.Fatalf("got %s", got)
	}
}
