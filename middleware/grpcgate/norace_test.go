//go:build !race

package grpcgate

// Those of the copy that grpc makes of a call's metadata are most of mostAllocs.
const mostAllocs, mostOfStatus = 7, 45
