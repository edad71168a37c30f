package headgate_test

import (
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

const century = headgate.MaxPeriod

func TestPrepareRefuses(t *testing.T) {
	type limit = headgate.Limit
	kind := func(a headgate.Algorithm, l limit) limit { l.Algorithm = a; return l }
	tests := []struct {
		name string
		l    limit
		want string
	}{
		{"zero value", limit{}, `limit "": count 0: must be 1 to 9007199254740991`},
		{"negative count", headgate.PerSecond(-1), `limit "": count -1: must be 1 to 9007199254740991`},
		{"count beyond", headgate.PerSecond(headgate.MaxInt + 1), `limit "": count 9007199254740992: must be 1 to 9007199254740991`},
		{"scope too long", headgate.PerSecond(1).WithScope(strings.Repeat("s", 513)), `limit "": scope of 513 bytes: at most 512`},
		{"name too long", headgate.PerSecond(1).WithName(strings.Repeat("n", 65)), `limit "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn": name of 65 bytes: must be 1 to 64`},
		{"name with a space", headgate.PerSecond(1).WithName("per second"), `limit "per second": name "per second": ' ' is not one of a-z, A-Z, 0-9, '_', '.', '-'`},
		{"name with a newline", headgate.PerSecond(1).WithName("a\nb"), `limit "a\nb": name "a\nb": '\n' is not one of a-z, A-Z, 0-9, '_', '.', '-'`},
		{"name not ASCII", headgate.PerSecond(1).WithName("größe"), `limit "größe": name "größe": 'ö' is not one of a-z, A-Z, 0-9, '_', '.', '-'`},
		{"unknown algorithm", kind(99, limit{Count: 1}), `limit "": unknown algorithm(99)`},

		{"bucket without a period", limit{Count: 1}, `limit "": period 0s: must be positive`},
		{"bucket of a negative period", headgate.Per(1, -time.Second), `limit "": period -1s: must be positive`},
		{"bucket of a period in nanoseconds", headgate.Per(1, 1500*time.Nanosecond), `limit "": period 1.5µs: must be whole microseconds`},
		{"bucket of too long a period", headgate.Per(1, century+time.Microsecond), `limit "": period 876000h0m0.000001s: at most 876000h0m0s`},
		{"negative burst", headgate.PerSecond(1).WithBurst(-1), `limit "": burst -1: must be 1 to 9007199254740991`},
		{"burst beyond", headgate.PerSecond(1).WithBurst(headgate.MaxInt + 1), `limit "": burst 9007199254740992: must be 1 to 9007199254740991`},
		{"burst that overflows", headgate.PerSecond(7).WithBurst(9_007_199_255), `limit "": burst 9007199255 at 7 per 1s needs 9007199255000000 units of 1/1000000 token plus 7 a microsecond: must stay below 2^53 = 9007199254740992; use a smaller burst or a rounder rate`},
		{"burst that overflows 64 bits", headgate.Per(7, century).WithBurst(headgate.MaxInt), `limit "": burst 9007199254740991 at 7 per 876000h0m0s needs 28405103569751189217600000000000 units of 1/3153600000000000 token plus 7 a microsecond: must stay below 2^53 = 9007199254740992; use a smaller burst or a rounder rate`},
		{"rate that leaves no room", headgate.Per(headgate.MaxInt, time.Microsecond), `limit "": burst 9007199254740991 at 9007199254740991 per 1µs needs 9007199254740991 units of 1/1 token plus 9007199254740991 a microsecond: must stay below 2^53 = 9007199254740992; use a smaller burst or a rounder rate`},
		{"rate and burst one too many", headgate.Per(headgate.MaxInt-1, time.Microsecond).WithBurst(2), `limit "": burst 2 at 9007199254740990 per 1µs needs 2 units of 1/1 token plus 9007199254740990 a microsecond: must stay below 2^53 = 9007199254740992; use a smaller burst or a rounder rate`},
		{"101 years to refill", headgate.Per(1, time.Microsecond).WithBurst(century.Microseconds() / 100 * 101), `limit "": burst 3185136000000000 at 1 per 1µs takes 36865 days to refill: at most 36500`},
		{"two centuries to refill", headgate.Per(1, century).WithBurst(2), `limit "": burst 2 at 1 per 876000h0m0s takes 73000 days to refill: at most 36500`},
		{"bucket with slices", headgate.PerSecond(1).WithSlices(2), `limit "": slices 2: only sliding_window has them, not token_bucket`},
		{"bucket with a ttl", limit{Count: 1, Period: time.Second, TTL: time.Second}, `limit "": ttl 1s: only concurrency, ban and idempotency have one, not token_bucket`},
		{"bucket that is soft", limit{Count: 1, Period: time.Second, Soft: true}, `limit "": calendar, soft and rollover: only a quota has them, not token_bucket`},
		{"bucket with a rollover", limit{Count: 1, Period: time.Second, Rollover: 1}, `limit "": calendar, soft and rollover: only a quota has them, not token_bucket`},
		{"bucket with a calendar", headgate.PerSecond(1).In(time.UTC), `limit "": calendar, soft and rollover: only a quota has them, not token_bucket`},

		{"window with a burst", headgate.Window(1, time.Second).WithBurst(2), `limit "": burst 2: only buckets have one, not fixed_window`},
		{"window without a period", headgate.Window(1, 0), `limit "": period 0s: must be positive`},
		{"negative slices", headgate.Sliding(1, time.Second).WithSlices(-1), `limit "": slices -1: must be 1 to 60`},
		{"too many slices", headgate.Sliding(1, time.Minute).WithSlices(61), `limit "": slices 61: must be 1 to 60`},
		{"slices of fractions", headgate.Sliding(1, time.Second).WithSlices(3), `limit "": period 1s cut into 3 slices: a slice must be whole microseconds`},
		{"sliding window of 1µs", headgate.Sliding(1, time.Microsecond), `limit "": period 1µs cut into 10 slices: a slice must be whole microseconds`},
		{"log too long", headgate.Log(headgate.MaxLog+1, time.Second), `limit "": count 10001: a sliding log keeps at most 10000 charges; use sliding_window`},

		{"quota without a unit", headgate.QuotaPer(1, headgate.NoUnit), `limit "": a quota needs a calendar unit: hour, day, week, month or year`},
		{"quota with a period", kind(headgate.Quota, limit{Count: 1, Period: time.Hour}), `limit "": period 1h0m0s: a quota's period is its calendar`},
		{"negative rollover", kind(headgate.Quota, limit{Count: 1, Rollover: -1, Calendar: headgate.Calendar{Unit: headgate.Day}}), `limit "": rollover -1: with count 1 must stay within 0 and 9007199254740991`},
		{"rollover beyond", kind(headgate.Quota, limit{Count: 2, Rollover: headgate.MaxInt - 1, Calendar: headgate.Calendar{Unit: headgate.Day}}), `limit "": rollover 9007199254740990: with count 2 must stay within 0 and 9007199254740991`},
		{"anchored day", headgate.QuotaPer(1, headgate.Day).AnchoredAt(1), `limit "": anchor 1: only weeks, months and years have one, not a quota per day`},
		{"anchored hour", headgate.QuotaPer(1, headgate.Hour).AnchoredAt(30), `limit "": anchor 30: only weeks, months and years have one, not a quota per hour`},
		{"weekday 8", headgate.QuotaPer(1, headgate.Week).AnchoredAt(8), `limit "": anchor 8: for a week must be 1 to 7, or 0 for the first`},
		{"weekday -1", headgate.QuotaPer(1, headgate.Week).AnchoredAt(-1), `limit "": anchor -1: for a week must be 1 to 7, or 0 for the first`},
		{"day 32", headgate.QuotaPer(1, headgate.Month).AnchoredAt(32), `limit "": anchor 32: for a month must be 1 to 31, or 0 for the first`},
		{"31 April", headgate.QuotaPer(1, headgate.Year).AnchoredAt(431), `limit "": anchor 431: a year starts at month*100+day, such as 401`},
		{"month 13", headgate.QuotaPer(1, headgate.Year).AnchoredAt(1301), `limit "": anchor 1301: a year starts at month*100+day, such as 401`},
		{"year anchored by a day", headgate.QuotaPer(1, headgate.Year).AnchoredAt(31), `limit "": anchor 31: a year starts at month*100+day, such as 401`},
		{"negative year anchor", headgate.QuotaPer(1, headgate.Year).AnchoredAt(-401), `limit "": anchor -401: a year starts at month*100+day, such as 401`},

		{"too many slots", headgate.InFlight(headgate.MaxInFlight+1, time.Second), `limit "": count 10001: a concurrency limit holds at most 10000 slots`},
		{"slots with a period", kind(headgate.Concurrency, limit{Count: 1, Period: time.Second}), `limit "": period 1s: a concurrency limit has a ttl, no period`},
		{"slots for too long", headgate.InFlight(1, 24*time.Hour+time.Microsecond), `limit "": ttl 24h0m0.000001s: at most 24h0m0s`},
		{"slots of a negative ttl", headgate.InFlight(1, -1), `limit "": ttl -1ns: must be positive`},
		{"ban without a ttl", kind(headgate.Ban, limit{Count: 1, Period: time.Second}), `limit "": ttl 0s: must be positive`},
		{"ban without a period", kind(headgate.Ban, limit{Count: 1, TTL: time.Second}), `limit "": period 0s: must be positive`},
		{"ban for too long", kind(headgate.Ban, limit{Count: 1, Period: time.Second, TTL: century + time.Microsecond}), `limit "": ttl 876000h0m0.000001s: at most 876000h0m0s`},
		{"too many remembered", kind(headgate.Idempotency, limit{Count: headgate.MaxRemembered + 1}), `limit "": count 65: at most 64 requests are remembered`},
		{"remembered with a period", kind(headgate.Idempotency, limit{Count: 1, Period: time.Second}), `limit "": period 1s: an idempotency limit has a ttl, no period`},
		{"remembered for too long", kind(headgate.Idempotency, limit{Count: 1, TTL: 24*time.Hour + time.Microsecond}), `limit "": ttl 24h0m0.000001s: at most 24h0m0s`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := tt.l.Prepare()
			if err == nil {
				t.Fatalf("accepted: %+v", p)
			}
			if err.Error() != tt.want {
				t.Errorf("error\n got %s\nwant %s", err, tt.want)
			}
			if code := headgate.CodeOf(err); code != headgate.InvalidLimit {
				t.Errorf("code %v, want %v", code, headgate.InvalidLimit)
			}
		})
	}
}

