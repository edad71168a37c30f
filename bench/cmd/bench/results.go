package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// results holds what each sub-benchmark measured, by its name without the
// prefix: for each round, a value for each unit.
type results map[string][]map[string]float64

// add reads the output of a test binary into round, and copies the lines that
// hold results to raw.
func (rs results) add(round int, out []byte, raw io.Writer) error {
	for line := range bytes.Lines(out) {
		name, values, err := parseLine(string(line))
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		if len(rs[name]) > round {
			return fmt.Errorf("%s: two results in round %d", name, round+1)
		}
		rs[name] = append(rs[name], values)
		if _, err := raw.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// parseLine reads a line such as
//
//	BenchmarkHotKey/headgate-2   2216630   54.63 ns/op   0 B/op   0 allocs/op
//
// The name is "" if the line is another one.
func parseLine(line string) (name string, values map[string]float64, err error) {
	f := strings.Fields(line)
	if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") || len(f)%2 != 0 {
		return "", nil, nil
	}
	name = strings.TrimPrefix(f[0], "Benchmark")
	if at := strings.LastIndexByte(name, '-'); at >= 0 {
		if _, err := strconv.Atoi(name[at+1:]); err == nil {
			name = name[:at] // the number of processors
		}
	}
	values = make(map[string]float64, len(f)/2-1)
	for i := 2; i < len(f); i += 2 {
		v, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return "", nil, fmt.Errorf("%q: %w", strings.TrimSpace(line), err)
		}
		values[f[i+1]] = v
	}
	return name, values, nil
}

// all returns a benchmark's values of one unit, round by round.
func (rs results) all(id, unit string) []float64 {
	var vs []float64
	for _, m := range rs[id] {
		if v, ok := m[unit]; ok {
			vs = append(vs, v)
		}
	}
	return vs
}

// median returns the median of a benchmark's values, and whether there are any.
func (rs results) median(id, unit string) (float64, bool) {
	return median(rs.all(id, unit))
}

// ratio returns the median of how many times larger a's values are than b's in
// the same round: what slows a whole round down does not count.
func (rs results) ratio(a, b, unit string) (float64, bool) {
	as, bs := rs.all(a, unit), rs.all(b, unit)
	var ratios []float64
	for i := range min(len(as), len(bs)) {
		if bs[i] > 0 {
			ratios = append(ratios, as[i]/bs[i])
		}
	}
	return median(ratios)
}

func median(vs []float64) (float64, bool) {
	if len(vs) == 0 {
		return 0, false
	}
	vs = slices.Sorted(slices.Values(vs))
	n := len(vs)
	return (vs[(n-1)/2] + vs[n/2]) / 2, true
}
