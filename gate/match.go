package gate

import (
	"math"
	"slices"
	"strings"
)

// match finds the rule.
func (q *question) match(d *Decision) error {
	r := q.request
	if r.Operation == "" && r.Path == "" && len(r.Descriptor) == 0 {
		return invalid("operation", "operation or request.path is required")
	}
	if err := checkOwner("operation", r.Operation); err != nil {
		return err
	}
	var err error
	if q.rule, err = q.matchDescriptor(); err != nil {
		return err
	}
	if q.described = q.rule != nil; !q.described {
		if r.Path != "" {
			if q.path, q.query, err = splitPath(r.Path); err != nil {
				return err
			}
		}
		q.rule = q.matchRequest()
	}
	d.Rule, d.Message = q.rule.name, q.rule.message
	d.Label = q.label(d)
	if q.rule.written != nil {
		d.Metadata = q.rule.written.Metadata
	}
	return nil
}

// matchRequest finds the rule by operation, method and path.
func (q *question) matchRequest() *rule {
	r := q.request
	best := q.app.anyone.find(r.Method, q.path, noMatch)
	if r.Operation != "" {
		if m := q.app.byOperation[r.Operation]; m != nil {
			best = m.find(r.Method, q.path, best)
		}
	}
	if best == noMatch {
		return q.app.noRule
	}
	return q.app.rules[best]
}

// noMatch is greater than the index of any rule.
const noMatch = math.MaxInt

// matcher finds the first rule, in the order of the file, that takes a method
// and a path. Rules hang in a tree of path segments, so that the search costs
// as much as the path is long, not as there are rules.
type matcher struct {
	root    node
	anyPath []choice // rules without a path
}

// node is a place in the tree. A rule hangs where its pattern ends.
type node struct {
	literal map[string]*node
	param   *node
	exact   []choice // patterns that end here
	rest    []choice // patterns that end in {name...} or a slash
	first   int      // least index in this subtree
}

// choice is a rule that still asks for a method.
type choice struct {
	index   int
	methods []string // empty for any
}

func (c *choice) takes(method string) bool {
	return len(c.methods) == 0 || slices.Contains(c.methods, method) ||
		method == "HEAD" && slices.Contains(c.methods, "GET")
}

// firstOf returns the least index below best whose rule takes the method.
// Choices are in ascending order.
func firstOf(choices []choice, method string, best int) int {
	for i := range choices {
		if choices[i].index >= best {
			break
		}
		if choices[i].takes(method) {
			return choices[i].index
		}
	}
	return best
}

// add hangs rule index, greater than all before it, under its pattern: "" for
// any path. Patterns are those of net/http: literal segments, {name} for one,
// a last {name...} or trailing slash for all that follow, and {$} for the bare
// trailing slash.
func (m *matcher) add(index int, pattern string, methods []string) {
	c := choice{index, methods}
	if pattern == "" {
		m.anyPath = append(m.anyPath, c)
		return
	}
	n := &m.root
	if n.literal == nil {
		n.first = index
	}
	segments := strings.Split(pattern[1:], "/")
	for i, segment := range segments {
		last := i == len(segments)-1
		switch {
		case last && (segment == "" || strings.HasSuffix(segment, "...}")):
			n.rest = append(n.rest, c)
			return
		case segment == "{$}":
			n = n.child("", index)
		case strings.HasPrefix(segment, "{"):
			if n.param == nil {
				n.param = &node{first: index}
			}
			n = n.param
		default:
			n = n.child(segment, index)
		}
	}
	n.exact = append(n.exact, c)
}

func (n *node) child(segment string, index int) *node {
	if n.literal == nil {
		n.literal = make(map[string]*node)
	}
	next := n.literal[segment]
	if next == nil {
		next = &node{first: index}
		n.literal[segment] = next
	}
	return next
}

// find returns the first rule below best that takes method and path, else best.
// The path starts with a slash, or is empty if there is none.
func (m *matcher) find(method, path string, best int) int {
	best = firstOf(m.anyPath, method, best)
	if path == "" {
		return best
	}
	return m.root.find(method, path[1:], best)
}

// find looks for rest, what follows a slash.
func (n *node) find(method, rest string, best int) int {
	best = firstOf(n.rest, method, best)
	segment, after, more := strings.Cut(rest, "/")
	if next := n.literal[segment]; next != nil {
		best = next.enter(method, after, more, best)
	}
	if n.param != nil && segment != "" {
		best = n.param.enter(method, after, more, best)
	}
	return best
}

func (n *node) enter(method, after string, more bool, best int) int {
	if n.first >= best {
		return best
	}
	if more {
		return n.find(method, after, best)
	}
	return firstOf(n.exact, method, best)
}
