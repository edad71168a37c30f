package bench

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// policy charges three limits to every request: the application's, the rule's
// and the plan's. Between rules and requests stand a path pattern and methods.
// A subject's burst is not full again before 10 s, so that its key stays.
const policy = `
version: 1
plans:
  free:
    limits:
      - {name: daily, algorithm: quota, rate: 1000000000000/day}
applications:
  shop:
    default_plan: free
    limits: [{name: all, rate: 10000000/s, burst: 1000000000}]
    rules:
      - name: search
        match: {path: "/api/search", methods: [GET]}
        limits: [{name: burst, rate: 10/s}]
      - name: orders
        match: {path: "/api/{rest...}", methods: [GET, POST]}
        limits: [{name: burst, rate: 1/10s, burst: 100000000}]
`

func openGate(tb testing.TB) *gate.Gate {
	tb.Helper()
	g, err := gate.Open(context.Background(), gate.Config{Policy: []byte(policy), Store: memstore.New(memstore.Config{})})
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

func ask(subject string) *gate.Request {
	return &gate.Request{Application: "shop", Method: "POST", Path: "/api/orders/17?full=1", Subject: subject}
}

// correct reports whether d is what policy says.
func correct(d *gate.Decision) bool {
	ls := d.Limits()
	return d.Allowed && d.Reason == headgate.OK && d.Rule == "orders" && d.Plan == "free" && len(ls) == 3 &&
		ls[0].ID == "app/all" && ls[1].ID == "orders/burst" && ls[2].ID == "plan/daily"
}

// BenchmarkPolicy decides a request of one subject by a whole policy.
func BenchmarkPolicy(b *testing.B) {
	b.Run("headgate", func(b *testing.B) {
		g, r, ctx := openGate(b), ask(hotKey), context.Background()
		var d gate.Decision
		n, wrong := int64(0), 0
		b.ReportAllocs()
		began := cpu(b)
		for b.Loop() {
			n++
			if err := g.Take(ctx, r, &d); err != nil || !correct(&d) {
				wrong++
			}
		}
		reportCPU(b, began, n)
		if wrong != 0 {
			b.Fatalf("%d wrong, the last one: %+v", wrong, d.Decision)
		}
	})
}

// BenchmarkPolicyUniform is the same for a million subjects, on all cores.
func BenchmarkPolicyUniform(b *testing.B) {
	b.Run("headgate", func(b *testing.B) {
		g, ctx, o := openGate(b), context.Background(), uniform()
		r, d := ask(""), new(gate.Decision)
		for _, k := range o.keys[:million] {
			r.Subject = k
			if err := g.Take(ctx, r, d); err != nil || !correct(d) {
				b.Fatal(err, d.Decision)
			}
		}
		var next, wrong atomic.Int64
		b.ReportAllocs()
		b.ResetTimer()
		began := cpu(b)
		b.RunParallel(func(pb *testing.PB) {
			r, d, bad := ask(""), new(gate.Decision), int64(0)
			for at := int(next.Add(1)) * cycle / 7; pb.Next(); at++ {
				r.Subject = o.keys[at%cycle]
				if err := g.Take(ctx, r, d); err != nil || !correct(d) {
					bad++
				}
			}
			wrong.Add(bad)
		})
		reportCPU(b, began, int64(b.N))
		if n := wrong.Load(); n != 0 {
			b.Fatalf("%d of %d wrong", n, b.N)
		}
	})
}
