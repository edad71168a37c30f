package policy

import (
	_ "embed"
	"slices"
)

//go:embed builtin.yaml
var builtin []byte

//go:embed starter.yaml
var starter []byte

//go:embed policy.schema.json
var schema []byte

// Builtin returns the policy file of a server that was given none.
func Builtin() []byte { return slices.Clone(builtin) }

// Starter returns the commented policy file to begin with.
func Starter() []byte { return slices.Clone(starter) }

// Schema returns the JSON Schema of policy files, draft 2020-12, for editors. It
// takes every policy that [Parse] takes, and some that Parse refuses: a schema
// cannot say that a plan exists.
func Schema() []byte { return slices.Clone(schema) }
