package gate_test

import (
	"context"
	"fmt"
	"log"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// A whole policy in process, without the daemon.
func Example() {
	ctx := context.Background()
	const policy = `
version: 1
plans:
  free:
    limits: [{name: daily, algorithm: quota, rate: 1000/day}]
applications:
  email:
    default_plan: free
    rules:
      - name: sendEmail
        match: {operation: sendEmail}
        limits: [{name: burst, rate: 10/s, burst: 100}]
`
	store := memstore.New(memstore.Config{})
	g, err := gate.Open(ctx, gate.Config{Policy: []byte(policy), Store: store})
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	r := gate.Request{Application: "email", Operation: "sendEmail", Subject: "alice", Cost: 101, CostSaid: true}
	var d gate.Decision
	for _, r.Cost = range []int64{101, 30, 1} {
		if err := g.Take(ctx, &r, &d); err != nil {
			log.Fatal(err)
		}
		fmt.Println("cost", r.Cost, "allowed", d.Allowed, d.Reason, "by", d.BoundByID())
	}
	for _, l := range d.Limits() {
		fmt.Println(l.ID, l.Limit.Algorithm, "has", l.Outcome.Limit)
	}
	// Output:
	// cost 101 allowed false cost_exceeds_limit by sendEmail/burst
	// cost 30 allowed true ok by sendEmail/burst
	// cost 1 allowed true ok by sendEmail/burst
	// sendEmail/burst token_bucket has 100
	// plan/daily quota has 1000
}
