package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// decode reads a body that is one flat object of texts into fields. It reads
// tokens, as Unmarshal takes a field that is given twice, or in capitals.
func decode(w http.ResponseWriter, r *http.Request, fields map[string]*string) *problem.Problem {
	if p := checkType(r); p != nil {
		return p
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

// readBody reads a body that is a JSON object, however deep.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *problem.Problem) {
	if p := checkType(r); p != nil {
		return nil, p
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, unread(err)
	}
	switch {
	case !utf8.Valid(body) || !json.Valid(body):
		return nil, problem.BadRequest("", "the body is not JSON")
	case bytes.TrimLeft(body, " \t\r\n")[0] != '{':
		return nil, problem.BadRequest("", "the body must be a JSON object")
	}
	return body, nil
}

// readStrict reads a body into a struct, all of whose fields are named in it.
func readStrict(w http.ResponseWriter, r *http.Request, into any) *problem.Problem {
	body, p := readBody(w, r)
	if p != nil {
		return p
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return problem.BadRequest(e.Field, fmt.Sprintf("%s: must be %s, not %s", e.Field, kindName(e.Type.Kind()), e.Value))
		}
		return problem.BadRequest("", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// kindName is how users call a kind of value.
func kindName(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "a text"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int64:
		return "a whole number"
	default:
		return "an object"
	}
}

// checkType is the problem of a body that is not sent as JSON.
func checkType(r *http.Request) *problem.Problem {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &problem.Problem{
			Name: "unsupported_media_type", Status: http.StatusUnsupportedMediaType,
			Detail: "the body must be sent as Content-Type: application/json",
		}
	}
	return nil
}

// faulty is the problem of what a policy does not take.
func faulty(faults policy.Faults) *problem.Problem {
	p := problem.BadRequest("", faults[0].Message)
	if faults[0].Path != "" {
		p.Detail = faults[0].Path + ": " + p.Detail
	}
	if n := len(faults); n > 1 {
		p.Detail = fmt.Sprintf("%s, and %d more", p.Detail, n-1)
	}
	for _, f := range faults[:min(len(faults), mostErrors)] {
		p.Errors = append(p.Errors, problem.Error{Pointer: problem.Pointer(f.Path), Detail: f.Message})
	}
	return p
}

// mostErrors is how many faults are told at once.
const mostErrors = 100

// lost answers that the records could not do what was asked.
func (a *api) lost(w http.ResponseWriter, r *http.Request, err error) {
	p := &problem.Problem{Name: "records_unavailable", Status: http.StatusServiceUnavailable, Detail: "the records cannot be read or written at the moment; decisions go on"}
	switch {
	case errors.Is(err, records.ErrStale):
		p = &problem.Problem{Name: "stale", Status: http.StatusPreconditionFailed, Detail: "somebody else has changed it since: read it again, and send If-Match with its new ETag"}
	case errors.Is(err, records.ErrNotFound):
		p = &problem.Problem{Name: "not_found", Status: http.StatusNotFound, Detail: "nothing is on record here"}
	default:
		a.Logger.Error("the records failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	p.ServeHTTP(w, r)
}

// unread is the problem of a body that cannot be read.
func unread(err error) *problem.Problem {
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &problem.Problem{
			Name: "body_too_large", Status: http.StatusRequestEntityTooLarge,
			Detail: fmt.Sprintf("the body must not be larger than %d bytes", e.Limit),
		}
	}
	return problem.BadRequest("", "the body is not what this route takes: "+err.Error())
}
