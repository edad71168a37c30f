package httpapi

import (
	"net/http"
	"slices"
	"strings"
)

// Route is one of the door's own routes.
type Route struct {
	// Method is POST, or GET for GET and HEAD.
	Method string
	Path   string
	// Body is the kind of the request's body: take, batch, reserve, settle,
	// renew, release or throttle; "" for none.
	Body string
	// Fields are the members that the body may have.
	Fields []string
}

// Routes returns the door's own routes.
func Routes() []Route {
	list := make([]Route, 0, len(routes)+2)
	for _, r := range routes {
		r.Fields = slices.Clone(r.Fields)
		list = append(list, r.Route)
	}
	return append(list, Route{Method: http.MethodGet, Path: "/healthz"}, Route{Method: http.MethodGet, Path: "/readyz"})
}

// routes are those that decide.
var routes = []struct {
	Route
	serve handler
}{
	{Route{"POST", "/v1/take", "take", takeFields}, (*door).take},
	{Route{"POST", "/v1/take/batch", "batch", batchFields}, (*door).batch},
	{Route{"POST", "/v1/peek", "take", takeFields}, (*door).peek},
	{Route{"POST", "/v1/explain", "take", takeFields}, (*door).explain},
	{Route{"POST", "/v1/reserve", "reserve", reserveFields}, (*door).reserve},
	{Route{"POST", "/v1/settle", "settle", settleFields}, (*door).settle},
	{Route{"POST", "/v1/renew", "renew", renewFields}, (*door).renew},
	{Route{"POST", "/v1/release", "release", releaseFields}, (*door).release},
	{Route{"POST", "/v1/throttle", "throttle", throttleFields}, (*door).throttle},
}

// lost is what a request for another path is told.
var lost = func() string {
	var b strings.Builder
	b.WriteString("no such route; decisions are at POST ")
	for i, r := range routes {
		switch {
		case i == len(routes)-1:
			b.WriteString(" and ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(r.Path)
	}
	return b.String()
}()
