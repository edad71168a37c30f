// Package headgate holds the words of a rate limiting, throttling and quota
// system, and the Limiter that Go programs use.
//
// A [Limit] is one algorithm with its numbers. [Limit.Prepare] checks it and
// reduces it to the integers that arithmetic needs. A [Charge] asks one
// prepared limit for a cost on behalf of an owner. A [Batch] holds up to
// [MaxCharges] charges that a [Store] decides together: all of them are taken,
// or none. What a batch came to is its [Decision].
//
// The package requires the standard library only. Arithmetic lives in algo,
// state in store/memstore and its siblings, whole policies in gate.
package headgate
