package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// builtRivals are servers that modules of their own require.
var builtRivals = []struct{ dir, module string }{
	{"rivals/gubernator", "github.com/mailgun/gubernator/v2"},
	{"rivals/ratelimit", "github.com/envoyproxy/ratelimit"},
}

// machine says where, when and with what a run was made.
func machine(o options, began time.Time) (string, error) {
	commit, err := output("git", "rev-parse", "--short=12", "HEAD")
	if err != nil {
		return "", err
	}
	changes, err := output("git", "status", "--porcelain")
	if err != nil {
		return "", err
	}
	if changes != "" {
		commit += " with uncommitted changes"
	}
	versions, err := output("go", "list", "-m", "-f", "{{if not (or .Indirect .Main .Replace)}}{{.Path}} {{.Version}}{{end}}", "all")
	if err != nil {
		return "", err
	}
	for _, rival := range builtRivals {
		version, err := output("go", "-C", rival.dir, "list", "-m", rival.module)
		if err != nil {
			return "", err
		}
		versions += "\n" + version
	}
	nginx, err := output("sh", "-c", `PATH="$PATH:/usr/sbin" nginx -v 2>&1`)
	if err != nil {
		return "", err
	}
	versions += "\n" + strings.TrimPrefix(nginx, "nginx version: ")
	var b strings.Builder
	fmt.Fprintf(&b, "- command: `GOWORK=off go run ./cmd/bench -rounds %d -time %v%s -write`, %v long\n", o.rounds, o.time, gcFlag(o), time.Since(began).Round(time.Second))
	fmt.Fprintf(&b, "- machine: %d cores, %s, %s/%s\n", runtime.NumCPU(), cpu(), runtime.GOOS, runtime.GOARCH)
	fmt.Fprintf(&b, "- %s, commit %s, %s\n", runtime.Version(), commit, began.UTC().Format(time.DateOnly))
	fmt.Fprintf(&b, "- rivals: %s\n", strings.Join(strings.Fields(strings.ReplaceAll(versions, " ", "@")), ", "))
	return b.String(), nil
}

func gcFlag(o options) string {
	if !o.gc {
		return " -gc=false"
	}
	return ""
}

// cpu returns the processor's model.
func cpu() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "processor unknown"
	}
	for line := range strings.Lines(string(data)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "processor unknown"
}
