package main

import (
	"net/http"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/headgate/headgate/examples/stage/stagetest"
	"github.com/headgate/headgate/examples/stage/webproxy/webproxytest"
)

func TestHAProxy(t *testing.T) {
	bin := stagetest.Headgate(t)
	webproxytest.Run(t, example, bin, webproxytest.Differences{
		Away: []int{200, 403, 404, 500, 503},
		Clever: map[string]int{
			"OPTIONS * HTTP/1.1\r\nHost: x":                                                                              400,
			"GET / HTTP/1.1\r\nHost: a\"b":                                                                               429,
			"GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: a\r\n folded":                                                       429,
			"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0":                                429,
			"GET /?" + strings.Repeat("x", 7900) + " HTTP/1.1\r\nHost: x":                                                429,
			"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Api-Key: "+strings.Repeat("k", 100)+"\r\n", 70) + "A: b": 429,
			// Too long to be asked about: nobody may pass uncounted by it.
			"GET /?" + strings.Repeat("x", 15200) + " HTTP/1.1\r\nHost: x":                   431,
			"GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: " + strings.Repeat("k", 15200):          431,
			"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Api-Key: \r\n", 90) + "A: b": 429,
			strings.Repeat("M", 15200) + " / HTTP/1.1\r\nHost: x":                            431,
		},
	})
	t.Run("broken script", func(t *testing.T) { testBrokenScript(t, bin) })
}

// testBrokenScript: HAProxy goes on where a script fails, and nothing may pass
// by that.
func testBrokenScript(t *testing.T, bin string) {
	broken := fstest.MapFS{"headgate.lua": {Data: []byte(`core.register_action("headgate", {"http-req"}, function() error("broken") end, 1)`)}}
	for _, name := range []string{"haproxy.cfg", "policy.yaml"} {
		data, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		broken[name] = &fstest.MapFile{Data: data}
	}
	e := example
	e.Files = broken
	s := webproxytest.Start(t, e, bin)
	s.MustAnswer(t, "127.0.2.9", "GET", "/", "", http.StatusServiceUnavailable)
}
