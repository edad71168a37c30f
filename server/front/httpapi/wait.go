package httpapi

import (
	"net/http"
	"time"
)

// anew gives an answer its time to be written again: the deadline of the
// connection went on while the request waited in line, or while the first items
// of a batch were decided. Reading needs none: net/http lifts its deadline once
// the body is read, to see whether the client is still there. How long requests
// wait the gate bounds.
func anew(w http.ResponseWriter) {
	// The error is that of writers without deadlines.
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
}
