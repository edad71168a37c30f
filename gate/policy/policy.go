// Package policy reads policy files: strict YAML or JSON in, a checked document
// out, with a position and a reason for every fault.
//
// It knows what may be written and what it means by itself. Whether
// expressions compile is asked of the [Checker]; what a request does with a
// policy is the business of package gate.
package policy

import (
	"fmt"
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
	// Nothing is a fixed window or a quota with `rate: 0/PERIOD`, of a rule with a
	// Descriptor: what costs anything is refused. Count is 1 then.
	Nothing bool
	// Variants replace the numbers for subjects on a plan: `plans:` of a rule's
	// limit. Their names are those of the limit.
	Variants []Variant

	Owner     Owner
	OwnerExpr string // CEL that yields a string, if Owner is OwnerExpr
	// Across is `across: all`: the budget is shared between applications.
	Across bool
	// Unit is what is counted, "requests" unless said otherwise: the key of
	// `costs` that is charged.
	Unit string
	// ReleasedByTTL is `release: ttl` on a concurrency limit: doors that cannot
	// release may take its slots.
	ReleasedByTTL bool

	OnStoreError StoreErrorMode
	Mode         Mode
	// SkipWhenMissing is `when_missing: skip`: a request without the attribute
	// that the owner needs, or without a cost in the limit's unit, is not
	// charged; otherwise it is refused with 400.
	SkipWhenMissing bool

	Pos Pos
}

// Variant is a limit's numbers for one plan.
type Variant struct {
	Plan      string
	Limit     headgate.Limit
	Unlimited bool
}

// Mode says for whom refusals count. The zero value enforces for everybody.
type Mode struct {
	// Shadow is `mode: shadow`: limits are charged and counted, and refuse
	// nobody.
	Shadow bool
	// Percent is `enforce_percent`: limits refuse only that share of the
	// subjects, always the same ones, and are in shadow for the others. 1 to 99;
	// 0 means everybody.
	Percent int
}

// Ban refuses a subject for a time after repeated denials.
type Ban struct {
	// After denials within Within, the subject is banned for For.
	After       int64
	Within, For time.Duration
	Pos         Pos
}

// List is an allow or deny list of an application.
type List struct {
	Networks []netip.Prefix
	Subjects []string
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
	Mode           Mode
	Ban            *Ban // nil for none
	// Allow lets clients pass uncharged, Deny refuses them; Deny goes first.
	Allow, Deny List
	// IdempotencyWindow is how long allowed requests with an idempotency key are
	// remembered: 1 s to 24 h, default DefaultIdempotencyWindow.
	IdempotencyWindow time.Duration
	// Domain is the Envoy domain that the application answers for, no other's; the name
	// unless said.
	Domain string
	Rules  []Rule
	Pos    Pos
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
	// Descriptor is what Envoys must ask with, entry by entry; nil for rules that match
	// by the rest. No other rule of the application has the same keys and values.
	Descriptor []DescriptorEntry
	Skip       string // CEL that yields a bool, "" for never
	Cost       Cost
	// Costs are the costs in other units than requests, where the request says
	// none, in the order of the file.
	Costs    []UnitCost
	PlanExpr string // CEL that yields a string, "" for none
	Limits   []Limit

	OnStoreError StoreErrorMode
	Mode         Mode
	Ban          *Ban // nil for none
	// Candidate limits are decided beside Limits and never enforced; HasCandidate
	// tells none from an empty list, which lets everything pass.
	Candidate    []Limit
	HasCandidate bool
	// MaxWait is how long a request may wait in line instead of being refused:
	// 0 to MaxMaxWait.
	MaxWait time.Duration
	Message string

	// The rest is for rules with a Descriptor. QuotaMode is `quota_mode`: of all such
	// rules that a call matches, one that does not refuse is enough.
	QuotaMode bool
	// Replaces names rules that charge nothing where a call matches this one too. There
	// may be none of that name.
	Replaces []string
	// DetailedMetric is `detailed_metric`: metrics tell all values.
	DetailedMetric bool
	// Metadata is what doors give back with decisions by this rule: map[string]any,
	// []any, string, int64, float64, bool and nil; nil for none.
	Metadata any

	Pos Pos
}

