//go:build !race

package grpclimit

const mostAllocs = 1
