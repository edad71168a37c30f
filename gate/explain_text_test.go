package gate

import (
	"strings"
	"testing"
	"time"
)

func TestSaySource(t *testing.T) {
	for _, c := range []struct{ source, want string }{
		{`attributes["org"]`, "`attributes[\"org\"]`"},
		{`request.headers['x-size'] == '9'`, "`request.headers['x-size'] == \"...\"`"},
		{`subject == "bob" ? 5 : 1`, "`subject == \"...\" ? 5 : 1`"},
		{`subject in["bob"]`, "`subject in[\"...\"]`"},
		{`subject in ["bob", 'bob']`, "`subject in [\"...\", \"...\"]`"},
		{`["bob"].exists(s, s == subject)`, "`[\"...\"].exists(s, s == subject)`"},
		{`{"bob": 1}["bob"]`, "`{\"...\": 1}[\"...\"]`"},
		{`xattributes["bob"]`, "`xattributes[\"...\"]`"},
		{`subject == r"bob\" ? 1 : 2`, "`subject == r\"...\" ? 1 : 2`"},
		{`subject == "a\"bob" ? 1 : 2`, "`subject == \"...\" ? 1 : 2`"},
		{`subject == """a"bob" """ ? 1 : 2`, "`subject == \"...\" ? 1 : 2`"},
		{`subject == '''a'bob''' ? 1 : 2`, "`subject == \"...\" ? 1 : 2`"},
		{`size("") // bob`, "`size(\"...\") `"},
		{"1 +\n\t2 // bob\n + 3", "`1 + 2 + 3`"},
		{"attributes[\"a\x1bb\"]", "`attributes[\"...\"]`"},
		{`"never ends bob`, "`\"...\"`"},
	} {
		if got := saySource(c.source); got != c.want {
			t.Errorf("%s: %s, want %s", c.source, got, c.want)
		}
	}
}

func TestSayName(t *testing.T) {
	for s, want := range map[string]string{
		"alice": "alice", "alice@example.com": "alice@example.com", "2001:db8::/64": "2001:db8::/64", "Zoë": "Zoë",
		"": `""`, "two words": `"two words"`, "a\nb": `"a\nb"`, "\x1b[2J": `"\x1b[2J"`, "a\u202eb": `"a\u202eb"`, "\xff": `"\xff"`, "a\u200bb": `"a\u200bb"`,
		strings.Repeat("a", 511) + "ë": `"` + strings.Repeat("a", 511) + `"...`,
	} {
		if got := sayName(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func TestSayDurations(t *testing.T) {
	for _, c := range []struct {
		d           time.Duration
		span, exact string
	}{
		{0, "0 s", "0 s"},
		{1, "1 ms", "0.001 us"},
		{250 * time.Microsecond, "1 ms", "250 us"},
		{1500 * time.Microsecond, "2 ms", "1.5 ms"},
		{1500 * time.Millisecond, "1.5 s", "1.5 s"},
		{9_910 * time.Millisecond, "10 s", "9.91 s"},
		{40*time.Second + 1, "41 s", "40.000000001 s"},
		{59_500 * time.Millisecond, "1 min", "59.5 s"},
		{2*time.Hour + 4*time.Minute + time.Second, "2 h 5 min", "2 h 4 min 1 s"},
		{23*time.Hour + 59*time.Minute + time.Second, "1 d", "23 h 59 min 1 s"},
		{25*time.Hour + time.Second, "1 d 2 h", "1 d 1 h 1 s"},
		{1<<63 - 1, "106751 d 23 h 47 min 16.854775807 s", "106751 d 23 h 47 min 16.854775807 s"},
	} {
		if got := saySpan(c.d); got != c.span {
			t.Errorf("span %v: %s, want %s", c.d, got, c.span)
		}
		if got := sayExact(c.d); got != c.exact {
			t.Errorf("exact %v: %s, want %s", c.d, got, c.exact)
		}
	}
}

// An instant that was rounded down would send people who believe it too early.
func TestSayInstant(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 9, 22, 59, 59, 1, time.UTC)
	for _, c := range []struct {
		t    time.Time
		zone *time.Location
		want string
	}{
		{at, paris, "2026-03-10 00:00 CET"},
		{at, nil, "2026-03-09 23:00 UTC"},
		{at.Add(-1), nil, "2026-03-09 22:59:59 UTC"},
	} {
		if got := sayInstant(c.t, c.zone); got != c.want {
			t.Errorf("%v in %v: %s, want %s", c.t, c.zone, got, c.want)
		}
	}
}
