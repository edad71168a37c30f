// Package wraptest holds the tests of gates in the chains of frameworks. It is a module of
// its own, so that those who use a framework without a policy need no gate.
package wraptest
