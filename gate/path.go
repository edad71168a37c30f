package gate

import (
	"bytes"
	"errors"
	"strings"

	"github.com/headgate/headgate"
)

var (
	errPathSlash   = &headgate.Error{Code: headgate.InvalidRequest, Field: "request.path", Err: errors.New("must start with '/'")}
	errPathEscape  = &headgate.Error{Code: headgate.InvalidRequest, Field: "request.path", Err: errors.New("has a '%' that two hexadecimal digits do not follow")}
	errPathControl = &headgate.Error{Code: headgate.InvalidRequest, Field: "request.path", Err: errors.New("has a control character")}
	errPathLength  = &headgate.Error{Code: headgate.InvalidRequest, Field: "request.path", Err: errors.New("is longer than 8192 bytes")}
)

const maxPath = 8192

// splitPath cuts the query off a path as it stands on a request line, and
// brings the rest into the form in which proxies match it: escapes decoded,
// repeated slashes merged, dot segments resolved. Two spellings of one path can
// therefore not meet two rules. A path in that form already is not copied.
func splitPath(target string) (path, query string, err error) {
	if len(target) > maxPath {
		return "", "", errPathLength
	}
	path, query, _ = strings.Cut(target, "?")
	path, _, _ = strings.Cut(path, "#")
	if path == "" || path[0] != '/' {
		return "", "", errPathSlash
	}
	plain := true
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c < ' ' || c == 0x7f:
			return "", "", errPathControl
		case c == '%', i > 0 && path[i-1] == '/' && (c == '/' || c == '.'):
			plain = false
		}
	}
	if plain {
		return path, query, nil
	}
	path, err = canonicalPath(path)
	return path, query, err
}

func canonicalPath(path string) (string, error) {
	decoded := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			if i+2 >= len(path) {
				return "", errPathEscape
			}
			hi, lo := unhex(path[i+1]), unhex(path[i+2])
			if hi < 0 || lo < 0 {
				return "", errPathEscape
			}
			c = byte(hi<<4 | lo)
			i += 2
			if c < ' ' || c == 0x7f {
				return "", errPathControl
			}
		}
		decoded = append(decoded, c)
	}
	out := make([]byte, 0, len(decoded))
	for rest := string(decoded); rest != ""; {
		rest = rest[1:] // the slash
		segment, _, more := strings.Cut(rest, "/")
		rest = rest[len(segment):]
		switch {
		case segment == "" && more, segment == ".":
			if segment == "." && !more {
				out = append(out, '/')
			}
		case segment == "..":
			out = out[:max(0, bytes.LastIndexByte(out, '/'))]
			if !more {
				out = append(out, '/')
			}
		default:
			out = append(append(out, '/'), segment...)
		}
	}
	if len(out) == 0 {
		return "/", nil
	}
	return string(out), nil
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}
