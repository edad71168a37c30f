package problem

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/headgate/headgate"
)

func TestPointer(t *testing.T) {
	for path, want := range map[string]string{
		"":                                  "/",
		"cost":                              "/cost",
		"overrides[0].rate":                 "/overrides/0/rate",
		`plans["a.b"].limits[12].rate`:      "/plans/a.b/limits/12/rate",
		`plans["x/y~z"]`:                    "/plans/x~1y~0z",
		`subjects["a/b]c\"d"].overrides[1]`: `/subjects/a~1b]c"d/overrides/1`,
		`a["b"]["c"]`:                       "/a/b/c",
		"costs.tokens":                      "/costs/tokens",
		`broken["x`:                         `/broken/"x`,
	} {
		if got := Pointer(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestOf(t *testing.T) {
	secret := errors.New("secret")
	of := func(code headgate.Code, field string) error {
		return fmt.Errorf("gate: %w", &headgate.Error{Code: code, Field: field, Err: secret})
	}
	tests := []struct {
		err  error
		want Problem
	}{
		{of(headgate.InvalidRequest, "cost"), Problem{"invalid_request", 400, "cost: secret", "cost", nil}},
		{of(headgate.InvalidLimit, "rate"), Problem{"invalid_request", 400, "rate: secret", "rate", nil}},
		{of(headgate.NotFound, "application"), Problem{"not_found", 404, "application: secret", "application", nil}},
		{of(headgate.Conflict, "idempotency_key"), Problem{"idempotency_key_reused", 422, "idempotency_key: secret", "idempotency_key", nil}},
		{of(headgate.Unavailable, ""), Problem{"unavailable", 503, "the store cannot decide at the moment", "", nil}},
		{of(headgate.Overloaded, ""), Problem{"overloaded", 503, "the store has no room for another key", "", nil}},
		{of(headgate.Closed, ""), Problem{"closed", 503, "the server is stopping", "", nil}},
		{of(headgate.Unknown, "cost"), Problem{"internal", 500, "the server could not decide; its log says why", "", nil}},
		{secret, Problem{"internal", 500, "the server could not decide; its log says why", "", nil}},
	}
	for _, tt := range tests {
		if got := Of(tt.err); !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%v: got %+v, want %+v", tt.err, *got, tt.want)
		}
	}
}

func TestDocument(t *testing.T) {
	w := httptest.NewRecorder()
	(&Problem{"rate_limited", 429, `"<slow>"`, "request.headers.a/b~c", nil}).WriteAs(w, 403)
	const want = `{"type":"urn:headgate:problem:rate_limited","title":"Too Many Requests","status":429,"detail":"\"\u003cslow\u003e\"",` +
		`"field":"request.headers.a/b~c","errors":[{"pointer":"/request/headers/a~1b~0c","detail":"\"\u003cslow\u003e\""}]}` + "\n"
	if w.Code != 403 || w.Body.String() != want || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %v\n%s\nwant\n%s", w.Code, w.Header(), w.Body, want)
	}
	got := string((&Problem{"not_found", 404, "gone", "items.3.application", nil}).Append([]byte("x")))
	const inside = `x{"type":"urn:headgate:problem:not_found","title":"Not Found","status":404,"detail":"gone",` +
		`"field":"items.3.application","errors":[{"pointer":"/items/3/application","detail":"gone"}]}`
	if got != inside {
		t.Errorf("got %s", got)
	}
}
