// Package front is what all doors have in common: who asks, and how many may at one time.
package front

import "context"

// Caller is somebody who asks. Applications that a caller does not reach are answered as
// unknown ones are.
type Caller interface {
	Reaches(application string) bool
	// Everywhere is whether the caller reaches all of them, those too that are not there
	// yet. What belongs to none, such as limits that callers describe, is for such callers
	// only.
	Everywhere() bool
	// Operates is whether the caller may also forgive: forget what was used, and give back
	// what was charged.
	Operates() bool
}

// Anybody is the Caller where nobody is asked who it is: it reaches everything, and
// forgives nothing.
type Anybody struct{}

// Reaches reports true.
func (Anybody) Reaches(string) bool { return true }

// Everywhere reports true.
func (Anybody) Everywhere() bool { return true }

// Operates reports false.
func (Anybody) Operates() bool { return false }

type callerKey struct{}

// With returns a context in which [Of] finds a caller.
func With(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// Of returns the caller of a context, [Anybody] where it says nothing.
func Of(ctx context.Context) Caller {
	if c, ok := ctx.Value(callerKey{}).(Caller); ok {
		return c
	}
	return Anybody{}
}
