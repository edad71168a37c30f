package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/store/redisstore/redistest"
)

// slowYear is a quota of n whose period does not end while a test runs.
func slowYear(name string, n int) string {
	half := time.Now().UTC().AddDate(0, 6, 0)
	return fmt.Sprintf("{name: %s, algorithm: quota, rate: %d/year, anchor: %02d-%02d}", name, n, half.Month(), min(28, half.Day()))
}

// raceStores are the shared stores that the race is run on.
var raceStores = []struct {
	name string
	url  func(t *testing.T) string
}{
	{"standalone", func(t *testing.T) string { return redistest.Standalone(t).URL() }},
	{"cluster", func(t *testing.T) string { return redistest.Cluster(t, 0).URL() }},
}

// option adds a query parameter to a store's URL.
func option(url, parameter string) string {
	if strings.Contains(url, "?") {
		return url + "&" + parameter
	}
	return url + "?" + parameter
}

// TestRace has 200 callers ask three serve processes at once for one budget:
// just what it holds passes, to the last token.
func TestRace(t *testing.T) {
	const few, many = 50, 5000
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	text := "version: 1\napplications:\n  a:\n    rules:\n" +
		"      - {name: few, match: {operation: few}, limits: [" + slowYear("quota", few) + "]}\n" +
		"      - {name: many, match: {operation: many}, limits: [" + slowYear("quota", many) + "]}\n"
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, store := range raceStores {
		t.Run(store.name, func(t *testing.T) {
			url := store.url(t)
			for _, leases := range []string{"true", "false"} {
				t.Run("leases="+leases, func(t *testing.T) {
					var nodes [3]*process
					for i := range nodes {
						nodes[i] = startProcess(t, "--policy", policy, "--store", option(url, "leases="+leases))
					}
					subject := "alice with leases " + leases
					if n := race(t, nodes[:], "few", subject, 1); n != few {
						t.Errorf("%d of %d passed", n, few)
					}
					n := race(t, nodes[:], "many", subject, 60)
					if n > many || n < many*98/100 {
						t.Errorf("%d of %d passed", n, many)
					}
					local := 0
					for _, p := range nodes {
						n, _ := strconv.Atoi(p.metric("headgate_lease_decisions_total"))
						local += n
					}
					if (local > 0) != (leases == "true") {
						t.Errorf("%d decisions from leases", local)
					}
					t.Logf("%d of %d passed, %d decided from leases", n, many, local)
					for _, p := range nodes {
						p.stop()
					}
				})
			}
		})
	}
}

// race has 200 callers, spread over the nodes, ask so many times each, and
// returns how many takes passed. Who is refused because the store did not answer
// in time asks again, as clients do.
func race(t *testing.T, nodes []*process, operation, subject string, times int) int {
	t.Helper()
	var passed atomic.Int64
	var callers sync.WaitGroup
	for i := range 200 {
		callers.Go(func() {
			for range times {
				a, err := nodes[i%len(nodes)].take(operation, subject)
				for err == nil && a.Degraded == "closed" { // on a busy machine the store can be too slow
					a, err = nodes[i%len(nodes)].take(operation, subject)
				}
				switch {
				case err != nil:
					t.Error(err)
					return
				case a.Degraded != "":
					t.Errorf("decided without the store: %+v", a)
					return
				case a.Allowed:
					passed.Add(1)
				}
			}
		})
	}
	callers.Wait()
	return int(passed.Load())
}