// TestPrepareAtTheBounds: the last numbers that pass, and the first that do
// not.
func TestPrepareAtTheBounds(t *testing.T) {
	day := headgate.Calendar{Unit: headgate.Day}
	tests := []struct {
		name      string
		good, bad headgate.Limit
	}{
		{"count", headgate.Window(headgate.MaxInt, time.Second), headgate.Window(headgate.MaxInt+1, time.Second)},
		{"capacity and refill below 2^53", headgate.Per(headgate.MaxInt-1, time.Microsecond).WithBurst(1), headgate.Per(headgate.MaxInt-1, time.Microsecond).WithBurst(2)},
		{"capacity in fractions", headgate.PerSecond(7).WithBurst(9_007_199_254), headgate.PerSecond(7).WithBurst(9_007_199_255)},
		{"100 years to refill", headgate.Per(1, time.Microsecond).WithBurst(century.Microseconds()), headgate.Per(1, time.Microsecond).WithBurst(century.Microseconds() + 1)},
		{"period", headgate.Window(1, century), headgate.Window(1, century+time.Microsecond)},
		{"shortest period", headgate.Per(1, time.Microsecond), headgate.Per(1, time.Nanosecond)},
		{"slices", headgate.Sliding(1, time.Minute).WithSlices(headgate.MaxSlices), headgate.Sliding(1, time.Minute).WithSlices(headgate.MaxSlices + 1)},
		{"shortest slice", headgate.Sliding(1, 60*time.Microsecond).WithSlices(60), headgate.Sliding(1, 59*time.Microsecond).WithSlices(60)},
		{"log", headgate.Log(headgate.MaxLog, time.Second), headgate.Log(headgate.MaxLog+1, time.Second)},
		{"rollover", headgate.Limit{Algorithm: headgate.Quota, Count: 1, Rollover: headgate.MaxInt - 1, Calendar: day},
			headgate.Limit{Algorithm: headgate.Quota, Count: 1, Rollover: headgate.MaxInt, Calendar: day}},
		{"anchor of a week", headgate.QuotaPer(1, headgate.Week).AnchoredAt(7), headgate.QuotaPer(1, headgate.Week).AnchoredAt(8)},
		{"anchor of a month", headgate.QuotaPer(1, headgate.Month).AnchoredAt(31), headgate.QuotaPer(1, headgate.Month).AnchoredAt(32)},
		{"anchor of a leap day", headgate.QuotaPer(1, headgate.Year).AnchoredAt(229), headgate.QuotaPer(1, headgate.Year).AnchoredAt(230)},
		{"slots", headgate.InFlight(headgate.MaxInFlight, time.Second), headgate.InFlight(headgate.MaxInFlight+1, time.Second)},
		{"ttl", headgate.InFlight(1, 24*time.Hour), headgate.InFlight(1, 24*time.Hour+time.Microsecond)},
		{"name", headgate.PerSecond(1).WithName(strings.Repeat("n", 64)), headgate.PerSecond(1).WithName(strings.Repeat("n", 65))},
		{"scope", headgate.PerSecond(1).WithScope(strings.Repeat("s", 512)), headgate.PerSecond(1).WithScope(strings.Repeat("s", 513))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.good.Prepare(); err != nil {
				t.Errorf("refused: %v", err)
			}
			if p, err := tt.bad.Prepare(); err == nil {
				t.Errorf("accepted: %+v", p)
			}
		})
	}
}

