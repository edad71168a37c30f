package httpgate

import "testing"

func TestAccepted(t *testing.T) {
	for _, tt := range []struct {
		lines []string
		want  form
	}{
		{nil, jsonForm},
		{[]string{""}, jsonForm},
		{[]string{"*/*"}, jsonForm},
		{[]string{"application/*"}, jsonForm},
		{[]string{"application/json"}, jsonForm},
		{[]string{"application/problem+json"}, jsonForm},
		{[]string{"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}, htmlForm}, // a browser
		{[]string{"text/html"}, htmlForm},
		{[]string{"TEXT/HTML;Level=1 ; Q=0.5"}, htmlForm},
		{[]string{"text/html, */*"}, htmlForm},
		{[]string{"text/html, application/json"}, htmlForm},
		{[]string{"text/html, application/problem+json"}, jsonForm},
		{[]string{"text/html;q=0.5, application/json"}, jsonForm},
		{[]string{"text/html;q=0.5, application/json;q=0.501"}, jsonForm},
		{[]string{"application/json;q=0.1", "text/html;q=0.2"}, htmlForm},
		{[]string{"text/plain"}, textForm},
		{[]string{"text/plain, text/html;q=0.9"}, textForm},
		{[]string{"text/*"}, htmlForm},
		{[]string{"text/*, text/html;q=0"}, textForm},
		{[]string{"*/*, application/*;q=0"}, htmlForm},
		{[]string{"application/json;q=0, text/plain;q=0.001"}, textForm},
		{[]string{"image/png"}, jsonForm},
		{[]string{"text/html;q=0"}, jsonForm},
		{[]string{"*/*;q=0"}, jsonForm},
		{[]string{"text/html;q=1.5"}, jsonForm},
		{[]string{"text/html;q=-1, text/plain;q=1e0, text/plain;q=0.0001, text/plain;q=, text/plain;q=0.x"}, jsonForm},
		{[]string{",;,=;q,/;*/;text/;/html"}, jsonForm},
	} {
		if got := accepted(tt.lines); got != tt.want {
			t.Errorf("%q: got %d, want %d", tt.lines, got, tt.want)
		}
	}
}

func FuzzAccepted(f *testing.F) {
	f.Add("text/html;q=0.5, */*")
	f.Fuzz(func(t *testing.T, line string) {
		if got := accepted([]string{line}); got >= forms {
			t.Errorf("form %d", got)
		}
	})
}
