package main

import (
	"bytes"
	"strings"
	"testing"
)

const firstRound = `goos: linux
cpu: Some CPU
BenchmarkHotKey/headgate-2         	 1000000	       100 ns/op	       0 B/op	       0 allocs/op
BenchmarkHotKey/failsafe-go-2      	 2312217	       200 ns/op	       0 B/op	       0 allocs/op
BenchmarkNewKey/headgate-batch     	       1	       739.9 ns/op	        36.77 max-ms
PASS
`

const secondRound = `
BenchmarkHotKey/headgate-2         	 1000000	       1000 ns/op	       0 B/op	       0 allocs/op
BenchmarkHotKey/failsafe-go-2      	 2312217	       1300 ns/op	       0 B/op	       0 allocs/op
`

func parsed(t *testing.T) (results, string) {
	t.Helper()
	rs, raw := results{}, new(bytes.Buffer)
	for round, out := range []string{firstRound, secondRound} {
		if err := rs.add(round, []byte(out), raw); err != nil {
			t.Fatal(err)
		}
	}
	return rs, raw.String()
}

func TestResults(t *testing.T) {
	rs, raw := parsed(t)
	if v, ok := rs.median("HotKey/headgate", "ns/op"); !ok || v != 550 {
		t.Errorf("median %v %v, want 550", v, ok)
	}
	if v, ok := rs.ratio("HotKey/failsafe-go", "HotKey/headgate", "ns/op"); !ok || v != (2+1.3)/2 {
		t.Errorf("ratio %v %v, want 1.65", v, ok)
	}
	if v, ok := rs.median("NewKey/headgate-batch", "max-ms"); !ok || v != 36.77 {
		t.Errorf("max-ms %v %v, want 36.77", v, ok)
	}
	if _, ok := rs.median("NewKey/headgate", "max-ms"); ok {
		t.Error("a median of nothing")
	}
	if n := strings.Count(raw, "\n"); n != 5 {
		t.Errorf("%d raw lines, want 5:\n%s", n, raw)
	}
	if err := rs.add(0, []byte(firstRound), new(bytes.Buffer)); err == nil {
		t.Error("two results in one round were taken")
	}
}

func TestGoals(t *testing.T) {
	rs, _ := parsed(t)
	r := &row{bench: "HotKey", ours: "headgate", rivals: []string{"failsafe-go"}}
	for _, c := range []struct {
		goal    goal
		said    string
		reached bool
	}{
		{faster(1.6, "HotKey/failsafe-go"), ">= 1.6 x HotKey/failsafe-go (1.65, yes)", true},
		{faster(1.7, bestRival), ">= 1.7 x the best rival (1.65, no)", false},
		{within(0.7, "HotKey/failsafe-go"), "<= 0.7 x HotKey/failsafe-go (0.63, yes)", true},
		{within(0.6, "HotKey/failsafe-go"), "<= 0.6 x HotKey/failsafe-go (0.63, no)", false},
		{atMost(550, "ns/op"), "<= 550 ns/op (yes)", true},
		{atMost(549, "ns/op"), "<= 549 ns/op (no)", false},
		{noAllocations, "<= 0 allocs/op (yes)", true},
		{faster(1, "Uniform/sethvargo"), ">= 1 x Uniform/sethvargo (not run)", false},
		{atMost(1, "B/key"), "<= 1 B/key (no)", false},
	} {
		if said, reached := c.goal.judge(r, "failsafe-go", rs); said != c.said || reached != c.reached {
			t.Errorf("%q %v, want %q %v", said, reached, c.said, c.reached)
		}
	}
}

func TestJobs(t *testing.T) {
	rows := []row{
		{group: hot, bench: "HotKey", ours: "headgate", rivals: []string{"uber"}},
		{group: hot, bench: "HotKey", ours: "headgate-batch"},
		{group: hot, bench: "Denial", ours: "headgate"},
		{group: memory, bench: "BytesPerKey", ours: "headgate"},
	}
	var got []string
	for round := range 2 {
		for _, j := range jobsOf(rows, round) {
			got = append(got, j.pattern())
		}
	}
	want := []string{
		"^Benchmark(HotKey|Denial)$/^headgate$", "^Benchmark(HotKey)$/^headgate-batch$", "^Benchmark(HotKey)$/^uber$",
		"^Benchmark(BytesPerKey)$/^headgate$", "^Benchmark(Floor)$",
		"^Benchmark(HotKey)$/^headgate-batch$", "^Benchmark(HotKey)$/^uber$", "^Benchmark(HotKey|Denial)$/^headgate$",
		"^Benchmark(Floor)$",
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}
