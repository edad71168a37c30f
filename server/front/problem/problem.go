// Package problem writes errors as HTTP doors send them: RFC 9457
// application/problem+json.
package problem

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/headgate/headgate"
)

// Problem is one error as a client sees it.
type Problem struct {
	// Name is the last part of the type urn:headgate:problem:NAME.
	Name   string
	Status int
	Detail string
	// Field is the part of the request at fault, such as "cost" or
	// "request.path"; "" if none is.
	Field string
	// Errors are all parts that are at fault, where there may be several; Field then
	// need not be set.
	Errors []Error
}

// Error is one part of a request that is at fault.
type Error struct {
	// Pointer is a JSON pointer (RFC 6901).
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// Pointer returns the JSON pointer of a path such as overrides[0].rate or
// plans["a.b"].limits.
func Pointer(path string) string {
	var b strings.Builder
	for rest := "." + path; rest != ""; {
		step := rest[1:]
		quoted, err := strconv.QuotedPrefix(step)
		if rest[0] != '[' || err != nil {
			end := strings.IndexAny(step, ".[")
			if end < 0 {
				end = len(step)
			}
			step, rest = strings.TrimSuffix(step[:end], "]"), step[end:]
		} else {
			_, rest, _ = strings.Cut(step[len(quoted):], "]")
			step, _ = strconv.Unquote(quoted) // QuotedPrefix has seen to that
		}
		if step != "" || b.Len() == 0 {
			b.WriteByte('/')
			b.WriteString(pointer.Replace(step))
		}
	}
	return b.String()
}

// BadRequest returns what a door itself finds wrong with a request.
func BadRequest(field, detail string) *Problem {
	return &Problem{Name: "invalid_request", Status: http.StatusBadRequest, Detail: detail, Field: field}
}

// Of returns what a client is told of an error of the gate. What the caller
// did wrong is told in full; of what went wrong inside only the kind, because
// inner messages hold addresses and keys: log those.
func Of(err error) *Problem {
	e, ok := errors.AsType[*headgate.Error](err)
	if !ok {
		return internal()
	}
	switch e.Code {
	case headgate.InvalidRequest, headgate.InvalidLimit:
		return BadRequest(e.Field, e.Error())
	case headgate.Conflict:
		return &Problem{Name: "idempotency_key_reused", Status: http.StatusUnprocessableEntity, Detail: e.Error(), Field: e.Field}
	case headgate.NotFound:
		return &Problem{Name: "not_found", Status: http.StatusNotFound, Detail: e.Error(), Field: e.Field}
	case headgate.Unavailable:
		return &Problem{Name: "unavailable", Status: http.StatusServiceUnavailable, Detail: "the store cannot decide at the moment"}
	case headgate.Overloaded:
		return &Problem{Name: "overloaded", Status: http.StatusServiceUnavailable, Detail: "the store has no room for another key"}
	case headgate.Closed:
		return &Problem{Name: "closed", Status: http.StatusServiceUnavailable, Detail: "the server is stopping"}
	default:
		return internal()
	}
}

func internal() *Problem {
	return &Problem{Name: "internal", Status: http.StatusInternalServerError, Detail: "the server could not decide; its log says why"}
}

// document is a Problem on the wire. Errors repeats the field as a JSON
// pointer, for clients that put messages beside the inputs of a form.
type document struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail"`
	Field  string  `json:"field,omitempty"`
	Errors []Error `json:"errors,omitempty"`
}

// ServeHTTP sends the problem.
func (p *Problem) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.WriteAs(w, p.Status)
}

// pointer makes the path of a field a JSON pointer (RFC 6901).
var pointer = strings.NewReplacer("~", "~0", "/", "~1")

// Append appends the problem as a JSON object.
func (p *Problem) Append(b []byte) []byte {
	doc := document{
		Type: "urn:headgate:problem:" + p.Name, Title: http.StatusText(p.Status),
		Status: p.Status, Detail: p.Detail, Field: p.Field, Errors: p.Errors,
	}
	if p.Field != "" && p.Errors == nil {
		doc.Errors = []Error{{Pointer: Pointer(p.Field), Detail: p.Detail}}
	}
	object, err := json.Marshal(doc)
	if err != nil {
		panic(err) // strings and an int always encode
	}
	return append(b, object...)
}

// Noter is implemented by writers that count the problems they carry.
type Noter interface {
	// NoteProblem is told a problem's name before anything of it is written.
	NoteProblem(name string)
}

// WriteAs sends the problem under another status than its own, for proxies
// that pass only some of them on.
func (p *Problem) WriteAs(w http.ResponseWriter, status int) {
	if n, ok := w.(Noter); ok {
		n.NoteProblem(p.Name)
	}
	body := append(p.Append(nil), '\n')
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store") // RFC 6585: a 429 must not be stored
	w.WriteHeader(status)
	w.Write(body)
}
