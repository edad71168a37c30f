package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// report writes the table of rows and the floors, as Markdown.
func report(rows []row, rs results) string {
	table := [][]string{{"work", "unit", "headgate", "spread", "best rival", "others", "ratio", "CPU ratio", "goals (figure)", "reached", "allocs"}}
	for i := range rows {
		table = append(table, line(&rows[i], rs))
	}
	var b strings.Builder
	writeTable(&b, table)
	b.WriteString("\nns, B and ms are medians of the rounds, ratios medians of the ratios within a round; spread is the least and the most.\n")
	b.WriteString("The CPU ratio compares processor time per decision: steadier on a shared machine, blind to waiting.\n")
	b.WriteString("\nFloors, ns:")
	for i, f := range []struct{ name, is string }{
		{"clock", "the clock alone"}, {"cas", "CAS and clock"}, {"cas-batch", "the same, a clock reading for 64"},
		{"cas-parallel", "CAS and clock, all cores"}, {"cas-denial", "denial"},
	} {
		if v, ok := rs.median("Floor/"+f.name, "ns/op"); ok {
			if i > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, " %s %s", f.is, number(v))
		}
	}
	b.WriteString(".\n")
	return b.String()
}

type score struct {
	name  string
	value float64
}

func line(r *row, rs results) []string {
	unit := r.measure()
	var rivals []score
	for _, name := range r.rivals {
		if v, ok := rs.median(r.bench+"/"+name, unit); ok {
			rivals = append(rivals, score{name, v})
		}
	}
	slices.SortFunc(rivals, func(a, b score) int { return cmp.Compare(a.value, b.value) })
	ours, _ := rs.median(r.id(), unit)
	all := rs.all(r.id(), unit)
	cells := []string{r.work, unit, number(ours), number(slices.Min(all)) + "-" + number(slices.Max(all)), "-", "-", "-", "-"}
	var others []string
	best := ""
	if len(rivals) > 0 {
		best = rivals[0].name
		cells[4] = best + " " + number(rivals[0].value)
		for _, s := range rivals[1:] {
			others = append(others, s.name+" "+number(s.value))
		}
		if ratio, ok := rs.ratio(r.bench+"/"+best, r.id(), unit); ok {
			cells[6] = fmt.Sprintf("%.2f", ratio)
		}
		if ratio, ok := rs.ratio(r.bench+"/"+best, r.id(), "cpu-ns/op"); ok && unit == "ns/op" {
			cells[7] = fmt.Sprintf("%.2f", ratio)
		}
	}
	for _, name := range r.beside {
		if v, ok := rs.median(r.bench+"/"+name, unit); ok {
			others = append(others, name+" "+number(v))
		}
	}
	if len(r.rivals)+len(r.beside) > 0 {
		cells[5] = strings.Join(others, ", ")
	}
	var goals []string
	reached := true
	for _, g := range r.goals {
		said, ok := g.judge(r, best, rs)
		reached = reached && ok
		if g.unit != "allocs/op" { // has a column of its own
			goals = append(goals, strings.Replace(said, r.bench+"/", "", 1))
		}
	}
	allocs := "-" // an op is not one decision
	if v, ok := rs.median(r.id(), "allocs/op"); ok && slices.ContainsFunc(r.goals, func(g goal) bool { return g.unit == "allocs/op" }) {
		allocs = number(v)
	}
	return append(cells, strings.Join(goals, "; "), yes(reached), allocs)
}

// judge says whether the goal is reached, and by what figure.
func (g goal) judge(r *row, best string, rs results) (string, bool) {
	if g.other == "" {
		v, ok := rs.median(r.id(), g.unit)
		ok = ok && v <= g.most
		return fmt.Sprintf("%v (%s)", g, yes(ok)), ok
	}
	other := g.other
	if other == bestRival {
		other = r.bench + "/" + best
	}
	v, ok := rs.ratio(other, r.id(), r.measure())
	if g.slower {
		v, ok = rs.ratio(r.id(), other, r.measure())
	}
	if !ok {
		return fmt.Sprintf("%v (not run)", g), false
	}
	reached := v >= g.times
	if g.slower {
		reached = v <= g.times
	}
	return fmt.Sprintf("%v (%.2f, %s)", g, v, yes(reached)), reached
}

func yes(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

func number(v float64) string {
	if v != 0 && v < 10 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func writeTable(b *strings.Builder, table [][]string) {
	widths := make([]int, len(table[0]))
	for _, cells := range table {
		for i, c := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for n, cells := range table {
		for i, c := range cells {
			fmt.Fprintf(b, "| %-*s ", widths[i], c)
		}
		b.WriteString("|\n")
		if n > 0 {
			continue
		}
		for _, w := range widths {
			b.WriteString("| " + strings.Repeat("-", w) + " ")
		}
		b.WriteString("|\n")
	}
}
