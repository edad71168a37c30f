package main

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelpOfEveryCommand asks each command for its help in every way there is.
func TestHelpOfEveryCommand(t *testing.T) {
	var commands int
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		commands++
		path := cmd.CommandPath()
		words := strings.Fields(path)[1:]
		var helps []string
		for _, said := range [][]string{
			append(slices.Clone(words), "--help"), append(slices.Clone(words), "-h"), append([]string{"help"}, words...),
		} {
			var out, errs bytes.Buffer
			if code := run(t.Context(), said, &out, &errs); code != exitDone || errs.Len() > 0 {
				t.Errorf("%v: exit code %d, %s", said, code, &errs)
			}
			helps = append(helps, out.String())
		}
		help := helps[0]
		if helps[1] != help || helps[2] != help {
			t.Errorf("%s: --help, -h and help say different things", path)
		}
		if !strings.Contains(help, "\nUsage:\n  "+path) {
			t.Errorf("%s: its help does not say its usage:\n%s", path, help)
		}
		example := func(line string) bool {
			return strings.HasPrefix(line, "  ") && strings.Contains(line, path) || strings.HasPrefix(line, "\t") && strings.Contains(line, path)
		}
		before, _, _ := strings.Cut(help, "Usage:")
		if !slices.ContainsFunc(strings.Split(before, "\n"), example) {
			t.Errorf("%s: its help has no example:\n%s", path, before)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			value, text := pflag.UnquoteUsage(f)
			if text == "" || !strings.Contains(help, "--"+f.Name) {
				t.Errorf("%s: --%s is not explained", path, f.Name)
			}
			if f.Value.Type() != "bool" && strings.ToUpper(value[:1]) != value[:1] && !strings.ContainsAny(value, "|'") {
				t.Errorf("%s: --%s does not say what its value %s is", path, f.Name, value)
			}
			if f.Value.Type() == "duration" && !strings.Contains(text, "such as") && !strings.Contains(text, "of 1s") {
				t.Errorf("%s: --%s does not show a time with its unit: %s", path, f.Name, text)
			}
		})
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	for _, c := range newRoot().Commands() {
		walk(c)
	}
	if commands < 40 {
		t.Errorf("%d commands", commands)
	}
}

// A command that nobody knows is wrong usage, also where its help is asked for.
func TestUnknownCommands(t *testing.T) {
	for said, want := range map[string]string{
		"reset --help":          `unknown command "reset" for "headgate"; there is 'headgate subject reset'`,
		"reset -h":              `unknown command "reset" for "headgate"; there is 'headgate subject reset'`,
		"help reset":            `unknown command "reset" for "headgate"; there is 'headgate subject reset'`,
		"reset default a --all": `unknown command "reset" for "headgate"; there is 'headgate subject reset'`,
		"ls":                    `unknown command "ls" for "headgate"; there is 'headgate subject ls', 'headgate token ls'`,
		"polcy get --help":      `unknown command "polcy" for "headgate"; did you mean 'headgate policy'?`,
		"frobnicate":            `unknown command "frobnicate" for "headgate"; 'headgate help' lists them all`,
		"subject rset -h":       `unknown command "rset" for "headgate subject"; did you mean 'headgate subject reset'?`,
		"help token drop":       `unknown command "drop" for "headgate token"; there are create, ls, revoke`,
		"completion tcsh":       `unknown command "tcsh" for "headgate completion"; there are bash, fish, powershell, zsh`,
		"usage frobnicate -h":   `usage: headgate usage [flags]`,
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), strings.Fields(said), &out, &errs)
		first, rest, _ := strings.Cut(errs.String(), "\n")
		if code != exitUsage || first != "headgate: "+want || !strings.HasSuffix(rest, "--help' says more.\n") || out.Len() > 0 {
			t.Errorf("%s: exit code %d, %s%s", said, code, &errs, &out)
		}
	}
}

func TestUnknownHost(t *testing.T) {
	lookup := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "nobody.invalid", IsNotFound: true}}
	err := (&remote{address: "nobody.invalid:80"}).unreachable(&url.Error{Op: "Post", URL: "http://nobody.invalid:80/v1/take", Err: lookup}, patient)
	if want := "there is no host nobody.invalid: say where the server is with --server"; err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// What cannot be done is one sentence that names what to do.
