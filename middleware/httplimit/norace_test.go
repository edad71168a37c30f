//go:build !race

package httplimit

const mostAllocs = 1
