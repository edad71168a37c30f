package refusal

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/headgate/headgate/internal/ratefield"
)

// TestWrite: every form says when to come again as Retry-After does, and nothing where
// that is not there.
func TestWrite(t *testing.T) {
	const (
		document = `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota exceeded","status":429,"detail":`
		page     = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">` +
			`<title>429 Quota exceeded</title></head><body><h1>Quota exceeded</h1>`
		end = "</body></html>\n"
	)
	for _, tt := range []struct {
		name, accept, retry, detail string
		again                       bool
		want, media                 string
	}{
		{"document", "*/*", "12", "no", false, document + `"no","m":1}` + "\n", JSON},
		{"document that says when", "*/*", "12", "no", true, document + `"no; try again in 12 s","m":1}` + "\n", JSON},
		{"document, never", "*/*", "", "no", true, document + `"no","m":1}` + "\n", JSON},
		{"page", "text/html", "12", "no", false, page + "<p>no</p><p>Try again in 12 s.</p>" + end, "text/html; charset=utf-8"},
		{"page says it once", "text/html", "12", "no", true, page + "<p>no</p><p>Try again in 12 s.</p>" + end, "text/html; charset=utf-8"},
		{"page, never", "text/html", "", "no", true, page + "<p>no</p>" + end, "text/html; charset=utf-8"},
		{"page, a date", "text/html", "Fri, 31 Dec 1999 23:59:59 GMT", "no", true, page + "<p>no</p>" + end, "text/html; charset=utf-8"},
		{"page escapes", "text/html", "", "<script src=\"//x\">&'", true, page + "<p>&lt;script src=&#34;//x&#34;&gt;&amp;&#39;</p>" + end, "text/html; charset=utf-8"},
		{"text", "text/plain", "12", "no", false, "no\n", "text/plain; charset=utf-8"},
		{"text that says when", "text/plain", "12", "no", true, "no; try again in 12 s\n", "text/plain; charset=utf-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var written Writer
			var set ratefield.Setter
			w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Accept", tt.accept)
			if tt.retry != "" {
				w.Header().Set("Retry-After", tt.retry)
			}
			written.Write(w, r, &set, Answer{Problem: QuotaExceeded, Detail: tt.detail, Again: tt.again, Members: []byte(`,"m":1`)})
			h := w.Header()
			if w.Code != http.StatusTooManyRequests || w.Body.String() != tt.want || h.Get("Content-Type") != tt.media || h.Get("Vary") != "Accept" || h.Get("Cache-Control") != "no-store" {
				t.Errorf("got %d %v\n%s\nwant\n%s", w.Code, h, w.Body, tt.want)
			}
			w = httptest.NewRecorder()
			w.Header().Set("Vary", "Origin")
			if written.Write(w, r, &set, Answer{Problem: QuotaExceeded}); !slices.Equal(w.Header()["Vary"], []string{"Origin", "Accept"}) {
				t.Errorf("Vary %q", w.Header()["Vary"])
			}
			w, r.Method = httptest.NewRecorder(), "HEAD"
			if written.Write(w, r, &set, Answer{Problem: QuotaExceeded}); w.Body.Len() != 0 || w.Header().Get("Content-Length") == "0" {
				t.Errorf("HEAD: got %v %q", w.Header(), w.Body)
			}
		})
	}
}
