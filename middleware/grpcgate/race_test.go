//go:build race

package grpcgate

// The race detector makes sync.Pool drop a quarter of what is put back.
const mostAllocs, mostOfStatus = 30, 60
