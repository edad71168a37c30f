package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fault is one thing that is wrong with a policy file.
type Fault struct {
	File string
	// Line and Column count from 1; columns are characters.
	Line, Column int
	// Path leads to the value: applications.email.rules[0].limits[1].rate.
	// Empty for faults of the whole file.
	Path    string
	Message string
}

// Error returns FILE:LINE:COL: path: message.
func (f Fault) Error() string {
	if f.Path == "" {
		return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s: %s", f.File, f.Line, f.Column, f.Path, f.Message)
}

// Faults is every fault of a file in the order of their positions.
type Faults []Fault

// Error returns one line per fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i := range f {
		lines[i] = f[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Warning is something that is allowed and seldom meant.
type Warning Fault

// String returns FILE:LINE:COL: path: message.
func (w Warning) String() string { return Fault(w).Error() }

// MaxFaults is the largest number of faults, and of warnings, that are
// reported of one file. The file is not read further after that many.
const MaxFaults = 1000

func compareFaults(a, b Fault) int {
	return cmp.Or(
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Column, b.Column),
		cmp.Compare(a.Path, b.Path),
		cmp.Compare(a.Message, b.Message),
	)
}

// reader collects what is wrong while a document is read.
type reader struct {
	file     string
	check    Checker
	faults   []Fault // at most MaxFaults
	found    int     // faults so far, also those that are not kept
	warnings []Fault

	plans     map[string]bool
	planUnits map[string]bool // what the limits of plans count
	largest   largestPlan
	nRules    int
	zones     map[string]*time.Location // nil for names that are none
	sendable  []sendable                // of the application being read
	maxWait   time.Duration             // of the rule being read
	// byDescriptor says that the rule being read matches by descriptor, zero that the
	// rate being read may be 0.
	byDescriptor, zero bool
	domains            map[string]int // the lines of those that are taken
	kept               []value        // concurrency limits whose slots somebody must release, of the application being read
	keptPlans          []value        // those of plans, until they were warned of
	// closedPlans is a limit of a plan that is closed while the store is away,
	// unless the application says otherwise; "" if there is none.
	closedPlans string
	periods     map[string]planPeriod // by limit of plans
	targets     targets
}

// largestPlan is the plan with the most limits.
type largestPlan struct {
	name string
	n    int
}

func (p largestPlan) who() string {
	if p.n == 0 {
		return "any plan"
	}
	return "plan " + p.name
}

// full reports whether reading on is pointless.
func (r *reader) full() bool { return len(r.faults) >= MaxFaults }

func (r *reader) fault(pos Pos, path, format string, args ...any) {
	r.found++
	if !r.full() {
		r.faults = append(r.faults, r.at(pos, path, format, args))
	}
}

func (r *reader) warn(pos Pos, path, format string, args ...any) {
	if len(r.warnings) < MaxFaults {
		r.warnings = append(r.warnings, r.at(pos, path, format, args))
	}
}

func (r *reader) at(pos Pos, path, format string, args []any) Fault {
	return Fault{File: r.file, Line: pos.Line, Column: pos.Column, Path: path, Message: fmt.Sprintf(format, args...)}
}

// result sorts and returns what was found; the error is nil without faults.
func (r *reader) result() ([]Warning, error) {
	slices.SortFunc(r.warnings, compareFaults)
	warnings := make([]Warning, len(r.warnings))
	for i, w := range r.warnings {
		warnings[i] = Warning(w)
	}
	if len(r.faults) == 0 {
		return warnings, nil
	}
	slices.SortFunc(r.faults, compareFaults)
	if r.full() {
		last := r.faults[len(r.faults)-1]
		last.Path, last.Message = "", fmt.Sprintf("more than %d faults: the file was not read further", MaxFaults-1)
		r.faults[len(r.faults)-1] = last
	}
	return warnings, Faults(r.faults)
}

// quoted quotes what the file says, cut short: values may be megabytes.
func quoted(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q...", strings.ToValidUTF8(s[:most], ""))
	}
	return fmt.Sprintf("%q", s)
}

// maxOptions is the largest number of options that Near compares.
const maxOptions = 200

// maxWord is the longest word, in bytes, that is compared with others.
const maxWord = 40

// Near returns the option that a typing error may have turned into s, or "".
// It is a help, not a search: words of more than 40 bytes and more than 200
// options are not compared.
func Near(s string, options []string) string {
	if len(s) > maxWord || len(options) > maxOptions {
		return ""
	}
	plain := plainWord(s)
	best, bestCost := "", 3
	for _, o := range options {
		cost := distance(plain, plainWord(o))
		if cost < bestCost && cost*3 <= max(len(o), 3) {
			best, bestCost = o, cost
		}
	}
	return best
}

func plainWord(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(s), "-", ""), "_", "")
}

// distance is the number of letters to insert, drop, replace or swap with
// their neighbour to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			replace := last[j]
			if a[i] != b[j] {
				replace++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, replace)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
