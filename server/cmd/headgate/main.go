// Command headgate decides whether requests may pass: it serves decisions,
// checks policies and asks a running server.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// The exit codes of every verb.
const (
	exitDone     = 0
	exitCouldNot = 1
	exitDenied   = 2
	exitUsage    = 64
)

// errDenied ends a verb whose answer was no. The answer has been printed.
var errDenied = errors.New("denied")

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run does what the arguments say and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if errors.Is(err, errDenied) {
		return exitDenied
	}
	fmt.Fprintf(stderr, "headgate: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(stderr, "'%s --help' says more.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitCouldNot
}

func newRoot() *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:   "headgate",
		Short: "Rate limits, quotas and throttling for every client on every instance",
		Long: `Headgate decides, for every request of every client, whether it may pass now,
must wait, or is refused, and says why.

  headgate serve                              built-in policy on 127.0.0.1:8080
  headgate take default anything alice        ask for one token of alice's
  headgate init && headgate serve --policy policy.yaml`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return printVersion(cmd.OutOrStdout())
			}
			return cmd.Help()
		},
	}
	root.Flags().BoolVar(&version, "version", false, "say what this program is made of, as the verb version does")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newInit(), newServe(), newProxy(), newValidate(), newTake(), newPeek(), newExplain(), newMode(), newDenials(), newSubject(), newPolicy(), newPlans(), newToken(), newAudit(), newUsage(), newStatus(), newTop(), newBackup(), newRestore(), newConvert(), newSchema(), newVersion())
	return root
}

// args makes a wrong number of arguments wrong usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		switch {
		case err == nil:
			return nil
		case cmd.HasParent():
			return usageError{fmt.Errorf("usage: %s", cmd.UseLine())}
		}
		return usageError{err}
	}
}
