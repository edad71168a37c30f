package policy

import (
	_ "embed"
	"slices"
)

//go:embed builtin.yaml
var builtin []byte

//go:embed starter.yaml
var starter []byte

// Builtin returns the policy file of a server that was given none.
func Builtin() []byte { return slices.Clone(builtin) }

// Starter returns the commented policy file to begin with.
func Starter() []byte { return slices.Clone(starter) }
