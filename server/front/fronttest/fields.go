package fronttest

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/store/memstore"
)

// fieldsPolicy has limits that header fields tell, and others that they do not: one on trial,
// and those of a whole application.
const fieldsPolicy = `
version: 1
plans:
  none: {limits: []}
  free: {limits: [{name: daily, algorithm: quota, rate: 5/day}, {name: hourly, rate: 9/h}]}
applications:
  a:
    default_plan: free
    limits: [{name: all, rate: 1000/min, per: application}]
    rules:
      - {name: many, match: {operation: many}, limits: [{name: burst, rate: 2/h}, {name: seen, rate: 1/h, mode: shadow}, {name: slots, algorithm: concurrency, max: 50, ttl: 1h}], ban: {after: 9, within: 1min, for: 15min}}
  b:
    default_plan: none
    rules: [{name: theirs, match: {operation: theirs}, limits: [{name: all, rate: 9/h, per: application}]}]
`

// Fields is a gate, for tests of the header fields that a door answers with. Of application
// a, operation many has the limits many/burst, many/slots, plan/daily and plan/hourly to tell,
// others have those of the plan; of application b, operation theirs has none.
type Fields struct {
	*gate.Gate
	// Header has the fields that package httpgate makes of the last decision.
	Header http.Header
}

// OpenFields returns such a gate, with a store in memory that has no state yet.
func OpenFields(tb testing.TB) *Fields {
	tb.Helper()
	g, err := gate.Open(tb.Context(), gate.Config{Policy: []byte(fieldsPolicy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
	if err != nil {
		tb.Fatal(err)
	}
	return &Fields{Gate: g}
}

func (f *Fields) see(d *gate.Decision, err error) error {
	f.Header = http.Header{}
	if err == nil {
		new(httpgate.Fields).Set(f.Header, d, policy.HeadersIETF)
	}
	return err
}

// Take is gate.Take.
func (f *Fields) Take(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return f.see(d, f.Gate.Take(ctx, r, d))
}

// Peek is gate.Peek.
func (f *Fields) Peek(ctx context.Context, r *gate.Request, d *gate.Decision) error {
	return f.see(d, f.Gate.Peek(ctx, r, d))
}

// Explain is gate.Explain.
func (f *Fields) Explain(ctx context.Context, r *gate.Request, d *gate.Decision, e *gate.Explanation) error {
	return f.see(d, f.Gate.Explain(ctx, r, d, e))
}

// Reserve is gate.Reserve.
func (f *Fields) Reserve(ctx context.Context, r *gate.Request, ttl time.Duration, d *gate.Decision) error {
	return f.see(d, f.Gate.Reserve(ctx, r, ttl, d))
}

// TakeAll is gate.TakeAll. Header is of the first of ds.
func (f *Fields) TakeAll(ctx context.Context, rs []*gate.Request, ds []*gate.Decision) (int, error) {
	failed, err := f.Gate.TakeAll(ctx, rs, ds)
	return failed, f.see(ds[0], err)
}
