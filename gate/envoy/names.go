package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate"
)

// names hands out names that are valid and different from each other. What a name is made
// of alone decides on it, but for clashes: state is found again by it.
type names struct {
	taken map[string]bool
	// reserved are words that are no names.
	reserved []string
}

// take returns text as a name, with a hash of exact where the text is none as it is, or
// where the name is taken.
func (n *names) take(text, exact string) string {
	if n.taken == nil {
		n.taken = make(map[string]bool)
	}
	name := text
	sum := sha256.Sum256([]byte(exact))
	if headgate.CheckName(text) != nil || slices.Contains(n.reserved, text) {
		name = hashed(text, sum[:4])
	}
	for i := 4; n.taken[name]; i++ {
		name = hashed(text, sum[:i]) // two that agree in all of it are one
	}
	n.taken[name] = true
	return name
}

const maxName = 64

// hashed returns what of text a name may hold, and a hash behind it.
func hashed(text string, sum []byte) string {
	tail := "-" + hex.EncodeToString(sum)
	var b strings.Builder
	for _, c := range text {
		if b.Len() == maxName-len(tail) {
			break
		}
		if c >= 0x80 || headgate.CheckName(string(c)) != nil {
			c = '-'
		}
		b.WriteRune(c)
	}
	return strings.Trim(b.String(), "-") + tail
}

// ruleText is key_value.key_value, which people read, and exact the same so that no two
// lists have one.
func ruleText(path []entry) (text, exact string) {
	var b, e strings.Builder
	for i, p := range path {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(p.key)
		if p.value != "" {
			b.WriteByte('_')
			b.WriteString(p.value)
		}
		fmt.Fprintf(&e, "%d:%s%d:%s", len(p.key), p.key, len(p.value), p.value)
	}
	return b.String(), e.String()
}
