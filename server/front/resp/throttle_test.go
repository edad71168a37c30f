package resp

import (
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
)

// clockAt is a clock that a test sets, in milliseconds.
func clockAt(at *int64) func() int64 {
	base := time.Now().UnixMicro()
	return func() int64 { return base + *at*1000 }
}

// TestCell: redis-cell's own examples, answer by answer: a burst of 4 beyond one,
// one a second.
func TestCell(t *testing.T) {
	var at int64
	g, _ := realGate(t, testPolicy)
	_, address := start(t, Config{Gate: g, Now: clockAt(&at)})
	p := dial(t, "tcp", address)
	for _, tt := range []struct {
		at, quantity                      int64
		limited, remaining, retry, resets int64 // seconds, -1 for never or none
	}{
		{0, 6, 1, 5, -1, 0},
		{0, 1, 0, 4, -1, 1}, {0, 1, 0, 3, -1, 2}, {0, 1, 0, 2, -1, 3}, {0, 1, 0, 1, -1, 4}, {0, 1, 0, 0, -1, 5},
		{0, 1, 1, 0, 1, 5},
		{3000, 1, 0, 2, -1, 3},
		{3100, 1, 0, 1, -1, 4}, // 3900 ms
		{4000, 1, 0, 1, -1, 4},
		{8000, 1, 0, 4, -1, 1},
		{9500, 1, 0, 4, -1, 1},
		{9500, 0, 0, 4, -1, 1},
		{9500, 2, 0, 2, -1, 3},
		{9500, 5, 1, 2, 3, 3},
	} {
		at = tt.at
		args := []string{"CL.THROTTLE", "k", "4", "1", "1", fmt.Sprint(tt.quantity)}
		if tt.quantity == 1 {
			args = args[:5]
		}
		equal(t, p.do(args...), []any{tt.limited, int64(5), tt.remaining, tt.retry, tt.resets})
	}
}

// TestCrab: throttlecrab's replies: its burst is the limit itself, and the retry
// comes last.
func TestCrab(t *testing.T) {
	var at int64
	g, _ := realGate(t, testPolicy)
	_, address := start(t, Config{Gate: g, Now: clockAt(&at)})
	p := dial(t, "tcp", address)
	equal(t, p.do("THROTTLE", "k", "2", "1", "10"), []any{int64(1), int64(2), int64(1), int64(10), int64(0)})
	equal(t, p.do("throttle", "k", "2", "1", "10", "1"), []any{int64(1), int64(2), int64(0), int64(20), int64(0)})
	equal(t, p.do("THROTTLE", "k", "2", "1", "10", "1"), []any{int64(0), int64(2), int64(0), int64(20), int64(10)})
	equal(t, p.do("THROTTLE", "k", "2", "1", "10", "0"), []any{int64(1), int64(2), int64(0), int64(20), int64(0)})
	at = 10_001
	equal(t, p.do("THROTTLE", "k", "2", "1", "10", "1"), []any{int64(1), int64(2), int64(0), int64(20), int64(0)})
}

func TestHGThrottle(t *testing.T) {
	g, _ := realGate(t, testPolicy)
	_, address := start(t, Config{Gate: g})
	p := dial(t, "tcp", address)
	p.do("HELLO", "3")
	m, err := fields(p.do("HG.THROTTLE", "k", "5", "1", "60000", "3"))
	if err != nil || m["allowed"] != int64(1) || m["limit"] != int64(5) || m["remaining"] != int64(2) || m["bound_by"] != "throttle" || m["cost"] != int64(3) {
		t.Errorf("%v %v", m, err)
	}
	m, err = fields(p.do("HG.THROTTLE", "k", "5", "1", "60000", "3"))
	if ms, _ := m["retry_after_ms"].(int64); err != nil || m["allowed"] != int64(0) || ms < 59_000 || ms > 60_000 {
		t.Errorf("%v %v", m, err)
	}
}

