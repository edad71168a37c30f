package httpgate

import (
	"errors"
	"strings"
)

var errDotted = errors.New("has a segment '.' or '..', which routers and rules may read as different paths")

// dotted reports whether a path has a segment that leads elsewhere, in whatever spelling.
// Rules are found by the path to which it leads, as by proxies. Routers differ: some find
// the handler of the path as it is written, and the client could choose between the two.
func dotted(target string) bool {
	path, _, _ := strings.Cut(target, "?")
	if !strings.Contains(path, "/.") && strings.IndexByte(path, '%') < 0 {
		return false
	}
	dots, others := 0, false // of the segment
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' && i+2 < len(path) {
			switch path[i+1 : i+3] {
			case "2e", "2E":
				c, i = '.', i+2
			case "2f", "2F":
				c, i = '/', i+2
			}
		}
		switch c {
		case '.':
			dots++
		case '/', ';': // what follows a semicolon is no part of the name to some
			if dots > 0 && dots <= 2 && !others {
				return true
			}
			dots, others = 0, c == ';'
		default:
			others = true
		}
	}
	return dots > 0 && dots <= 2 && !others
}
