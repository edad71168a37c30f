package refusal

import "strings"

// Form is how a refusal is written.
type Form uint8

// The forms, the default first.
const (
	// Document is application/problem+json.
	Document Form = iota
	// Page is text/html.
	Page
	// Text is text/plain.
	Text
	forms
)

// Accepted returns the form that the lines of an Accept field (RFC 9110, 12.5.1) like
// best; of equals the one that they name more precisely, then the first. Where they
// accept none, or there are none, it is the default.
func Accepted(lines []string) Form {
	if len(lines) == 0 {
		return Document
	}
	var quality, precision [forms]int
	for _, line := range lines {
		for line != "" {
			var part string
			part, line, _ = strings.Cut(line, ",")
			media, parameters, _ := strings.Cut(part, ";")
			q, ok := weight(parameters)
			if !ok {
				continue
			}
			for f := range forms {
				p := f.precision(strings.TrimSpace(media))
				if p > precision[f] || p > 0 && p == precision[f] && q > quality[f] {
					quality[f], precision[f] = q, p
				}
			}
		}
	}
	best := Document
	for f := Page; f < forms; f++ {
		if quality[f] > quality[best] || quality[f] == quality[best] && quality[f] > 0 && precision[f] > precision[best] {
			best = f
		}
	}
	return best
}

// precision is how closely a media range names the form; 0 if it does not.
func (f Form) precision(media string) int {
	kind, plain, exact := "application", "", ""
	switch f {
	case Document:
		plain, exact = "application/json", "application/problem+json"
	case Page:
		kind, exact = "text", "text/html"
	case Text:
		kind, exact = "text", "text/plain"
	}
	switch {
	case strings.EqualFold(media, exact):
		return 4
	case plain != "" && strings.EqualFold(media, plain):
		return 3
	case media == "*/*":
		return 1
	case len(media) == len(kind)+2 && strings.EqualFold(media[:len(kind)], kind) && media[len(kind):] == "/*":
		return 2
	}
	return 0
}

// weight returns the q of a media range's parameters in thousandths, 1000 if there is
// none; ok is false if it is malformed.
func weight(parameters string) (q int, ok bool) {
	for parameters != "" {
		var p string
		p, parameters, _ = strings.Cut(parameters, ";")
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if !strings.EqualFold(name, "q") {
			continue
		}
		whole, digits, _ := strings.Cut(value, ".")
		if whole != "0" && whole != "1" || len(digits) > 3 {
			return 0, false
		}
		q = 1000 * int(whole[0]-'0')
		for i, unit := 0, 100; i < len(digits); i, unit = i+1, unit/10 {
			if digits[i] < '0' || digits[i] > '9' {
				return 0, false
			}
			q += unit * int(digits[i]-'0')
		}
		return q, q <= 1000
	}
	return 1000, true
}
