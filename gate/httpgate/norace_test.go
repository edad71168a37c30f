//go:build !race

package httpgate

// mostAllocs is the writer, which no other request may have.
const mostAllocs = 1
