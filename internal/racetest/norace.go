//go:build !race

package racetest

// Enabled reports whether this program was built with the race detector, which allocates,
// and makes everything several times slower.
const Enabled = false
