package gate

import (
	"net/http"
	"net/netip"
	"time"
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
	// PlanGuessed says that Plan was made of Descriptor, by what an entry is called: it has
	// no say where a rule has the descriptor or the request says its limit, and one that
	// the policy does not have is none.
	PlanGuessed bool
	// Cost is charged instead of the rule's if CostSaid; 0 to headgate.MaxInt.
	Cost     int64
	CostSaid bool
	// Costs are charged by limits that count in other units than requests, and
	// go before the rule's `costs`; 0 to headgate.MaxInt each.
	Costs map[string]int64

	// Method, Path (with its query, as on the request line), Host, IP and
	// Headers (canonical names) describe an HTTP request.
	Method, Path, Host string
	IP                 netip.Addr
	Headers            http.Header
	// Stranger says that the client itself has sent Headers, and no proxy that the
	// policy trusts: who is limited is not found by a header or cookie that is not
	// known_only, and a rule's plan expression sees no headers.
	Stranger bool
	// Attributes are further facts that policies may ask for.
	Attributes map[string]string
	// Descriptor is what an Envoy asks with: 1 to policy.MaxEntries entries, by which the
	// rules with match.descriptor are found; nil for none. Where one matches, who is
	// limited is told by the values that it leaves open, and Subject is not asked.
	Descriptor []Entry
	// Said stands in for the limits of the rule, which is then not looked for; nil for
	// none. Only with Descriptor.
	Said *SaidLimit

	// IdempotencyKey makes a Take happen once: another with the same
	// application, subject and key charges nothing and gets the first answer,
	// for as long as the application's idempotency_window says; a reservation
	// only until it is settled. At most MaxSubject bytes; only from callers that
	// are trusted. "" for none.
	IdempotencyKey string
	// MaxWait is how long the request may wait in line instead of the rule's
	// max_wait if MaxWaitSaid: 0 to policy.MaxMaxWait. Requests with Now do not
	// wait; nobody waits longer than 10 ms before the deadline of the context, and
	// who cannot pass until then is refused at once.
	MaxWait     time.Duration
	MaxWaitSaid bool
	// NoWait says that the caller does the waiting: the request does not stand in
	// line, and the decision tells the delay that a leaky bucket asks for.
	NoWait bool
	// WaitCap bounds either of them, for doors behind which nobody waits so
	// long; 0 is no bound.
	WaitCap time.Duration
	// Patience is how long the store may take to decide, if that is less than
	// the gate's Config allows: for doors behind which nobody waits so long. 0 is
	// no less.
	Patience time.Duration
	// Releases says that the caller gets the decision's ticket and releases what
	// it holds. Limits whose slots must be released are an error without it.
	Releases bool

	// Now is a reading of the store's own clock, see headgate.Batch; 0 lets
	// the store read it.
	Now int64
}

// waits reports whether the gate may let the request wait.
func (r *Request) waits() bool { return r.Now == 0 && !r.NoWait }