// UnitCost is the cost of a request in a unit: `costs: {UNIT: ...}` of a rule.
type UnitCost struct {
	Unit string
	Cost Cost // Fixed or Expr; ByMethod is nil
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
	// Timezone is the zone of the subject's quotas, instead of the limits' own;
	// nil for theirs.
	Timezone *time.Location
	// Anchor is the day of the month on which the subject's monthly quotas begin,
	// instead of the limits' own; 0 for theirs.
	Anchor    int
	Note      string
	Overrides []Override
	Pos       Pos
}

// Override gives one subject other numbers for a limit, for a time. Where
// several hold at once, the last in the file does.
type Override struct {
	// Limit is the limit's id, such as plan/daily.
	Limit string
	// Unlimited, or Count for the limit's Count, with Period or Unit as its
	// algorithm has one, and Burst for a bucket (0: Count).
	Unlimited bool
	Count     int64
	Period    time.Duration
	Unit      headgate.CalendarUnit
	Burst     int64
	// Rate is the rate as it was written; "" for the max of a concurrency limit.
	Rate string
	// From and Until bound the time in which it holds, From inclusive and Until
	// exclusive; zero for no bound.
	From, Until time.Time
	Note        string
	Pos         Pos
}

// Numbers returns base with the override's numbers, which are not Unlimited. It
// fails if base counts differently: an override of a quota has a calendar unit,
// that of a bucket or window a period, that of a concurrency limit neither. Base
// may be the limit of a plan that is unlimited, which has no numbers: a quota
// then gets its period from the override. What a rate such as 5000/day means,
// 24 hours or the calendar's day, is for base to say: the override has both.
func (o *Override) Numbers(base headgate.Limit) (headgate.Limit, error) {
	switch base.Algorithm {
	case headgate.Quota:
		if o.Unit == headgate.NoUnit {
			return base, fmt.Errorf("%s is a quota: its rate is a count per hour, day, week, month or year", o.Limit)
		}
		if base.Calendar.Unit == headgate.NoUnit { // unlimited, without a period of its own
			base.Calendar.Unit = o.Unit
		}
		if o.Unit != base.Calendar.Unit {
			return base, fmt.Errorf("%s is a quota per %v: an override keeps its period", o.Limit, base.Calendar.Unit)
		}
	case headgate.Concurrency:
		if o.Period != 0 || o.Unit != headgate.NoUnit {
			return base, fmt.Errorf("%s is a concurrency limit: write max instead of rate", o.Limit)
		}
	default:
		if o.Period == 0 {
			return base, fmt.Errorf("%s is a %v: write a rate such as 100/h", o.Limit, base.Algorithm)
		}
		base.Period = o.Period
	}
	base.Count = o.Count
	switch base.Algorithm {
	case headgate.TokenBucket, headgate.LeakyBucket:
		base.Burst = o.Burst
	default:
		if o.Burst != 0 {
			return base, fmt.Errorf("%s has no burst: it is no bucket but counts by %v", o.Limit, base.Algorithm)
		}
	}
	return base, nil
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

// Defaults and bounds.
const (
	// DefaultTTL is the ttl of a concurrency limit that says none.
	DefaultTTL = 30 * time.Second
	// DefaultIdempotencyWindow is the idempotency_window of an application that
	// says none.
	DefaultIdempotencyWindow = time.Minute
	// MaxMaxWait is the longest max_wait.
	MaxMaxWait = 5 * time.Minute
	// MaxLimits is the largest number of limits, bans included, that one request
	// may meet.
	MaxLimits = headgate.MaxCharges - 1
	// MaxOverrides is the largest number of overrides of one subject.
	MaxOverrides = 32
	// Requests is the unit of limits that say none.
	Requests = "requests"
)
