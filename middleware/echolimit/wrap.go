package echolimit

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v5"
)

// Wrap returns net/http middleware as echo's. Unlike echo.WrapMiddleware it applies it
// once, so what it keeps beside its handlers serves all requests. The handler that it is
// given is the next one in the echo chain, which sees the request and the writer that the
// middleware passes on.
//
// An error of that handler is answered by echo's error handler before the middleware
// goes on, so that the middleware sees the answer; then it is returned, for loggers
// further out. Error handlers of your own must do nothing where the answer is committed,
// as echo's own.
//
// The middleware must call the handler before it returns, with a context made of the
// request's: http.TimeoutHandler cannot be used, as echo uses a context again once it was
// answered.
func Wrap(middleware func(http.Handler) http.Handler) echo.MiddlewareFunc {
	handler := middleware(http.HandlerFunc(goOn))
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			rest := &rest{c: c, next: next}
			r := c.Request()
			handler.ServeHTTP(c.Response(), r.WithContext(context.WithValue(r.Context(), restKey{}, rest)))
			return rest.err
		}
	}
}

// rest is the rest of a chain, found in the context of its request.
type rest struct {
	c    *echo.Context
	next echo.HandlerFunc
	err  error
}

type restKey struct{}

// goOn runs the rest of the chain.
func goOn(w http.ResponseWriter, r *http.Request) {
	rest, ok := r.Context().Value(restKey{}).(*rest)
	if !ok {
		panic("echolimit: the middleware has replaced the request's context")
	}
	c := rest.c
	// What stands further out, Recover for one, writes to its own writer again.
	defer func(r *http.Request, w http.ResponseWriter) {
		c.SetRequest(r)
		c.SetResponse(w)
	}(c.Request(), c.Response())
	c.SetRequest(r)
	if _, err := echo.UnwrapResponse(w); err != nil {
		w = echo.NewResponse(w, c.Logger()) // a writer that hides the one below
	}
	c.SetResponse(w)
	if rest.err = rest.next(c); rest.err != nil {
		c.Echo().HTTPErrorHandler(c, rest.err)
	}
}
