// Command bench runs the benchmarks of module bench with the contestants in
// turns, and prints how Headgate stands to each of them.
//
// usage: go run ./cmd/bench [-rounds 5] [-time 200ms] [-run REGEXP] [-rivals REGEXP] [-gc=false] [-write]
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds int
	time   time.Duration
	run    *regexp.Regexp
	rivals *regexp.Regexp
	gc     bool
	write  bool
}

func parseFlags() (options, error) {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often each contestant has its turn")
	flag.DurationVar(&o.time, "time", 200*time.Millisecond, "how long each benchmark runs in a turn")
	pattern := flag.String("run", "", "run only benchmarks whose name, such as HotKey, matches this `regexp`")
	rivals := flag.String("rivals", "", "run only rivals whose name matches this `regexp`")
	flag.BoolVar(&o.gc, "gc", true, "also measure five million keys, which takes a minute and two gigabytes")
	flag.BoolVar(&o.write, "write", false, "write RESULTS.md; needs a whole run of at least 5 rounds")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case o.rounds < 1:
		return o, fmt.Errorf("-rounds %d: must be at least 1", o.rounds)
	case o.write && (o.rounds < 5 || *pattern != "" || *rivals != ""):
		return o, fmt.Errorf("-write needs a whole run of at least 5 rounds")
	}
	var errRun, errRivals error
	o.run, errRun = regexp.Compile(*pattern)
	o.rivals, errRivals = regexp.Compile(*rivals)
	return o, errors.Join(errRun, errRivals)
}

func run() error {
	o, err := parseFlags()
	if err != nil {
		return err
	}
	gomod, err := output("go", "env", "GOMOD")
	if err != nil {
		return err
	}
	dir := filepath.Dir(gomod)
	tmp, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	binary := filepath.Join(tmp, "bench.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Dir, build.Stderr = dir, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the benchmarks: %w", err)
	}
	rows := selected(o)
	if len(rows) == 0 {
		return fmt.Errorf("-run %v: no such benchmark", o.run)
	}
	began := time.Now()
	if o.write {
		if _, err := machine(o, began); err != nil { // rather than at the end
			return err
		}
	}
	results, raw := results{}, new(bytes.Buffer)
	for round := range o.rounds {
		if err := turn(binary, dir, round, o, rows, results, raw); err != nil {
			return err
		}
	}
	text := report(rows, results)
	fmt.Print("\n", text)
	if !o.write {
		return nil
	}
	head, err := machine(o, began)
	if err != nil {
		return err
	}
	all := "# Results\n\n" + head + "\n" + text + "\n## Raw output\n\n```\n" + raw.String() + "```\n"
	return os.WriteFile(filepath.Join(dir, "RESULTS.md"), []byte(all), 0o644)
}

// selected returns the rows to run.
func selected(o options) []row {
	var rows []row
	for _, r := range plan {
		if o.run.MatchString(r.bench) && (r.bench != "GC" || o.gc) {
			r.rivals = slices.DeleteFunc(slices.Clone(r.rivals), func(name string) bool { return !o.rivals.MatchString(name) })
			rows = append(rows, r)
		}
	}
	return rows
}

// turn gives each contestant of each group its turn, in another order every
// round. The binary runs in dir, where the sources of servers are.
func turn(binary, dir string, round int, o options, rows []row, rs results, raw *bytes.Buffer) error {
	jobs := jobsOf(rows, round)
	for i, j := range jobs {
		fmt.Fprintf(os.Stderr, "\r\033[Kround %d of %d, %d of %d: %s %s", round+1, o.rounds, i+1, len(jobs), j.group, j.contestant)
		cmd := exec.Command(binary, "-test.run", "^$", "-test.bench", j.pattern(), "-test.benchtime", max(o.time, leastTime[j.group]).String(), "-test.benchmem", "-test.timeout", "20m")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s %s: %w\n%s", j.group, j.contestant, err, out)
		}
		if err := rs.add(round, out, raw); err != nil {
			return err
		}
		for _, name := range j.benches {
			if id := name + "/" + j.contestant; name != "Floor" && len(rs[id]) <= round {
				return fmt.Errorf("no result for %s in\n%s", id, out)
			}
		}
	}
	fmt.Fprint(os.Stderr, "\r\033[K")
	return nil
}

// job is one process: what one contestant does in one group.
type job struct {
	group, contestant string
	benches           []string
}

func (j job) pattern() string {
	p := "^Benchmark(" + strings.Join(j.benches, "|") + ")$"
	if j.group != floors {
		p += "/^" + j.contestant + "$"
	}
	return p
}

// jobsOf returns the jobs of a round, group by group.
func jobsOf(rows []row, round int) []job {
	var jobs []job
	var groups []string
	for _, r := range rows {
		if !slices.Contains(groups, r.group) {
			groups = append(groups, r.group)
		}
	}
	for _, g := range groups {
		if most := mostRounds[g]; most > 0 && round >= most {
			continue
		}
		of := map[string][]string{}
		for _, r := range rows {
			if r.group != g {
				continue
			}
			for _, c := range slices.Concat([]string{r.ours}, r.rivals, r.beside) {
				if !slices.Contains(of[c], r.bench) {
					of[c] = append(of[c], r.bench)
				}
			}
		}
		names := slices.Sorted(maps.Keys(of))
		for i := range names {
			c := names[(i+round)%len(names)]
			jobs = append(jobs, job{g, c, of[c]})
		}
	}
	return append(jobs, job{floors, "floors", []string{"Floor"}})
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
