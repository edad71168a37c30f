//go:build !race

package ginlimit

// mostAllocs is what the limit itself allocates, mostOfWrap the request and its context.
const mostAllocs, mostOfWrap = 1, 3
