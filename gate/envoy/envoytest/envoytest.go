// Package envoytest is configurations of envoyproxy/ratelimit with calls and the answers
// that they get there, for tests of whatever answers by them.
package envoytest

import (
	"embed"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
)

// Start is the instant at which each example begins: windows of a second up to a month of
// 30 days begin with it.
var Start = time.Unix(98*210*86400, 0).UTC()

// Example is a configuration and calls.
type Example struct {
	Name   string
	Config []byte
	Domain string
	Calls  []Call
	// Labels are what metrics call the rules of descriptors.
	Labels []Label
}

// Call is asked Times times, and gets the same answer each time.
type Call struct {
	Line        string
	At          time.Time
	Times       int
	Descriptors [][]gate.Entry
	Over        bool
	// Statuses are "ok", "over", "none" where no limit applies, or "unlimited".
	Statuses []string
}

// Label is a descriptor and what metrics call the rule that it matches.
type Label struct {
	Descriptor []gate.Entry
	Label      string
}

//go:embed examples
var files embed.FS

// Examples returns all examples in the order of their names.
func Examples(t testing.TB) []Example {
	t.Helper()
	entries, err := files.ReadDir("examples")
	if err != nil {
		t.Fatal(err)
	}
	examples := make([]Example, 0, len(entries))
	for _, e := range entries {
		text, err := files.ReadFile("examples/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		x, err := parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", e.Name(), err)
		}
		x.Name = strings.TrimSuffix(e.Name(), ".txt")
		examples = append(examples, x)
	}
	return examples
}

func parse(text string) (x Example, err error) {
	config, rest, ok := strings.Cut(text, "-- calls --\n")
	if !ok {
		return x, fmt.Errorf("no calls")
	}
	_, domain, _ := strings.Cut(config, "domain: ")
	x.Config = []byte(config)
	x.Domain, _, _ = strings.Cut(domain, "\n")
	calls, labels, _ := strings.Cut(rest, "-- labels --\n")
	for line := range strings.Lines(calls) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		c, err := parseCall(strings.TrimSpace(line))
		if err != nil {
			return x, err
		}
		x.Calls = append(x.Calls, c)
	}
	for line := range strings.Lines(labels) {
		descriptor, label, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			return x, fmt.Errorf("%q: no label", line)
		}
		x.Labels = append(x.Labels, Label{entries(descriptor), label})
	}
	return x, nil
}

// parseCall reads "0s x5 key=value,key=value key=value => OVER over ok".
func parseCall(line string) (c Call, err error) {
	ask, answer, ok := strings.Cut(line, " => ")
	asked, answered := strings.Fields(ask), strings.Fields(answer)
	if !ok || len(asked) < 3 || len(answered) != len(asked)-1 || !strings.HasPrefix(asked[1], "x") {
		return c, fmt.Errorf("%q: not a call and its answer", line)
	}
	after, err := time.ParseDuration(asked[0])
	if err != nil {
		return c, err
	}
	if c.Times, err = strconv.Atoi(asked[1][1:]); err != nil {
		return c, err
	}
	for _, d := range asked[2:] {
		c.Descriptors = append(c.Descriptors, entries(d))
	}
	c.Line, c.At, c.Over, c.Statuses = line, Start.Add(after), answered[0] == "OVER", answered[1:]
	return c, nil
}

func entries(s string) []gate.Entry {
	var list []gate.Entry
	for pair := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(pair, "=")
		list = append(list, gate.Entry{Key: key, Value: value})
	}
	return list
}
