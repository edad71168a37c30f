package main

import (
	"fmt"
	"strings"
	"time"
)

// httpAttacks are those at the HTTP door.
func httpAttacks() []attack {
	const take = "POST /v1/take HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	const bad, large = "HTTP/1.1 400 Bad Request", "HTTP/1.1 413 Request Entity Too Large\r\n"
	body := func(b string) string {
		return fmt.Sprintf("%sConnection: close\r\nContent-Length: %d\r\n\r\n%s", take, len(b), b)
	}
	chunks := take + "Transfer-Encoding: chunked\r\n\r\n"
	list := []attack{
		{door: "http", name: "silence", within: 7 * time.Second, run: func(s *siege) error { return s.drip("http", 7*time.Second, "", "", "") }},
		{door: "http", name: "a header, a byte at a time", within: 7 * time.Second, run: func(s *siege) error {
			return s.drip("http", 7*time.Second, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "x", "")
		}},
		{door: "http", name: "a body that never comes", within: 12 * time.Second, run: func(s *siege) error {
			return s.drip("http", 12*time.Second, take+"Content-Length: 100\r\n\r\n", "", bad)
		}},
		{door: "http", name: "a body, a byte at a time", within: 12 * time.Second, run: func(s *siege) error {
			return s.drip("http", 12*time.Second, take+"Content-Length: 60000\r\n\r\n", " ", bad)
		}},
		{door: "http", name: "chunks, a byte at a time", within: 12 * time.Second, run: func(s *siege) error {
			return s.drip("http", 12*time.Second, chunks, "1\r\n \r\n", bad)
		}},
		{door: "http", name: "a gigabyte that never comes", within: 12 * time.Second, run: func(s *siege) error {
			return s.drip("http", 12*time.Second, take+"Content-Length: 1073741824\r\n\r\n", "", "HTTP/1.1 4")
		}},
		{door: "http", name: "a chunk that never comes", within: 12 * time.Second, run: func(s *siege) error {
			return s.drip("http", 12*time.Second, chunks+"100000000\r\n", "", bad)
		}},
		{door: "http", name: "answers that nobody reads", within: 20 * time.Second, run: func(s *siege) error {
			const ask = `{"application":"a","operation":"x","subject":"hostile"}`
			return s.unread("http", 20*time.Second, fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", take, len(ask), ask))
		}},
		{door: "http", name: "come and go", flood: true, run: func(s *siege) error { return s.comeAndGo("http", take+"Content-Length: 100\r\n\r\n{") }},
		exchange{"oversized header", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Large: " + strings.Repeat("x", 100_000) + "\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large\r\n"}.attack("http", true),
		exchange{"ten thousand headers", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("X: y\r\n", 20_000) + "\r\n", "HTTP/1.1 431 Request Header Fields Too Large\r\n"}.attack("http", true),
		exchange{"oversized body", body(strings.Repeat(" ", 1<<20)), large}.attack("http", true),
		exchange{"oversized chunk", chunks + "100000\r\n" + strings.Repeat(" ", 1<<20) + "\r\n0\r\n\r\n", large}.attack("http", true),
		exchange{"endless extension of a chunk", chunks + "1;" + strings.Repeat("x", 80_000) + "\r\n \r\n0\r\n\r\n", bad}.attack("http", true),
	}
	for _, x := range []exchange{
		{"chunk beyond numbers", chunks + "ffffffffffffffffffff\r\n", bad},
		{"chunk of no number", chunks + "size\r\n{}\r\n0\r\n\r\n", bad},
		{"chunk that is longer", chunks + "2\r\n{}{}\r\n0\r\n\r\n", bad},
		{"two lengths", take + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", bad},
		{"negative length", take + "Content-Length: -2\r\n\r\n{}", bad},
		{"an encoding that is not known", take + "Transfer-Encoding: gzip\r\n\r\n{}", "HTTP/1.1 501 Not Implemented\r\n"},
		{"no host", "GET /healthz HTTP/1.1\r\n\r\n", bad},
		{"header of no field", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nno field\r\n\r\n", bad},
		{"line end in a path", "GET /v1/take\nX: y HTTP/1.1\r\nHost: localhost\r\n\r\n", bad},
		{"wrong types", body(`{"application":["a"],"operation":1,"subject":{}}`), bad},
		{"half of a text", body(`{"application":"a`), bad},
		{"thirty thousand brackets", body(strings.Repeat("[", 30_000)), bad},
		{"no JSON", body("\x00\xff\xfe"), bad},
		{"a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bad},
		{"hello of TLS", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n", bad},
		{"a command of Redis", "*1\r\n$4\r\nPING\r\n", bad},
	} {
		list = append(list, x.attack("http", false))
	}
	return list
}
