//go:build race

package echolimit

// The race detector makes sync.Pool drop a quarter of what is put back, and with it all
// that middleware is made of.
const mostAllocs, mostOfWrap = 16, 3
