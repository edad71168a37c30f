package headgate

import (
	"fmt"
	"time"
)

// Reason says why a request passed or was refused. The set is open: act on
// Decision.Allowed.
type Reason uint8

// The reasons.
const (
	// NoReason is the zero value: nothing was decided.
	NoReason Reason = iota
	// OK: every limit passed.
	OK
	// NoRule: no rule matched; the application says what happens then.
	NoRule
	// Skipped: the rule lets this request pass uncharged.
	Skipped
	// RateLimited: a bucket, window or log refused.
	RateLimited
	// QuotaExceeded: a calendar quota refused.
	QuotaExceeded
	// ConcurrencyExceeded: all slots are taken.
	ConcurrencyExceeded
	// Banned: the subject is banned.
	Banned
	// CostExceedsLimit: refused by a limit that can never hold the cost.
	CostExceedsLimit
	// OverloadedReason: the system sheds load, whoever asks.
	OverloadedReason
	// StoreUnavailable: the store could not decide and the limit is closed.
	StoreUnavailable
	// WaitTimeout: the request waited in line as long as it may.
	WaitTimeout
	// AllowListed: the application lets this client pass uncharged.
	AllowListed
	// DenyListed: the application refuses this client, whatever it asks.
	DenyListed
	// BatchRefused: another request of the same atomic batch was refused.
	BatchRefused
)

// Reasons is the number of reasons, NoReason included.
const Reasons = int(BatchRefused) + 1

var reasonNames = [...]string{
	"", "ok", "no_rule", "skipped", "rate_limited", "quota_exceeded", "concurrency_exceeded",
	"banned", "cost_exceeds_limit", "overloaded", "store_unavailable", "wait_timeout",
	"allow_listed", "deny_listed", "batch_refused",
}

// String returns the reason as answers and metrics write it.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// weight orders the reasons of several limits that refuse one request.
func (r Reason) weight() int {
	switch r {
	case Banned:
		return 7
	case CostExceedsLimit:
		return 6
	case StoreUnavailable:
		return 5
	case QuotaExceeded:
		return 4
	case ConcurrencyExceeded:
		return 3
	case RateLimited:
		return 2
	case OverloadedReason:
		return 1
	default:
		return 0
	}
}

func heavier(a, b Reason) Reason {
	if b.weight() > a.weight() {
		return b
	}
	return a
}

func (a Algorithm) reason() Reason {
	switch a {
	case Quota:
		return QuotaExceeded
	case Concurrency:
		return ConcurrencyExceeded
	case Ban:
		return Banned
	default:
		return RateLimited
	}
}

// Decision is the answer to one request.
type Decision struct {
	Allowed bool
	Reason  Reason
	// Retryable is false when the request can never pass as it stands.
	Retryable bool
	// BoundBy is the index of the limit that decided: of a refusal the refusing
	// limit with the longest wait, of an allowance the one that leaves the
	// fewest further requests of this cost. -1 if no limit applied.
	BoundBy int
	// Limit, Remaining and ResetAfter are those of BoundBy; 0 if it is -1.
	Limit, Remaining int64
	ResetAfter       time.Duration
	// RetryAfter is when the request would pass; 0 when allowed or when it
	// never can.
	RetryAfter time.Duration
	// Delay is how long an allowed request must wait before it starts: leaky
	// buckets only.
	Delay time.Duration
}
