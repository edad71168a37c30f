//go:build !race

package echolimit

// mostAllocs is what the limit itself allocates, mostOfWrap the request and its context.
const mostAllocs, mostOfWrap = 1, 3
