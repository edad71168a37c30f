package grpcgate

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/internal/ratefield"
	"github.com/headgate/headgate/middleware/grpclimit"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
)

// Engine decides: a [gate.Gate] in this process, or a Client of package client, which
// asks a server. One that has the method TrustedProxies of a gate is asked for the
// proxies of its policy.
type Engine = inlet.Engine

// DefaultWaitCap is how long a call waits at most, whatever its rule says.
const DefaultWaitCap = inlet.DefaultWaitCap

// ServerConfig says how a server's calls are put to an engine. The zero value asks
// about application "default" and leaves all else to its policy. Functions must be safe
// for concurrent use.
type ServerConfig struct {
	// Application is the policy's application; "" means "default".
	Application string
	// Key says who is limited; nil leaves it to the identity of the application, which
	// looks into metadata and at the client's address. An error or an empty key is
	// answered with INVALID_ARGUMENT if it is a *headgate.Error with code
	// InvalidRequest, as those of grpclimit.ByMetadata are, else with INTERNAL.
	Key func(grpclimit.Call) (string, error)
	// Operation is what the call does, for rules that match by operation; nil or ""
	// means that rules match by method, host and path.
	Operation func(grpclimit.Call) string
	// Cost is what the call costs in requests; nil leaves it to the rule. What is not
	// within 0 and headgate.MaxInt is answered with INVALID_ARGUMENT.
	Cost func(grpclimit.Call) int64
	// Costs are those in other units, such as tokens; nil leaves them to the rule. A
	// unit that no limit counts is answered with INTERNAL.
	Costs func(grpclimit.Call) map[string]int64
	// Skip lets the calls for which it is true pass undecided; nil skips none.
	Skip func(grpclimit.Call) bool
	// Plan is the client's plan where its record names none; nil or "" means the
	// rule's, else that of the application.
	Plan func(grpclimit.Call) string

	// Message is that of RESOURCE_EXHAUSTED where the rule has no message; "" means
	// "Too many calls".
	Message string
	// OnLimited returns the error of a refused call in place of the status with
	// details; nil means that one, as does nil returned. The trailers are set already;
	// the usual code is grpclimit.Code(d.Reason). It must not keep d.
	OnLimited func(c grpclimit.Call, d *gate.Decision) error
	// Headers is the set of conventions for metadata about limits; nil means what the
	// application says, 0 none. Push-back and headgate-* are sent with all of them.
	Headers *policy.HeaderStyles
	// RetryJitter spreads the wait that a refusal tells upward by as many percent, 0 to
	// 100; 0 means what the application says.
	RetryJitter int
	// MaxRetryHint is the longest wait after which a client's retry policy is told to
	// come back, up to 24 h; longer ones are told as -1, do not retry. 0 means a
	// minute. RetryInfo has every wait.
	MaxRetryHint time.Duration

	// TrustedProxies are the addresses from which x-forwarded-for and x-real-ip are
	// believed. nil means those of the application where the engine knows them, else
	// 127.0.0.0/8 and ::1; an empty slice believes nobody.
	TrustedProxies []netip.Prefix
	// WaitCap bounds how long a call waits, for its place in line or for a leaky
	// bucket: 0 is DefaultWaitCap, -1 no bound but the rule's.
	WaitCap time.Duration

	// FailOpen lets calls pass that the engine could not decide as it is away or
	// closed, such as a Client whose server is away. Otherwise they are answered with
	// UNAVAILABLE, as are those that it could not decide for another reason: clients
	// may have caused it. A gate whose store is away does decide: by on_store_error of
	// each limit.
	FailOpen bool
	// OnError is told of every call that was not decided, the client's faults and
	// departures included, and of slots that could not be renewed or released; nil
	// means nobody is.
	OnError func(grpclimit.Call, error)

	// Decided is called after each decision with the time it took, without that in
	// line. It must not keep d. nil for nobody.
	Decided func(d *gate.Decision, took time.Duration)
}

func (c ServerConfig) validate() error {
	if c.Headers != nil && *c.Headers&^policy.HeaderStyles(ratefield.AllStyles) != 0 {
		return fmt.Errorf("headers %#x: not a set of the conventions", uint8(*c.Headers))
	}
	if c.RetryJitter < 0 || c.RetryJitter > 100 {
		return fmt.Errorf("retry jitter %d: must be 0 to 100", c.RetryJitter)
	}
	if c.MaxRetryHint < 0 || c.MaxRetryHint > answer.LongestHint {
		return fmt.Errorf("max retry hint %v: must be 0 to %v", c.MaxRetryHint, answer.LongestHint)
	}
	_, err := inlet.WaitCap(c.WaitCap)
	return err
}

func (c ServerConfig) withDefaults() ServerConfig {
	c.Application = cmp.Or(c.Application, "default")
	c.Message = cmp.Or(c.Message, "Too many calls")
	c.MaxRetryHint = cmp.Or(c.MaxRetryHint, time.Minute)
	c.WaitCap, _ = inlet.WaitCap(c.WaitCap) // validate has seen it
	if c.Skip == nil {
		c.Skip = func(grpclimit.Call) bool { return false }
	}
	if c.OnLimited == nil {
		c.OnLimited = func(grpclimit.Call, *gate.Decision) error { return nil }
	}
	if c.OnError == nil {
		c.OnError = func(grpclimit.Call, error) {}
	}
	if c.Decided == nil {
		c.Decided = func(*gate.Decision, time.Duration) {}
	}
	return c
}
