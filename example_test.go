package headgate_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/memstore"
)

func Example() {
	ctx := context.Background()
	store := memstore.New(memstore.Config{})
	limiter, err := headgate.New(store, headgate.PerMinute(60).WithBurst(10))
	if err != nil {
		log.Fatal(err)
	}
	d, err := limiter.Take(ctx, "alice", 1) // d.Allowed, d.Remaining, d.RetryAfter, d.Reason
	if err != nil {
		log.Fatal(err) // nothing was decided
	}
	fmt.Println(d.Allowed, d.Remaining, "of", d.Limit)

	d, err = limiter.Take(ctx, "alice", 11)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Allowed, d.Reason, "retryable:", d.Retryable)
	// Output:
	// true 9 of 10
	// false cost_exceeds_limit retryable: false
}

// Several limits are decided together: the request that the hour refuses is not
// charged to the day.
func ExampleNew() {
	ctx := context.Background()
	limiter, err := headgate.New(memstore.New(memstore.Config{}),
		headgate.PerHour(3).WithName("hourly"),
		headgate.QuotaPer(1000, headgate.Year).WithName("yearly"))
	if err != nil {
		log.Fatal(err)
	}
	var batch headgate.Batch
	for range 4 {
		d, err := limiter.Decide(ctx, &batch, "alice", 1)
		if err != nil {
			log.Fatal(err)
		}
		bound := limiter.Limits()[d.BoundBy].Name
		fmt.Println(d.Allowed, d.Reason, "by", bound, "- of the year:", batch.Outcomes()[1].Used)
	}
	// Output:
	// true ok by hourly - of the year: 1
	// true ok by hourly - of the year: 2
	// true ok by hourly - of the year: 3
	// false rate_limited by hourly - of the year: 3
}

// A call of a language model is charged at the most that it may take, and
// corrected to what it took. What is held does not refill meanwhile.
func ExampleLimiter_Reserve() {
	ctx := context.Background()
	limiter, err := headgate.New(memstore.New(memstore.Config{}), headgate.Per(10_000, 24*time.Hour).WithName("tokens"))
	if err != nil {
		log.Fatal(err)
	}
	r, d, err := limiter.Reserve(ctx, "alice", 4000, 5*time.Minute)
	if err != nil {
		log.Fatal(err)
	}
	if r == nil {
		fmt.Println("refused:", d.Reason)
		return
	}
	fmt.Println(d.Remaining, "left")
	held, err := r.Settle(ctx, 1500)
	fmt.Println("settled:", held, err)
	d, err = limiter.Peek(ctx, "alice", 0)
	fmt.Println(d.Remaining, "left", err)
	// Output:
	// 6000 left
	// settled: true <nil>
	// 8500 left <nil>
}

// A bucket of 100 tokens that refills 10 a second, step by step. Batch.Now sets
// the instant where the clock is the process's, as in the memory store.
func Example_timeline() {
	store := memstore.New(memstore.Config{})
	limit, err := headgate.PerSecond(10).WithBurst(100).Prepare()
	if err != nil {
		log.Fatal(err)
	}
	start := store.Now()
	var batch headgate.Batch
	at := func(seconds int64, op headgate.Op, cost int64) headgate.Outcome {
		batch.Reset(op)
		batch.Now = start + seconds*1_000_000
		if _, err := batch.Add(headgate.Charge{Limit: limit, Owner: "alice", Cost: cost}); err != nil {
			log.Fatal(err)
		}
		if err := store.Apply(context.Background(), &batch); err != nil {
			log.Fatal(err)
		}
		return batch.Outcomes()[0]
	}
	for _, step := range []struct{ seconds, cost int64 }{{0, 5}, {1, 50}, {6, 10}} {
		o := at(step.seconds, headgate.Peek, step.cost)
		fmt.Printf("%ds: %d/%d tokens\n", step.seconds, o.Remaining, o.Limit)
		o = at(step.seconds, headgate.Take, step.cost)
		fmt.Printf("%ds: %d/%d tokens after taking %d\n", step.seconds, o.Remaining, o.Limit, step.cost)
	}
	o := at(6, headgate.Take, 95)
	fmt.Printf("6s: 95 are refused, retry after %v\n", o.RetryAfter)
	// Output:
	// 0s: 100/100 tokens
	// 0s: 95/100 tokens after taking 5
	// 1s: 100/100 tokens
	// 1s: 50/100 tokens after taking 50
	// 6s: 100/100 tokens
	// 6s: 90/100 tokens after taking 10
	// 6s: 95 are refused, retry after 500ms
}
