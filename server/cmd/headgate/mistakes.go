package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/headgate/headgate/gate/policy"
)

// unknownVerb says which verbs could be meant by a word that is none at cmd.
func unknownVerb(cmd *cobra.Command, word string) error {
	err := fmt.Errorf("unknown command %q for %q", word, cmd.CommandPath())
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if meant := policy.Near(word, names); meant != "" {
		return fmt.Errorf("%w; did you mean '%s %s'?", err, cmd.CommandPath(), meant)
	}
	if elsewhere := verbsNamed(cmd.Root(), word); len(elsewhere) > 0 {
		return fmt.Errorf("%w; there is '%s'", err, strings.Join(elsewhere, "', '"))
	}
	if !cmd.HasParent() {
		return fmt.Errorf("%w; 'headgate help' lists them all", err)
	}
	return fmt.Errorf("%w; there are %s", err, strings.Join(names, ", "))
}

// verbsNamed returns the paths of the commands below cmd that have a name.
func verbsNamed(cmd *cobra.Command, name string) (paths []string) {
	for _, c := range cmd.Commands() {
		if c.Name() == name {
			paths = append(paths, c.CommandPath())
		}
		paths = append(paths, verbsNamed(c, name)...)
	}
	return paths
}

// flagError says what a flag takes whose value cannot be read.
func flagError(err error) error {
	e, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	want := e.GetFlag().Value.Type()
	switch {
	case want == "duration":
		want = "a time such as 5s"
	case want == "bool":
		want = "true or false"
	case errors.Is(e, strconv.ErrRange):
		want = "a number nearer to 0"
	case strings.HasPrefix(want, "uint"):
		want = "a whole number, not below 0"
	case strings.HasPrefix(want, "int"):
		want = "a whole number"
	}
	return fmt.Errorf("--%s %q: must be %s", e.GetFlag().Name, e.GetValue(), want)
}

// sentence is the text of an error. Where a file cannot be read it says so in words that
// name what to do.
func sentence(err error) string {
	text := err.Error()
	e, ok := errors.AsType[*fs.PathError](err)
	if !ok || !slices.Contains([]string{"open", "read", "stat", "lstat"}, e.Op) {
		return text
	}
	why := ""
	switch {
	case errors.Is(e, fs.ErrNotExist):
		why = fmt.Sprintf("there is no file %s: name one that exists", e.Path)
	case errors.Is(e, fs.ErrPermission):
		why = fmt.Sprintf("%s must not be read by this user: change whose it is, or name another file", e.Path)
	case errors.Is(e, syscall.EISDIR):
		why = fmt.Sprintf("%s is a directory: name a file", e.Path)
	default:
		return text
	}
	return strings.Replace(text, e.Error(), why, 1)
}
