package refusal

import (
	"html"
	"net/http"
	"strconv"
	"strings"

	"github.com/headgate/headgate/internal/ratefield"
)

// Answer is what a client is told of a request that does not pass.
type Answer struct {
	Problem
	// Detail is the sentence for whoever reads it.
	Detail string
	// Again adds to the detail of documents and texts when to come again. Pages say it in
	// any case.
	Again bool
	// Members follow those of the problem in a document, each after a comma.
	Members []byte
}

// Writer writes answers, and keeps its buffer for the next. The zero value is ready. It is
// not safe for concurrent use: keep Writers in a sync.Pool.
type Writer struct{ body []byte }

// Write answers r in the form that its Accept field likes best, which [Accepted] says.
// When to come again is what Retry-After says, if the header has it: all forms say the
// same number. The fields of the answer are set with set.
func (t *Writer) Write(w http.ResponseWriter, r *http.Request, set *ratefield.Setter, a Answer) {
	h := w.Header()
	again, detail := seconds(h), a.Detail
	if a.Again && again != "" {
		detail += "; try again in " + again + " s"
	}
	switch Accepted(r.Header["Accept"]) {
	case Page:
		set.SetString(h, "Content-Type", "text/html; charset=utf-8")
		set.SetString(h, "Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		t.body = a.appendPage(t.body[:0], again)
	case Text:
		set.SetString(h, "Content-Type", "text/plain; charset=utf-8")
		t.body = append(append(t.body[:0], detail...), '\n')
	default:
		set.SetString(h, "Content-Type", JSON)
		t.body = append(append(a.Append(t.body[:0], detail), a.Members...), "}\n"...)
	}
	if len(h["Vary"]) > 0 {
		h.Add("Vary", "Accept")
	} else {
		set.SetString(h, "Vary", "Accept")
	}
	// A cached refusal would refuse those who may pass (RFC 6585, section 4).
	set.SetString(h, "Cache-Control", "no-store")
	set.SetString(h, "X-Content-Type-Options", "nosniff")
	set.SetInteger(h, "Content-Length", int64(len(t.body)))
	w.WriteHeader(a.Status)
	if r.Method != http.MethodHead {
		w.Write(t.body) // an error means that the client has gone
	}
}

// seconds is what Retry-After says; "" if it is not there, or says a date.
func seconds(h http.Header) string {
	if v := h["Retry-After"]; len(v) == 1 && strings.Trim(v[0], "0123456789") == "" {
		return v[0]
	}
	return ""
}

// appendPage appends a page that asks for nothing else and is light or dark as the reader
// likes it.
func (a *Answer) appendPage(b []byte, again string) []byte {
	b = append(b, `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark"><title>`...)
	b = strconv.AppendInt(b, int64(a.Status), 10)
	b = append(append(b, ' '), a.Title...)
	b = append(append(b, "</title></head><body><h1>"...), a.Title...)
	b = append(append(b, "</h1><p>"...), html.EscapeString(a.Detail)...)
	if again != "" {
		b = append(append(append(b, "</p><p>Try again in "...), again...), " s."...)
	}
	return append(b, "</p></body></html>\n"...)
}
