// Package policy reads policy files: strict YAML or JSON in, a checked document
// out, with a position and a reason for every fault.
//
// It knows what may be written and what it means by itself. Whether
// expressions compile is asked of the [Checker]; what a request does with a
// policy is the business of package gate.
package policy

import (
	"net/netip"
	"time"

	"github.com/headgate/headgate"
)

// Policy is a checked document. Every name in it is valid, every limit can be
// prepared, every plan that is named exists.
type Policy struct {
	Plans        []Plan // in file order
	Applications []Application
	Subjects     []Subject
}

// Plan is a named bundle of limits.
type Plan struct {
	Name         string
	Limits       []Limit
	OnStoreError StoreErrorMode
}

// StoreErrorMode says what becomes of a request when the store cannot decide.
type StoreErrorMode uint8

// The modes. Inherit, the zero value, leaves the choice to the next wider
// scope, at last to the kind of limit: Local for rates, ClosedMode for quotas
// and concurrency.
const (
	Inherit StoreErrorMode = iota
	Local
	ClosedMode
	Open
)

// Owner says whose budget a limit is.
type Owner uint8

// The owners. OwnerDefault means the subject for limits of rules and plans and
// the application for limits of applications.
const (
	OwnerDefault Owner = iota
	OwnerSubject
	OwnerApplication
	OwnerGlobal
	OwnerExpr
)

// Limit is one limit of a plan, application or rule.
type Limit struct {
	// Limit has Name, Algorithm and numbers; Scope and Generation are empty.
	// Meaningless if Unlimited.
	headgate.Limit
	Unlimited bool
	// Variants replace the numbers for subjects on a plan: `plans:` of a rule's
	// limit. Their names are those of the limit.
	Variants []Variant

	Owner     Owner
	OwnerExpr string // CEL that yields a string, if Owner is OwnerExpr

	OnStoreError StoreErrorMode
	// Shadow is `mode: shadow` on the limit.
	Shadow bool
	// SkipWhenMissing is `when_missing: skip`: a request without the attribute
	// that the owner needs is not charged; otherwise it is refused with 400.
	SkipWhenMissing bool

	Pos Pos
}

// Variant is a limit's numbers for one plan.
type Variant struct {
	Plan      string
	Limit     headgate.Limit
	Unlimited bool
}

// NoMatch says what becomes of a request that no rule matches.
type NoMatch uint8

// The choices; NoMatchPlan is the default.
const (
	NoMatchPlan NoMatch = iota
	NoMatchDeny
	NoMatchAllow
)

// Application is a namespace of rules and subjects.
type Application struct {
	Name        string
	DefaultPlan string // "" if none
	OnNoMatch   NoMatch
	// SharedNoSubject is `on_no_subject: shared`: doors that cannot name a
	// subject charge one budget for all such requests instead of refusing.
	SharedNoSubject bool

	Limits         []Limit
	Identity       []Identity
	TrustedProxies []netip.Prefix // default loopback
	Headers        HeaderStyles   // default IETF
	RetryJitter    int            // percent, 0 to 100
	OnStoreError   StoreErrorMode
	Shadow         bool // mode: shadow
	Rules          []Rule
	Pos            Pos
}

// Identity is one way to find the subject in a request.
type Identity struct {
	Kind IdentityKind
	// Name is the header in canonical form, the cookie or the attribute.
	Name      string
	KnownOnly bool
}

// IdentityKind is where an identity is looked for.
type IdentityKind uint8

// The kinds.
const (
	ByIP IdentityKind = iota
	ByHeader
	ByCookie
	ByAttribute
)

// HeaderStyles is the set of rate limit header conventions to send.
type HeaderStyles uint8

// The styles; none of them means `headers: [none]`.
const (
	HeadersIETF HeaderStyles = 1 << iota
	HeadersDraft03
	HeadersXDelta
	HeadersXEpoch
)

// Rule says which requests it matches and what is charged for them.
type Rule struct {
	Name      string
	Operation string   // "" for any
	Path      string   // pattern, "" for any
	Methods   []string // upper case, empty for any
	Skip      string   // CEL that yields a bool, "" for never
	Cost      Cost
	PlanExpr  string // CEL that yields a string, "" for none
	Limits    []Limit

	OnStoreError StoreErrorMode
	Shadow       bool
	Message      string
	Pos          Pos
}

// Cost is how a rule finds the cost of a request: Expr if set, else ByMethod
// where it holds the method, else Fixed.
type Cost struct {
	Fixed    int64 // 1 unless said otherwise
	ByMethod map[string]int64
	Expr     string // CEL that yields an int
}

// Subject is what the policy says of one subject.
type Subject struct {
	Application, Name string
	Plan              string // "" for none
	Pos               Pos
}

// Pos is a place in the file; lines and columns count from 1.
type Pos struct{ Line, Column int }

// ExprKind is the type that an expression must yield.
type ExprKind uint8

// The kinds.
const (
	BoolExpr ExprKind = iota
	IntExpr
	StringExpr
)

// Checker says whether an expression compiles and yields the kind. Its error
// is shown to the author of the policy.
type Checker func(source string, kind ExprKind) error

// DefaultTTL is the ttl of a concurrency limit that says none.
const DefaultTTL = 30 * time.Second
