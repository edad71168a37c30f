// Package gate is the engine: it reads a policy and decides requests by it, in
// process or behind any protocol. [Open] makes a [Gate], [Gate.Take] decides.
//
// A request takes one way: find the application and the first rule that
// matches, find subject, plan and cost, put the limits of the application, of
// the rule and of the plan into one batch, and let the store decide it.
package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/expr"
	"github.com/headgate/headgate/gate/policy"
)

// Config says what a gate decides by. Store is required.
type Config struct {
	// PolicyFile is the policy to read, and to read again by Reload.
	PolicyFile string
	// Policy is the policy itself, if PolicyFile is empty. If both are empty
	// the built-in policy rules.
	Policy []byte
	// Read returns the policy where PolicyFile is empty, and returns it again for
	// Reload; it goes before Policy. nil for none.
	Read func() (Source, error)
	// Store keeps the state. The gate does not close it.
	Store headgate.Store
	// Local decides while Store cannot be asked, for limits with on_store_error:
	// local. nil refuses what these limits have a say in. The gate does not close
	// it.
	Local headgate.Store
	// Away reports whether Store cannot be asked at the moment; nil stands for
	// never. Only [Gate.Ready] asks it.
	Away func() bool
	// Patience is how long Store may take to decide, and QuotaPatience how long
	// where a quota is charged, as its charge is worth more. 0 means
	// DefaultPatience and DefaultQuotaPatience; a quota has no less than the others.
	// Stores in memory take no time.
	Patience, QuotaPatience time.Duration
	// Now returns what Store's clock shows, in microseconds since the Unix epoch,
	// as well as is known: what holds for a time, such as an override, holds by
	// it. nil means that of a Store which is a headgate.Clock, else the machine's,
	// by which each node of several may begin and end it at another instant.
	Now func() int64
	// Logger takes reports of reloads; nil discards them.
	Logger *slog.Logger
}

// How long a store may take to decide.
const (
	DefaultPatience      = 25 * time.Millisecond
	DefaultQuotaPatience = 250 * time.Millisecond
)

// Gate decides requests by a policy. It is safe for concurrent use.
type Gate struct {
	config  Config
	store   headgate.Store
	log     *slog.Logger
	env     *expr.Env
	current atomic.Pointer[snapshot]
	closed  atomic.Bool
	modes   atomic.Pointer[modes] // nil as long as none was set
	records atomic.Pointer[Records]
	lines   lines

	unknownPlans  atomic.Uint64
	storeFailures atomic.Uint64
	unfits        atomic.Uint64
	storeReported atomic.Int64 // Unix second of the last report

	mu     sync.Mutex // held while a policy is loaded
	source Source     // of the current policy
	status Status

	throttles throttles
}

// Status says which policy rules.
type Status struct {
	// Revision is that of the policy: where nobody says one, it counts those that
	// have ruled since Open, from 1.
	Revision uint64
	// File is the policy file, "" for a policy given as bytes or built in.
	File string
	// LoadedAt is when the present policy came into force.
	LoadedAt time.Time
	// LastReloadOK and LastReloadAt are of the last attempt to load.
	LastReloadOK bool
	LastReloadAt time.Time
}

// Open reads the policy and returns a gate. For a policy with faults the error
// is a policy.Faults.
func Open(ctx context.Context, c Config) (*Gate, error) {
	if c.Store == nil {
		return nil, errors.New("gate: Config.Store is required")
	}
	env, err := expr.New()
	if err != nil {
		return nil, err
	}
	c.Patience, c.QuotaPatience = cmp.Or(c.Patience, DefaultPatience), cmp.Or(c.QuotaPatience, DefaultQuotaPatience)
	g := &Gate{config: c, store: c.Store, env: env, log: c.Logger}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.status.File = c.PolicyFile
	if err := g.Reload(ctx); err != nil {
		return nil, err
	}
	return g, nil
}

// Reload reads the policy file again and, if it has no fault, puts it in force
// at once for all requests that come after. Limits whose numbers stay keep
// their state as it is. On an error the policy in force stays. A policy that is
// not from a file, or has not changed, stays without an error.
func (g *Gate) Reload(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.config.PolicyFile == "" && g.config.Read == nil && g.current.Load() != nil {
		return nil
	}
	return g.applyLocked(g.configured)
}

// configured returns the policy that the configuration names.
func (g *Gate) configured() (Source, error) {
	switch {
	case g.config.PolicyFile != "":
		data, err := os.ReadFile(g.config.PolicyFile)
		if err != nil {
			err = fmt.Errorf("policy: %w", err)
		}
		return Source{Name: g.config.PolicyFile, Data: data}, err
	case g.config.Read != nil:
		return g.config.Read()
	case g.config.Policy != nil:
		return Source{Name: "policy", Data: g.config.Policy}, nil
	default:
		return Source{Name: "built-in policy", Data: policy.Builtin()}, nil
	}
}