func mustPrepare(t *testing.T, l headgate.Limit) *headgate.Prepared {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPrepareFillsIn(t *testing.T) {
	paris := time.FixedZone("Europe/Paris", 3600)
	tests := []struct {
		l                  headgate.Limit
		name               string
		n, p, full         int64
		window, slice, ttl int64
	}{
		{l: headgate.PerSecond(10), name: "token_bucket-10-1000000us-10", n: 1, p: 100_000, full: 1_000_000},
		{l: headgate.Per(6, 4*time.Microsecond).WithBurst(5), name: "token_bucket-6-4us-5", n: 3, p: 2, full: 10},
		{l: headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 60, Period: time.Minute}, name: "leaky_bucket-60-60000000us-60", n: 1, p: 1_000_000, full: 60_000_000},
		{l: headgate.Window(5, time.Minute), name: "fixed_window-5-60000000us", window: 60_000_000},
		{l: headgate.Sliding(5, time.Minute), name: "sliding_window-5-60000000us", window: 60_000_000, slice: 6_000_000},
		{l: headgate.Log(5, time.Minute), name: "sliding_log-5-60000000us", window: 60_000_000},
		{l: headgate.QuotaPer(5, headgate.Month).In(paris), name: "quota-5-month"},
		{l: headgate.InFlight(5, 0), name: "concurrency-5", ttl: 30_000_000},
		{l: headgate.Limit{Algorithm: headgate.Ban, Count: 5, Period: 10 * time.Microsecond, TTL: time.Hour}, name: "ban-5-10us", window: 10, slice: 2, ttl: 3_600_000_000},
		{l: headgate.PerSecond(1).WithName("Own_name.1-x"), name: "Own_name.1-x", n: 1, p: 1_000_000, full: 1_000_000},
	}
	serials := map[uint32]bool{0: true}
	for _, tt := range tests {
		p := mustPrepare(t, tt.l)
		if p.Name != tt.name || p.N != tt.n || p.P != tt.p || p.Cap != tt.full || p.WindowMicros != tt.window || p.SliceMicros != tt.slice || p.TTLMicros != tt.ttl {
			t.Errorf("%+v\nwant %+v", p, tt)
		}
		if serials[p.Serial] {
			t.Errorf("%s: serial %d is not its own", p.Name, p.Serial)
		}
		serials[p.Serial] = true
	}
}

