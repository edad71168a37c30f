package refusal

import "testing"

func TestAccepted(t *testing.T) {
	for _, tt := range []struct {
		lines []string
		want  Form
	}{
		{nil, Document},
		{[]string{""}, Document},
		{[]string{"*/*"}, Document},
		{[]string{"application/*"}, Document},
		{[]string{"application/json"}, Document},
		{[]string{"application/problem+json"}, Document},
		{[]string{"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}, Page}, // a browser
		{[]string{"text/html"}, Page},
		{[]string{"TEXT/HTML;Level=1 ; Q=0.5"}, Page},
		{[]string{"text/html, */*"}, Page},
		{[]string{"text/html, application/json"}, Page},
		{[]string{"text/html, application/problem+json"}, Document},
		{[]string{"text/html;q=0.5, application/json"}, Document},
		{[]string{"text/html;q=0.5, application/json;q=0.501"}, Document},
		{[]string{"application/json;q=0.1", "text/html;q=0.2"}, Page},
		{[]string{"text/plain"}, Text},
		{[]string{"text/plain, text/html;q=0.9"}, Text},
		{[]string{"text/*"}, Page},
		{[]string{"text/*, text/html;q=0"}, Text},
		{[]string{"*/*, application/*;q=0"}, Page},
		{[]string{"application/json;q=0, text/plain;q=0.001"}, Text},
		{[]string{"image/png"}, Document},
		{[]string{"text/html;q=0"}, Document},
		{[]string{"*/*;q=0"}, Document},
		{[]string{"text/html;q=1.5"}, Document},
		{[]string{"text/html;q=-1, text/plain;q=1e0, text/plain;q=0.0001, text/plain;q=, text/plain;q=0.x"}, Document},
		{[]string{",;,=;q,/;*/;text/;/html"}, Document},
	} {
		if got := Accepted(tt.lines); got != tt.want {
			t.Errorf("%q: got %d, want %d", tt.lines, got, tt.want)
		}
	}
}

func FuzzAccepted(f *testing.F) {
	f.Add("text/html;q=0.5, */*")
	f.Fuzz(func(t *testing.T, line string) {
		if got := Accepted([]string{line}); got >= forms {
			t.Errorf("form %d", got)
		}
	})
}
