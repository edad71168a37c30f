// Package openapi is the description of the HTTP API: one OpenAPI 3.1 document.
// Its tests hold it against the handlers.
package openapi

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

// Path is where the document belongs in an [http.ServeMux].
const Path = "/v1/openapi.json"

//go:embed openapi.json
var document string

// Document returns the document, as JSON.
func Document() []byte { return []byte(document) }

// Handler serves the document for GET and HEAD, and leaves it to its caller to
// refuse other methods. Clients may keep it for five minutes: it changes only
// with the program, and they ask by its ETag then.
func Handler() http.Handler {
	sum := sha256.Sum256([]byte(document))
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "public, max-age=300")
		h.Set("Etag", tag)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(document))
	})
}
