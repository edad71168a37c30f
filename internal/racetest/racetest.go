// Package racetest is for tests that mind the race detector.
package racetest

import "testing"

// Alone leaves a test to the run without the race detector: nothing runs at once in it, and
// it would take minutes, or it counts allocations. `make test` runs the packages of such
// tests both ways.
func Alone(t *testing.T) {
	t.Helper()
	if Enabled {
		t.Skip("nothing runs at once here: it is run without the race detector")
	}
}
