//go:build race

package httpgate

// The race detector makes sync.Pool drop a quarter of what is put back.
const mostAllocs = 8
