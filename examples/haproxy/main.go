// Command haproxy shows Headgate behind HAProxy, which asks it about every
// request by a few lines of Lua: two clients send more than the policy allows,
// a third one lies about its address, and then Headgate stops.
//
// It exits 1 if anything but what the policy allows passes.
package main

import (
	"embed"

	"github.com/headgate/headgate/examples/stage/webproxy"
)

//go:embed haproxy.cfg headgate.lua policy.yaml
var files embed.FS

var example = webproxy.Example{
	Name: "HAProxy", Config: "haproxy.cfg", Files: files,
	Command: []string{"haproxy", "-db", "-f", "haproxy.cfg"}, BySignal: true,
}

func main() { example.Main() }
