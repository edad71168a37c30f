package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	_ "time/tzdata" // quotas count in time zones also where the machine has none

	"github.com/spf13/cobra"
)

// version is set by the release script: -ldflags "-X main.version=v1.2.3".
var version = ""

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say what this program is made of",
		Long: `Say what this program is made of: its version and commit, of Go, and whence it
has time zones.

  headgate version`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return printVersion(cmd.OutOrStdout()) },
	}
}

func printVersion(w io.Writer) error {
	name, commit := buildVersion()
	_, err := fmt.Fprintf(w, "headgate %s\ncommit   %s\ngo       %s %s/%s\ntzdata   %s\n",
		name, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, zones())
	return err
}

// buildVersion returns the version and the commit as far as they are known.
func buildVersion() (name, commit string) {
	commit = "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return cmp.Or(version, "dev"), commit
	}
	modified := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " (modified)"
		}
	}
	commit += modified
	name = info.Main.Version
	if name == "(devel)" {
		name = ""
	}
	return cmp.Or(version, name, "dev"), commit
}

// zones says where time zones come from, in the order in which package time
// looks for them.
func zones() string {
	for _, dir := range []string{os.Getenv("ZONEINFO"), "/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/usr/lib/locale/TZ", "/etc/zoneinfo"} {
		if _, err := os.Stat(dir); dir != "" && err == nil {
			return dir
		}
	}
	return "of " + runtime.Version() + ", inside this program; install tzdata for newer ones"
}
