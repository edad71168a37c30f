package envoy_test

import (
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/envoy"
	"github.com/headgate/headgate/store/memstore"
)

// tree is a random configuration, of which each limit has another number.
type tree struct {
	Key         string         `json:"key"`
	Value       string         `json:"value,omitempty"`
	RateLimit   map[string]any `json:"rate_limit,omitempty"`
	Descriptors []*tree        `json:"descriptors,omitempty"`
	count       int64          // 0 for no limit
}

var (
	treeKeys   = []string{"a", "a_b", "ключ x"}
	treeValues = []string{"", "", "b", "b_c", "*", "b*", "*c", "b*c*", "x: y", "#"}
	askValues  = []string{"", "b", "b_c", "bc", "bxcx", "c", "b*", "x: y", "#", "zzz"}
)

func grow(r *rand.Rand, depth int, count *int64) []*tree {
	var list []*tree
	seen := make(map[string]bool)
	for range r.IntN(4) + 1 {
		d := &tree{Key: treeKeys[r.IntN(len(treeKeys))], Value: treeValues[r.IntN(len(treeValues))]}
		if seen[d.Key+"\x00"+d.Value] || seen[d.Key+"_"+d.Value] {
			continue
		}
		seen[d.Key+"\x00"+d.Value] = true
		if r.IntN(2) == 0 {
			*count++
			d.count = *count
			d.RateLimit = map[string]any{"unit": "day", "requests_per_unit": d.count}
		}
		if depth > 1 && r.IntN(2) == 0 {
			d.Descriptors = grow(r, depth-1, count)
		}
		list = append(list, d)
	}
	return list
}

// find is the look-up as it is documented, naively: at each level what has the key and
// value, else the first pattern in the order of the file, else the key without a value.
func find(level []*tree, entries []gate.Entry) int64 {
	var at *tree
	for _, e := range entries {
		at = nil
		for _, rank := range []func(d *tree) bool{
			func(d *tree) bool { return d.Value != "" && d.Value == e.Value },
			func(d *tree) bool {
				pattern := "(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(d.Value), `\*`, ".*") + "$"
				return strings.Contains(d.Value, "*") && regexp.MustCompile(pattern).MatchString(e.Value)
			},
			func(d *tree) bool { return d.Value == "" },
		} {
			i := slices.IndexFunc(level, func(d *tree) bool { return d.Key == e.Key && rank(d) })
			if i >= 0 {
				at = level[i]
				break
			}
		}
		if at == nil {
			return 0
		}
		level = at.Descriptors
	}
	return at.count
}

// TestRandomTrees: any configuration finds the limits that the documentation of
// envoyproxy/ratelimit says.
func TestRandomTrees(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		var count int64
		root := grow(r, 4, &count)
		text, err := json.Marshal(map[string]any{"domain": "d", "descriptors": root})
		if err != nil {
			t.Fatal(err)
		}
		data, _, err := envoy.Convert([]envoy.File{{Name: "f", Data: text}}, envoy.Options{})
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		g, err := gate.Open(t.Context(), gate.Config{Policy: data, Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
		if err != nil {
			t.Fatalf("%v in\n%s", err, data)
		}
		var d gate.Decision
		for range 200 {
			entries := make([]gate.Entry, r.IntN(4)+1)
			for i := range entries {
				entries[i] = gate.Entry{Key: treeKeys[r.IntN(len(treeKeys))], Value: askValues[r.IntN(len(askValues))]}
			}
			if err := g.Peek(t.Context(), &gate.Request{Application: "d", Descriptor: entries}, &d); err != nil {
				t.Fatal(err)
			}
			want, got := find(root, entries), int64(0)
			if len(d.Limits()) > 0 {
				got = d.Limits()[0].Limit.Count
			}
			if got != want {
				t.Fatalf("%q finds limit %d, want %d in\n%s", entries, got, want, text)
			}
		}
	}
}
