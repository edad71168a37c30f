// Package envoy reads the configuration of envoyproxy/ratelimit and writes the policy
// that answers as it does: one application for each domain, one rule for each descriptor
// that has a limit.
package envoy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/headgate/headgate/gate/policy"
)

// File is one configuration file.
type File struct {
	// Name is what faults and comments call it.
	Name string
	Data []byte
}

// Options say how configurations are read.
type Options struct {
	// MergeDomains lets several files add to one domain, as MERGE_DOMAIN_CONFIG does.
	// Without it a domain stands in one file.
	MergeDomains bool
	// Calendar makes quotas by the calendar, in UTC, of limits per hour, day, week, month
	// and year. Without it they are windows of 3,600 s, 86,400 s, 7, 30 and 365 days from
	// the Unix epoch on, as they were: a week starts on a Thursday then.
	Calendar bool
}

// Convert returns the policy that the files amount to, in YAML. It is the same for the
// same files in the same order. The error is a [policy.Faults] with all that is wrong.
// Warnings, which come with and without faults, tell what the files say in vain.
func Convert(files []File, o Options) ([]byte, []policy.Warning, error) {
	r := &reader{options: o, domains: make(map[string]*domain)}
	for i := range files {
		r.file(&files[i])
	}
	if len(files) == 0 {
		return nil, nil, policy.Faults{{File: "-", Line: 1, Column: 1, Message: "no file of configuration"}}
	}
	w := writer{reader: r}
	for _, d := range r.order {
		w.domain(d)
	}
	warnings := slices.Clip(r.warnings)
	if len(r.faults) > 0 {
		slices.SortStableFunc(r.faults, r.compare)
		if r.full() {
			last := &r.faults[len(r.faults)-1]
			last.Path, last.Message = "", fmt.Sprintf("more than %d faults: nothing was read further", policy.MaxFaults-1)
		}
		return nil, warnings, r.faults
	}
	return w.out, warnings, nil
}

// reader collects what files say, and what is wrong with it.
type reader struct {
	options  Options
	faults   policy.Faults // at most policy.MaxFaults
	warnings []policy.Warning
	names    []string // of the files, in their order
	domains  map[string]*domain
	order    []*domain // as they were met
	nodes    int       // read of all files
}

// place is where something stands.
type place struct {
	file string
	pos  policy.Pos
	path string
}

func (r *reader) full() bool { return len(r.faults) >= policy.MaxFaults }

func (r *reader) fault(at place, format string, args ...any) {
	if !r.full() {
		r.faults = append(r.faults, fault(at, format, args))
	}
}

func (r *reader) warn(at place, format string, args ...any) {
	if len(r.warnings) < policy.MaxFaults {
		r.warnings = append(r.warnings, policy.Warning(fault(at, format, args)))
	}
}

func fault(at place, format string, args []any) policy.Fault {
	return policy.Fault{File: at.file, Line: at.pos.Line, Column: at.pos.Column, Path: at.path, Message: fmt.Sprintf(format, args...)}
}

// compare puts faults in the order of the files and of their lines.
func (r *reader) compare(a, b policy.Fault) int {
	return cmp.Or(
		cmp.Compare(slices.Index(r.names, a.File), slices.Index(r.names, b.File)),
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Column, b.Column),
	)
}
