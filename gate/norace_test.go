//go:build !race

package gate_test

const mostAllocs = 0
