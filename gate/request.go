package gate

import (
	"net/http"
	"net/netip"
)

// Request is one request to decide on. The strings and maps are only read, and
// not kept after the call.
type Request struct {
	// Application is required.
	Application string
	// Operation is the named thing being done; it or Path is required.
	Operation string
	// Subject is who is limited. If empty the application's identity is looked
	// for in the rest of the request.
	Subject string
	// Plan is used where the subject's record names none.
	Plan string
	// Cost is charged instead of the rule's if CostSaid; 0 to headgate.MaxInt.
	Cost     int64
	CostSaid bool

	// Method, Path (with its query, as on the request line), Host, IP and
	// Headers (canonical names) describe an HTTP request.
	Method, Path, Host string
	IP                 netip.Addr
	Headers            http.Header
	// Attributes are further facts that policies may ask for.
	Attributes map[string]string

	// Now is a reading of the store's own clock, see headgate.Batch; 0 lets
	// the store read it.
	Now int64
}
