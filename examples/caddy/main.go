// Command caddy shows Headgate behind Caddy, which asks it about every
// request by forward_auth: two clients send more than the policy allows,
// a third one lies about its address, and then Headgate stops.
//
// It exits 1 if anything but what the policy allows passes.
package main

import (
	"embed"

	"github.com/headgate/headgate/examples/stage/webproxy"
)

//go:embed Caddyfile policy.yaml
var files embed.FS

var example = webproxy.Example{
	Name: "Caddy", Config: "the Caddyfile", Files: files,
	Command: []string{"caddy", "run", "--config", "Caddyfile"},
}

func main() { example.Main() }
