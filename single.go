package headgate

// Single is implemented by stores that decide one charge faster than a batch of
// one. A [Limiter] of one limit asks it first.
type Single interface {
	// One decides as [Store.Apply] does for a batch of one charge of l, at the
	// present instant. op is Take or Peek, cost 0 to MaxInt. It reports false,
	// and nothing has moved, where only a batch can be decided.
	One(op Op, l *Prepared, owner string, cost int64) (d Decision, ok bool)
}

// Pinner is implemented by stores that can keep a key's state at hand.
type Pinner interface {
	// Pin returns the state of l for owner, to be closed by the caller. It
	// reports false for limits that cannot be kept so.
	Pin(l *Prepared, owner string) (Cell, bool)
}

// Cell is the state of one limit for one owner, kept at hand: the same budget
// that batches spend from. Every method may decline, and nothing has moved then:
// the caller asks with a batch. cost is 0 to MaxInt; now is as in Batch.Now. A
// Cell is safe for concurrent use.
type Cell interface {
	// Allow takes cost and reports whether it passed. Where processors contend
	// it may spend what was taken ahead for one of them: while o tokens are
	// taken ahead and not spent, the bucket refills to its capacity less o.
	Allow(cost, now int64) (allowed, ok bool)
	// Decide does a Take or Peek. It counts what is taken ahead as there.
	Decide(op Op, cost, now int64) (d Decision, ok bool)
	// Close hands the state back. The Cell declines from then on.
	Close()
}