// TestThrottleAsked: what a command says reaches the gate, at the instant of the read;
// what only looks is not reported.
func TestThrottleAsked(t *testing.T) {
	f, decided := new(fakeGate), 0
	_, address := start(t, Config{Gate: f, Now: func() int64 { return 77 }, Decided: func(*gate.Decision, time.Duration) { decided++ }})
	p := dial(t, "tcp", address)
	for _, tt := range []struct {
		args []string
		want gate.Throttle
	}{
		{[]string{"CL.THROTTLE", "k", "15", "30", "60"}, gate.Throttle{Key: "k", Count: 30, Period: time.Minute, Burst: 16, Cost: 1, Now: 77}},
		{[]string{"CL.THROTTLE", "k", "0", "30", "60", "7"}, gate.Throttle{Key: "k", Count: 30, Period: time.Minute, Burst: 1, Cost: 7, Now: 77}},
		{[]string{"CL.THROTTLE", "k", "15", "30", "60", "0"}, gate.Throttle{Key: "k", Count: 30, Period: time.Minute, Burst: 16, Peek: true, Now: 77}},
		{[]string{"THROTTLE", "k", "15", "30", "60"}, gate.Throttle{Key: "k", Count: 30, Period: time.Minute, Burst: 15, Cost: 1, Now: 77}},
		{[]string{"THROTTLE", "k", "15", "30", "60", "0"}, gate.Throttle{Key: "k", Count: 30, Period: time.Minute, Burst: 15, Peek: true, Now: 77}},
		{[]string{"HG.THROTTLE", "\xff", "0", "30", "1"}, gate.Throttle{Key: "\xff", Count: 30, Period: time.Millisecond, Cost: 1, Now: 77}},
		{[]string{"HG.THROTTLE", "k", "5", "30", "1500", "9007199254740991"}, gate.Throttle{Key: "k", Count: 30, Period: 1500 * time.Millisecond, Burst: 5, Cost: 1<<53 - 1, Now: 77}},
	} {
		before := decided
		p.do(tt.args...)
		if f.throttle != tt.want || (decided == before) != tt.want.Peek {
			t.Errorf("%v: asked %+v, reported %d", tt.args, f.throttle, decided-before)
		}
	}
	equal(t, p.do("CL.THROTTLE", "k", "15", "30", "60"), []any{int64(1), int64(16), int64(0), int64(1), int64(1)}) // 1500 us are a second, told
}

func TestThrottleFaults(t *testing.T) {
	g, _ := realGate(t, testPolicy)
	_, address := start(t, Config{Gate: g})
	p := dial(t, "tcp", address)
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"Cell error: Usage: cl.throttle <key> <max_burst> <count per period> <period> [<quantity>]", []string{"CL.THROTTLE"}},
		{"Cell error: Usage: cl.throttle <key> <max_burst> <count per period> <period> [<quantity>]", []string{"CL.THROTTLE", "k", "1", "1"}},
		{"Cell error: Usage: cl.throttle <key> <max_burst> <count per period> <period> [<quantity>]", []string{"CL.THROTTLE", "k", "1", "1", "1", "1", "1"}},
		{"Cell error: Couldn't parse as integer: x", []string{"CL.THROTTLE", "k", "x", "1", "1"}},
		{"Cell error: Couldn't parse as integer: 1.5", []string{"CL.THROTTLE", "k", "1", "1", "1", "1.5"}},
		{"Cell error: Couldn't parse as integer: a -ERR b", []string{"CL.THROTTLE", "k", "1", "a\r-ERR\nb", "1"}},
		{"Cell error: Couldn't parse as integer: 99999999999999999999", []string{"CL.THROTTLE", "k", "99999999999999999999", "1", "1"}},
		{"Cell error: Zero rates are not supported", []string{"CL.THROTTLE", "k", "1", "0", "1"}},
		{"Cell error: Zero rates are not supported", []string{"CL.THROTTLE", "k", "1", "1", "0"}},
		{"Cell error: max_burst, count, period and quantity must not be negative", []string{"CL.THROTTLE", "k", "-1", "1", "1"}},
		{"Cell error: max_burst, count, period and quantity must not be negative", []string{"CL.THROTTLE", "k", "1", "1", "1", "-1"}},
		{"Cell error: key: is required", []string{"CL.THROTTLE", "", "1", "1", "1"}},
		{"Cell error: key: has a line break or NUL", []string{"CL.THROTTLE", "a\n", "1", "1", "1"}},
		{"ERR wrong number of arguments for 'throttle' command: THROTTLE key max_burst count period [quantity]", []string{"THROTTLE", "k"}},
		{"ERR \"x\": must be a whole number", []string{"THROTTLE", "k", "x", "1", "1"}},
		{"ERR max_burst: 0: must be at least 1", []string{"THROTTLE", "k", "0", "1", "1"}},
		{"ERR rate: 1 per 0 s: both must be at least 1", []string{"THROTTLE", "k", "1", "1", "0"}},
		{"ERR quantity: -1: must not be negative", []string{"THROTTLE", "k", "1", "1", "1", "-1"}},
		{"ERR burst: -1: must not be negative; 0 is the count", []string{"HG.THROTTLE", "k", "-1", "1", "1"}},
		{"ERR rate: 0 per 1 ms: both must be at least 1", []string{"HG.THROTTLE", "k", "1", "0", "1"}},
		{"ERR cost: 9007199254740992: must be 0 to 9007199254740991", []string{"HG.THROTTLE", "k", "1", "1", "1", "9007199254740992"}},
	} {
		equal(t, p.do(tt.args...), refusal(tt.want))
	}
	for _, args := range [][]string{
		{"CL.THROTTLE", "k", "1", "1", "999999999999999999"}, {"CL.THROTTLE", "k", "999999999999999999", "1", "1"},
		{"CL.THROTTLE", "k", "1", "999999999999999999", "1"}, {"CL.THROTTLE", "k", "1", "1", "1", "999999999999999999"},
	} {
		if e, ok := p.do(args...).(refusal); !ok || len(e) < 20 || e[:12] != "Cell error: " {
			t.Errorf("%v: %v", args, e)
		}
	}
}