// TestLabels: a limit without a name is told of by its numbers, and state stays where it
// was.
func TestLabels(t *testing.T) {
	for _, tt := range []struct {
		l     headgate.Limit
		label string
		state string // the name under which it is kept
	}{
		{headgate.PerMinute(60).WithBurst(2), "60-per-minute", "token_bucket-60-60000000us-2"},
		{headgate.PerSecond(10), "10-per-second", "token_bucket-10-1000000us-10"},
		{headgate.PerHour(5), "5-per-hour", "token_bucket-5-3600000000us-5"},
		{headgate.Per(5, 24*time.Hour), "5-per-day", "token_bucket-5-86400000000us-5"},
		{headgate.Per(100, 15*time.Minute), "100-per-15-minutes", "token_bucket-100-900000000us-100"},
		{headgate.Window(5, 90*time.Second), "5-per-90-seconds", "fixed_window-5-90000000us"},
		{headgate.Window(headgate.MaxInt, century-time.Microsecond), "9007199254740991-per-3153599999999999-microseconds", "fixed_window-9007199254740991-3153599999999999us"},
		{headgate.Log(5, time.Millisecond), "5-per-millisecond", "sliding_log-5-1000us"},
		{headgate.QuotaPer(5, headgate.Month), "5-per-month", "quota-5-month"},
		{headgate.InFlight(5, 0), "5-at-once", "concurrency-5"},
		{headgate.Limit{Algorithm: headgate.Ban, Count: 5, Period: time.Minute, TTL: time.Hour}, "ban", "ban-5-60000000us"},
		{headgate.PerMinute(60).WithName("login"), "login", "login"},
	} {
		p := mustPrepare(t, tt.l)
		if p.Label != tt.label || p.Name != tt.state || p.ID != mustPrepare(t, tt.l.WithName(tt.state)).ID {
			t.Errorf("got %q for %q, want %q for %q", p.Label, p.Name, tt.label, tt.state)
		}
		if err := headgate.CheckName(p.Label); err != nil {
			t.Error(err)
		}
	}
}

