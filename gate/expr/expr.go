// Package expr compiles and evaluates the expressions of policies: CEL over
// request, operation, subject, plan and attributes.
//
// Names are declared one by one (request.path is a string, request.headers a
// map of strings), so that a misspelt name is an error when the policy is read
// and not when a request comes. An expression whose worst case costs more than
// [MaxCost] is refused then, too: none can be made slow by what a client sends.
package expr

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

const (
	// MaxSource is the longest expression, in bytes.
	MaxSource = 4096
	// MaxCost bounds the worst case in CEL cost units, about one per simple
	// operation and a tenth per byte looked at.
	MaxCost = 100_000

	// What a request may hold at most, for the estimate.
	maxString = 8 << 10
	maxMap    = 128
)

// Kind is the type that an expression must yield.
type Kind uint8

// The kinds.
const (
	Bool Kind = iota
	Int
	String
)

func (k Kind) celType() *cel.Type {
	return [...]*cel.Type{cel.BoolType, cel.IntType, cel.StringType}[k]
}

// Input is what expressions see. Headers have canonical names, and lower-case
// ones in expressions.
type Input struct {
	Method, Path, Query, Host, IP string
	Headers                       http.Header
	Operation, Subject, Plan      string
	Attributes                    map[string]string
}

// Env compiles expressions. It is safe for concurrent use.
type Env struct{ env *cel.Env }

// New returns an environment.
func New() (*Env, error) {
	text := cel.MapType(cel.StringType, cel.StringType)
	env, err := cel.NewEnv(
		cel.Variable("request.method", cel.StringType),
		cel.Variable("request.path", cel.StringType),
		cel.Variable("request.host", cel.StringType),
		cel.Variable("request.ip", cel.StringType),
		cel.Variable("request.headers", text),
		cel.Variable("request.query", text),
		cel.Variable("operation", cel.StringType),
		cel.Variable("subject", cel.StringType),
		cel.Variable("plan", cel.StringType),
		cel.Variable("attributes", text),
	)
	if err != nil {
		return nil, fmt.Errorf("expr: %w", err)
	}
	return &Env{env: env}, nil
}

// Program is a compiled expression. It is safe for concurrent use.
type Program struct {
	source  string
	program cel.Program
}

// Compile checks source and returns its program. The error is for the author of
// the policy.
func (e *Env) Compile(source string, kind Kind) (*Program, error) {
	if len(source) > MaxSource {
		return nil, fmt.Errorf("expression of %d bytes: at most %d", len(source), MaxSource)
	}
	ast, issues := e.env.Compile(source)
	if err := issues.Err(); err != nil {
		return nil, errors.New(firstLine(err.Error()))
	}
	if want := kind.celType(); !ast.OutputType().IsExactType(want) {
		return nil, fmt.Errorf("expression yields %v, want %v", ast.OutputType(), want)
	}
	worst, err := e.env.EstimateCost(ast, sizes{})
	if err != nil {
		return nil, fmt.Errorf("expression cost: %w", err)
	}
	if worst.Max > MaxCost {
		return nil, fmt.Errorf("expression may cost %d units for a large request: at most %d", worst.Max, MaxCost)
	}
	program, err := e.env.Program(ast, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("expression: %w", err)
	}
	return &Program{source: source, program: program}, nil
}

// firstLine shortens CEL's reports, which repeat the source.
func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return strings.TrimPrefix(s, "ERROR: <input>:")
}

// sizes bounds the variables for the estimate of costs.
type sizes struct{}

func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	switch path := node.Path(); {
	case len(path) == 1 && (path[0] == "attributes" || path[0] == "request.headers" || path[0] == "request.query"):
		return &cost.SizeEstimate{Max: maxMap}
	case len(path) > 0:
		return &cost.SizeEstimate{Max: maxString}
	default:
		return nil
	}
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// MissingError says that an expression asked for something that the request
// does not have.
type MissingError struct {
	Source string
	Err    error
}

// Error names the expression.
func (e *MissingError) Error() string { return fmt.Sprintf("expression %q: %v", e.Source, e.Err) }

// Unwrap returns CEL's own error.
func (e *MissingError) Unwrap() error { return e.Err }

// Bool evaluates an expression of kind Bool. The error is a *MissingError.
func (p *Program) Bool(in *Input) (bool, error) {
	v, err := p.eval(in)
	if err != nil {
		return false, err
	}
	b, _ := v.(types.Bool)
	return bool(b), nil
}

// Int evaluates an expression of kind Int. The error is a *MissingError.
func (p *Program) Int(in *Input) (int64, error) {
	v, err := p.eval(in)
	if err != nil {
		return 0, err
	}
	n, _ := v.(types.Int)
	return int64(n), nil
}

// String evaluates an expression of kind String. The error is a *MissingError.
func (p *Program) String(in *Input) (string, error) {
	v, err := p.eval(in)
	if err != nil {
		return "", err
	}
	s, _ := v.(types.String)
	return string(s), nil
}

func (p *Program) eval(in *Input) (ref.Val, error) {
	v, _, err := p.program.Eval((*activation)(in))
	if err != nil {
		return nil, &MissingError{Source: p.source, Err: err}
	}
	return v, nil
}

// activation gives CEL the variables that it asks for, and makes only those.
type activation Input

func (a *activation) Parent() interpreter.Activation { return nil }

func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "request.method":
		return a.Method, true
	case "request.path":
		return a.Path, true
	case "request.host":
		return a.Host, true
	case "request.ip":
		return a.IP, true
	case "request.headers":
		return lowered(a.Headers), true
	case "request.query":
		return firstValues(a.Query), true
	case "operation":
		return a.Operation, true
	case "subject":
		return a.Subject, true
	case "plan":
		return a.Plan, true
	case "attributes":
		if a.Attributes == nil {
			return map[string]string{}, true
		}
		return a.Attributes, true
	default:
		return nil, false
	}
}

func lowered(h http.Header) map[string]string {
	m := make(map[string]string, len(h))
	for name, values := range h {
		m[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return m
}

// firstValues parses a query. What is malformed in it is left out.
func firstValues(query string) map[string]string {
	values, _ := url.ParseQuery(query)
	m := make(map[string]string, len(values))
	for name, v := range values {
		m[name] = v[0]
	}
	return m
}
