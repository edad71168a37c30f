//go:build race

package httplimit

// The race detector makes sync.Pool drop a quarter of what is put back.
const mostAllocs = 4