// Source is a policy and where it is from.
type Source struct {
	// Name is a file's, or another name by which faults and logs call it.
	Name string
	Data []byte
	// Revision counts policies, from 1; 0 in Apply is one more than the present
	// one's.
	Revision uint64
}

// Apply puts a policy in force as Reload does. One that has the bytes and the revision
// of the present one stays as it is.
func (g *Gate) Apply(s Source) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.applyLocked(func() (Source, error) { return s, nil })
}

// Source returns the policy in force. Its Data must not be changed.
func (g *Gate) Source() Source {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.source
}

// Policy returns the policy in force as it was read; it must not be changed.
func (g *Gate) Policy() *policy.Policy { return g.current.Load().policy }

func (g *Gate) applyLocked(read func() (Source, error)) error {
	g.status.LastReloadAt = time.Now()
	s, err := read()
	if err == nil {
		err = g.enforceLocked(s)
	}
	g.status.LastReloadOK = err == nil
	return err
}

func (g *Gate) enforceLocked(s Source) error {
	old := g.current.Load()
	if old != nil && (s.Revision == 0 || s.Revision == g.source.Revision) && slices.Equal(s.Data, g.source.Data) {
		return nil
	}
	next, warnings, err := load(s.Name, s.Data, g.env, old)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		g.log.Warn("policy: " + w.String())
	}
	s.Revision = cmp.Or(s.Revision, g.source.Revision+1)
	next.revision = s.Revision
	g.status.Revision, g.status.LoadedAt = s.Revision, g.status.LastReloadAt
	g.source = s
	g.current.Store(next)
	g.log.Info("policy in force", "file", s.Name, "revision", s.Revision, "applications", len(next.applications))
	return nil
}

func load(name string, data []byte, env *expr.Env, old *snapshot) (*snapshot, []policy.Warning, error) {
	check := func(source string, kind policy.ExprKind) error {
		_, err := env.Compile(source, expr.Kind(kind))
		return err
	}
	p, warnings, err := policy.Parse(name, data, check)
	if err != nil {
		return nil, warnings, err
	}
	next, err := compile(name, p, env, old)
	return next, warnings, err
}

// Validate checks a policy as Open does. file names it in faults and warnings.
// The error is a policy.Faults.
func Validate(file string, data []byte) ([]policy.Warning, error) {
	env, err := expr.New()
	if err != nil {
		return nil, err
	}
	_, warnings, err := load(file, data, env, nil)
	return warnings, err
}

// Status returns which policy rules.
func (g *Gate) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.status
}

// UnknownPlans returns how many requests named a plan that does not exist and
// were decided by the application's default plan.
func (g *Gate) UnknownPlans() uint64 { return g.unknownPlans.Load() }

// TrustedProxies returns the addresses from which an application believes
// forwarded addresses, and whether there is such an application. The slice must
// not be changed.
func (g *Gate) TrustedProxies(application string) ([]netip.Prefix, bool) {
	a := g.current.Load().applications[application]
	if a == nil {
		return nil, false
	}
	return a.trusted, true
}

// Now returns the instant by which it is decided what holds for a time, in
// microseconds since the Unix epoch; see Config.Now.
func (g *Gate) Now() int64 {
	if g.config.Now != nil {
		return g.config.Now()
	}
	if c, ok := g.store.(headgate.Clock); ok {
		return c.Now()
	}
	return time.Now().UnixMicro()
}

// Ready returns an error if the gate cannot decide: it was closed, or Config.Away
// says that the store is away and every limit of the policy is closed then.
func (g *Gate) Ready() error {
	switch {
	case g.closed.Load():
		return errClosed
	case g.config.Away != nil && g.config.Away() && g.current.Load().shut(g.config.Local != nil) && !g.shadowed():
		return errShut
	}
	return nil
}

// shadowed reports whether an operator has put limits in shadow.
func (g *Gate) shadowed() bool {
	return slices.ContainsFunc(g.modesAt(g.Now()), func(o modeOverride) bool { return o.Shadow })
}

var errShut = &headgate.Error{Code: headgate.Unavailable, Err: errors.New("the store is away, and every limit is closed then")}

var errClosed = &headgate.Error{Code: headgate.Closed, Err: errors.New("gate is closed")}

// Close ends the gate. Requests fail from then on; the store stays open.
func (g *Gate) Close() error {
	g.closed.Store(true)
	return nil
}
