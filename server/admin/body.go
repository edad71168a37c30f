package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/headgate/headgate/server/front/problem"
)

// decode reads a body that is one flat object of texts into fields. It reads
// tokens, as Unmarshal takes a field that is given twice, or in capitals.
func decode(w http.ResponseWriter, r *http.Request, fields map[string]*string) *problem.Problem {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &problem.Problem{
			Name: "unsupported_media_type", Status: http.StatusUnsupportedMediaType,
			Detail: "the body must be sent as Content-Type: application/json",
		}
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	if t, err := d.Token(); err != nil {
		return unread(err)
	} else if t != json.Delim('{') {
		return problem.BadRequest("", "the body must be a JSON object")
	}
	given := make(map[string]bool, len(fields))
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return unread(err)
		}
		field := name.(string) // or it would not be JSON
		to := fields[field]
		switch {
		case to == nil:
			return problem.BadRequest(field, fmt.Sprintf("%.64q: unknown field", field))
		case given[field]:
			return problem.BadRequest(field, field+": given twice")
		}
		given[field] = true
		value, err := d.Token()
		if err != nil {
			return unread(err)
		}
		var ok bool
		if *to, ok = value.(string); !ok {
			return problem.BadRequest(field, field+": must be a text")
		}
	}
	if _, err := d.Token(); err != nil {
		return unread(err)
	}
	switch _, err := d.Token(); err {
	case io.EOF:
		return nil
	case nil:
		return problem.BadRequest("", "the body is not what this route takes: there is more after its end")
	default:
		return unread(err)
	}
}

// unread is the problem of a body that cannot be read.
func unread(err error) *problem.Problem {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &problem.Problem{
			Name: "body_too_large", Status: http.StatusRequestEntityTooLarge,
			Detail: fmt.Sprintf("the body must not be larger than %d bytes", maxBody),
		}
	}
	return problem.BadRequest("", "the body is not what this route takes: "+err.Error())
}
