package admin

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// usageLines writes rows as one JSON object a line.
func usageLines(w io.Writer, items []usageItem) error {
	var page bytes.Buffer
	e := json.NewEncoder(&page)
	e.SetEscapeHTML(false)
	for i := range items {
		if err := e.Encode(&items[i]); err != nil {
			return err
		}
	}
	_, err := w.Write(page.Bytes())
	return err
}

// usageColumns are the headings of usage as CSV: the names of the fields, in their order.
var usageColumns = []string{
	"application", "subject", "operation", "plan", "unit", "from", "to", "timezone", "allowed", "denied", "cost", "overage", "revision", "final",
}

// usageTable returns what writes rows as CSV, below a line of headings.
func usageTable() func(w io.Writer, items []usageItem) error {
	heading := usageColumns
	return func(w io.Writer, items []usageItem) error {
		var page bytes.Buffer
		t := csv.NewWriter(&page)
		if heading != nil {
			t.Write(heading)
			heading = nil
		}
		number := func(n int64) string { return strconv.FormatInt(n, 10) }
		for i := range items {
			u := &items[i]
			t.Write([]string{
				cell(u.Application), cell(u.Subject), cell(u.Operation), cell(u.Plan), cell(u.Unit), u.From, u.To, cell(u.Timezone),
				number(u.Allowed), number(u.Denied), number(u.Cost), number(u.Overage), number(u.Revision), strconv.FormatBool(u.Final),
			})
		}
		t.Flush() // a buffer takes everything
		_, err := w.Write(page.Bytes())
		return err
	}
}

// cell is a text that no spreadsheet takes for a formula: one that it might has a ' in
// front. So has one that begins like a text that was changed, so that no two become the
// same, and taking one ' away from each that runs without it gives back what was there.
func cell(s string) string {
	if runs(s) {
		return "'" + s
	}
	return s
}

// runs reports whether a text might be taken for a formula, whatever blanks and
// apostrophes it begins with.
func runs(s string) bool {
	rest := strings.TrimLeftFunc(s, func(r rune) bool {
		return r == '\'' || r != '\t' && r != '\r' && r != '\n' && (unicode.IsSpace(r) || !unicode.IsPrint(r))
	})
	for _, first := range rest {
		return strings.ContainsRune("=+-@\t\r\n＝＋－＠", first)
	}
	return false
}