func TestMistakesAreOneSentence(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("dir", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("policy.yaml", []byte(policyOf("5/h")), 0o600); err != nil {
		t.Fatal(err)
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	nowhere := filepath.Join(t.TempDir(), "none", "socket")
	for _, c := range []struct {
		said []string
		code int
		want string
	}{
		{[]string{"validate", "nothing"}, exitCouldNot, "there is no file nothing: name one that exists"},
		{[]string{"validate", "dir"}, exitCouldNot, "dir is a directory: name a file"},
		{[]string{"policy", "apply", "dir"}, exitCouldNot, "dir is a directory: name a file"},
		{[]string{"convert", "envoy", "nothing"}, exitCouldNot, "there is no file nothing: name one that exists"},
		{[]string{"restore", "nothing"}, exitCouldNot, "sqlitestore: restore nothing: there is no file nothing: name one that exists"},
		{[]string{"take", "a", "o", "s", "--token-file", "dir"}, exitCouldNot, "--token-file: dir is a directory: name a file"},
		{[]string{"take", "a", "o", "s", "--ca", "nothing", "--server", "https://127.0.0.1:1"}, exitCouldNot, "--ca: there is no file nothing: name one that exists"},
		{[]string{"serve", "--config", "dir"}, exitCouldNot, "--config: dir is a directory: name a file"},
		{[]string{"serve", "--policy", "nothing", "--store", "memory", "--http", "127.0.0.1:0"}, exitCouldNot, "policy: there is no file nothing: name one that exists"},
		{[]string{"init", "none/policy.yaml"}, exitCouldNot, "none/policy.yaml cannot be made: there is no directory none"},
		{[]string{"init", ""}, exitUsage, "the name of the file is empty: name one that does not exist"},
		{[]string{"serve", "--http", busy.Addr().String()}, exitCouldNot, "--http " + busy.Addr().String() + ": bind: address already in use: another program listens there; end it, or name another address"},
		{[]string{"proxy", "--upstream", "http://127.0.0.1:1", "--http", "", "--listen", busy.Addr().String()}, exitCouldNot, "--listen " + busy.Addr().String() + ": bind: address already in use: another program listens there; end it, or name another address"},
		{[]string{"serve", "--http", "192.0.2.1:8080"}, exitCouldNot, "--http 192.0.2.1:8080: bind: cannot assign requested address: this machine does not have that address; name one that it has"},
		{[]string{"serve", "--http", "unix:" + nowhere}, exitCouldNot, "--http unix:" + nowhere + ": bind: no such file or directory: make the directory of the socket first"},
		{[]string{"take", "a", "o", "s", "--max-wait", "soon"}, exitUsage, `--max-wait "soon": must be a time such as 5s`},
		{[]string{"top", "--watch", "often"}, exitUsage, `--watch "often": must be a time such as 5s`},
		{[]string{"denials", "--limit", "many"}, exitUsage, `--limit "many": must be a whole number, not below 0`},
		{[]string{"denials", "--limit", "99999"}, exitUsage, `--limit "99999": must be a number nearer to 0`},
		{[]string{"policy", "get", "--revision", "last"}, exitUsage, `--revision "last": must be a whole number`},
		{[]string{"plans", "--json=perhaps"}, exitUsage, `--json "perhaps": must be true or false`},
		{[]string{"subject", "ban", "a", "s", "--for", "1"}, exitUsage, `--for "1": must be a time of 1s to 876000h, such as 15m`},
	} {
		var errs bytes.Buffer
		code := run(t.Context(), c.said, io.Discard, &errs)
		text := strings.TrimSuffix(errs.String(), "\n")
		if more := "\n'"; c.code == exitUsage {
			text, _, _ = strings.Cut(text, more)
		}
		said := text[strings.LastIndex(text, "\n")+1:] // behind what a server has logged
		if code != c.code || said != "headgate: "+c.want {
			t.Errorf("%v: exit code %d, %s", c.said, code, said)
		}
	}
}
