package refusal

import (
	"encoding/json"
	"testing"

	"github.com/headgate/headgate"
)

func TestAppend(t *testing.T) {
	for r := range headgate.Reasons {
		for _, detail := range []string{"", "plain", "say \"no\"\r\n<b>", `back\slash`, "grün", "a&b", "\x7f"} {
			p := Of(headgate.Reason(r))
			text := append(p.Append([]byte(" "), detail), '}')
			var doc struct {
				Type, Title, Detail string
				Status              int
			}
			if err := json.Unmarshal(text, &doc); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if doc.Type != p.Type || doc.Title != p.Title || doc.Status != p.Status || doc.Detail != detail {
				t.Errorf("got %s of %+v", text, p)
			}
		}
	}
}
