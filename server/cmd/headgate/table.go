package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// columns is the width that tables and sentences keep to.
	columns = 80
	// least is the width below which no column of a table is cut.
	least = 12
)

// plain makes text of others harmless for a terminal: what does not print, such
// as the beginning of an escape sequence, becomes a question mark.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// wrap breaks text between words; the lines after the first are indented.
func wrap(text string, indent int) string {
	var b strings.Builder
	at := indent
	for i, word := range strings.Fields(text) {
		word = plain(word)
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+n > columns:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

// writeTable writes rows, the first of which are the headings, with two spaces
// between the columns. Where they are too wide for the terminal, the columns of
// before are cut first, the widest of them each time, and then that of after.
func writeTable(w io.Writer, rows [][]string, before []int, after int) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			row[i] = plain(cell)
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
	}
	total := 2 * (len(width) - 1)
	for _, n := range width {
		total += n
	}
	for ; total > columns; total-- {
		widest := slices.MaxFunc(before, func(a, b int) int { return cmp.Compare(width[a], width[b]) })
		if width[widest] <= least {
			widest = after
		}
		if width[widest] <= least {
			break
		}
		width[widest]--
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = fmt.Sprintf("%-*s", width[i], cut(cell, width[i]))
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "  "), " "))
	}
}

// cut shortens s to n characters and shows that it did.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
