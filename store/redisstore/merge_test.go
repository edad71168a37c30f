package redisstore

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// mergeLimits are a limit and one that its parent has.
func mergeLimits(t *testing.T) (own, shared *headgate.Prepared) {
	t.Helper()
	return prepare(t, headgate.PerSecond(5).WithName("own")), prepare(t, headgate.Window(1000, time.Hour).WithName("shared"))
}

// calls makes the calls of batches, each a Take unless said otherwise.
func calls(s *scheme, batches ...*headgate.Batch) (all []*payload) {
	for _, b := range batches {
		p := new(payload)
		p.batch(s, scriptOp(b.Op), b, 0)
		all = append(all, p)
	}
	return all
}

func TestGroupMergesEqualTakes(t *testing.T) {
	s := newScheme("test:", false)
	own, shared := mergeLimits(t)
	take := func(owner string, cost int64, more ...headgate.Charge) *headgate.Batch {
		return batchOf(t, headgate.Take, append([]headgate.Charge{{Limit: own, Owner: owner, Cost: cost}}, more...)...)
	}
	peek := batchOf(t, headgate.Peek, headgate.Charge{Limit: own, Owner: "a", Cost: 1})
	held := take("a", 1)
	held.Hold, held.HoldFor = 7, 1000
	org := headgate.Charge{Limit: shared, Owner: "org", Cost: 1, Parent: true}
	for _, test := range []struct {
		name    string
		batches []*headgate.Batch
		places  []place
		mode    byte
	}{
		{"alone", []*headgate.Batch{take("a", 1)}, []place{{0, 0}}, modeDistinct},
		{"equal", []*headgate.Batch{take("a", 1), take("a", 1), take("a", 1)}, []place{{0, 0}, {0, 1}, {0, 2}}, modeDistinct},
		{"others between", []*headgate.Batch{take("a", 1), take("b", 1), take("a", 1), take("b", 1)}, []place{{0, 0}, {1, 0}, {0, 1}, {1, 1}}, modeDistinct},
		{
			"other costs", []*headgate.Batch{take("a", 1), take("a", 2), take("a", 3), take("a", 1), take("a", 2)},
			[]place{{0, 0}, {1, 0}, {2, 0}, {0, 1}, {1, 1}}, modeRepeated,
		},
		{"asked", []*headgate.Batch{peek, peek, take("a", 1)}, []place{{0, 0}, {1, 0}, {2, 0}}, modeRepeated},
		{"a key shared", []*headgate.Batch{take("a", 1, org), take("b", 1, org), take("a", 1, org)}, []place{{0, 0}, {1, 0}, {0, 1}}, modeRepeated},
		{"a key first and second", []*headgate.Batch{take("org", 1), take("a", 1, org), take("org", 1)}, []place{{0, 0}, {1, 0}, {0, 1}}, modeRepeated},
		{"a key second and first", []*headgate.Batch{take("a", 1, org), take("org", 1), take("org", 1)}, []place{{0, 0}, {1, 0}, {1, 1}}, modeRepeated},
		{"for the engine", []*headgate.Batch{held, held, take("a", 1), take("a", 1)}, []place{{0, 0}, {1, 0}, {2, 0}, {3, 0}}, modeGeneral},
	} {
		var g group
		for range 2 { // it may be used again, and calls may go again
			g.fill(headgate.Epoch{ID: 1}, 0, calls(s, test.batches...))
			if !slices.Equal(g.places, test.places) || g.args[0][0] != test.mode {
				t.Errorf("%s: %v in mode %d, want %v in %d", test.name, g.places, g.args[0][0], test.places, test.mode)
			}
			for i, l := range g.leads {
				if n := int(g.args[i+1][6]); n != l.times {
					t.Errorf("%s: call %d goes %d times, want %d", test.name, i, n, l.times)
				}
			}
		}
	}
}

// One answer to equal calls serves all of them, one of the engine only its own.
func TestGroupSharesAnswers(t *testing.T) {
	s := newScheme("test:", false)
	own, _ := mergeLimits(t)
	take := batchOf(t, headgate.Take, headgate.Charge{Limit: own, Owner: "a", Cost: 1})
	other := batchOf(t, headgate.Take, headgate.Charge{Limit: own, Owner: "b", Cost: 1})
	var g group
	g.fill(headgate.Epoch{ID: 1}, 0, calls(s, take, other, take, other))
	const fast, general = "\x01", "\x00"
	for _, test := range []struct{ answers, want []string }{
		{[]string{fast + "a", fast + "b"}, []string{fast + "a0", fast + "b0", fast + "a1", fast + "b1"}},
		{[]string{general + "a", general + "A", general + "b", general + "B"}, []string{general + "a0", general + "b0", general + "A0", general + "B0"}},
		{[]string{fast + "a"}, nil},
		{[]string{fast + "a", fast + "b", fast + "c"}, nil},
		{[]string{general + "a", general + "A", general + "b"}, nil},
		{[]string{"", ""}, nil},
		{nil, nil},
	} {
		var got []string
		replies, err := g.replies(test.answers)
		for _, r := range replies {
			got = append(got, fmt.Sprint(r.text, r.rank))
		}
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%q: %q, %v, want %q", test.answers, got, err, test.want)
		}
	}
}

// An answer that comes after its caller has gone says whether that call was one of
// those that passed.
func TestTakenOfEqualCalls(t *testing.T) {
	s := newScriptStore(t, true)
	own, _ := mergeLimits(t)
	take := batchOf(t, headgate.Take, headgate.Charge{Limit: own, Owner: "a", Cost: 2})
	const now = 1_700_000_000_000_000
	answers, err := s.group(t.Context(), now, calls(s.scheme, take, take, take)...)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, true, false} { // 2 and 2 of 5
		if got := taken(answers[i]); got != want {
			t.Errorf("call %d: taken %v, want %v", i, got, want)
		}
	}
}