// TestIdentity: the identity is that of scope and name, and no choice of
// strings makes those of two budgets meet.
func TestIdentity(t *testing.T) {
	id := func(scope, name string) [2]uint64 {
		return mustPrepare(t, headgate.PerSecond(1).WithScope(scope).WithName(name)).ID
	}
	seen := map[[2]uint64][2]string{}
	for _, s := range [][2]string{
		{"", "abc"}, {"a", "bc"}, {"ab", "c"}, {"a\x00", "bc"}, {"a", "b-c"}, {"a-", "bc"}, {"a.b", "c"}, {"a", "b.c"},
		{"\x00\x00\x00\x00\x00\x00\x00\x01a", "bc"}, {"\x00", "abc"}, {"abc", "abc"}, {"A", "bc"}, {"a", "BC"},
	} {
		at := id(s[0], s[1])
		if other, ok := seen[at]; ok {
			t.Errorf("%q and %q have one identity", s, other)
		}
		seen[at] = s
	}
	a, b := mustPrepare(t, headgate.PerSecond(1).WithName("x")), mustPrepare(t, headgate.Window(9, time.Hour).WithName("x"))
	if a.ID != b.ID {
		t.Errorf("the numbers are part of the identity")
	}
	// SHA-256 of eight zero bytes and "x": nodes of all versions agree on it.
	if want := [2]uint64{0xb190c841d315c0e6, 0xaa1c86357b5ee4f6}; a.ID != want {
		t.Errorf("identity %x, want %x", a.ID, want)
	}
}

func TestSameNumbers(t *testing.T) {
	paris := time.FixedZone("Europe/Paris", 3600)
	rate, quota, ban := headgate.PerSecond(10), headgate.QuotaPer(10, headgate.Month), headgate.Limit{Algorithm: headgate.Ban, Count: 1, Period: time.Second, TTL: time.Second}
	soft, rolls, longer := quota, quota, ban
	soft.Soft, rolls.Rollover, longer.TTL = true, 1, time.Minute
	tests := []struct {
		name string
		a, b headgate.Limit
		want bool
	}{
		{"equal", rate, rate, true},
		{"another name and scope", rate, rate.WithName("x").WithScope("y"), true},
		{"burst said and burst by default", rate, rate.WithBurst(10), true},
		{"nil is UTC", quota, quota.In(time.UTC), true},
		{"burst", rate, rate.WithBurst(11), false},
		{"rate", rate, headgate.PerMinute(10), false},
		{"algorithm", rate, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 10, Period: time.Second}, false},
		{"period", headgate.Window(1, time.Second), headgate.Window(1, time.Minute), false},
		{"slices", headgate.Sliding(1, time.Minute), headgate.Sliding(1, time.Minute).WithSlices(5), false},
		{"unit", quota, headgate.QuotaPer(10, headgate.Day), false},
		{"zone", quota, quota.In(paris), false},
		{"anchor", quota, quota.AnchoredAt(2), false},
		{"soft", quota, soft, false},
		{"rollover", quota, rolls, false},
		{"ttl", ban, longer, false},
	}
	for _, tt := range tests {
		a, b := mustPrepare(t, tt.a), mustPrepare(t, tt.b)
		if a.SameNumbers(b) != tt.want || b.SameNumbers(a) != tt.want {
			t.Errorf("%s: same numbers %v, want %v", tt.name, !tt.want, tt.want)
		}
	}
}
