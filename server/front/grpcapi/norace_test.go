//go:build !race

package grpcapi

const mostAllocs = 3
