package main

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/examples/stage/stagetest"
	"github.com/headgate/headgate/examples/stage/webproxy/webproxytest"
)

func TestCaddy(t *testing.T) {
	webproxytest.Run(t, example, stagetest.Headgate(t), webproxytest.Differences{
		// What has answered is not away: its answer is the client's.
		Answers: []int{403, 404, 500, 502, 503, 504},
		Clever: map[string]int{
			"GET /?" + strings.Repeat("x", 8000) + " HTTP/1.1\r\nHost: x":                      429,
			"GET /?deny=403 HTTP/1.1\r\nHost: x":                                               429,
			"GET /{http.request.host}/{env.HOME} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {env.HOME}": 429,
			"GET /\xff?\xff HTTP/1.1\r\nHost: x\r\nX-Api-Key: \"}\\u0000\xff":                  429,
			"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==": 429,
			"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__":                               429,
			"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Forwarded-For\r\n\r\n1\r\nx\r\n0\r\nX-Forwarded-For: 203.0.113.9":            429,
			"GET / HTTP/1.1\r\nHost: " + strings.Repeat("x", 14000):                                                                                              429,
			"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: \r\n", 2000) + "A: b":                                                                           429,
			// Headgate does not decide what it cannot read, and Caddy reads no more
			// than Headgate: nobody may pass uncounted by it.
			"GET /?" + strings.Repeat("x", 14000) + " HTTP/1.1\r\nHost: x": 400,
			strings.Repeat("M", 14000) + " / HTTP/1.1\r\nHost: x":          405,
			"GET /?" + strings.Repeat("x", 30000) + " HTTP/1.1\r\nHost: x": 431,
		},
	})
}
