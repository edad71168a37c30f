// Command headgate decides whether requests may pass: it serves decisions,
// checks policies and asks a running server.
package main

import (
	"cmp"
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
	// Help is printed without a look at what else was said: a verb that nobody knows is
	// wrong there too.
	var unknown error
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, said []string) {
		if cmd.HasSubCommands() {
			unknown = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if unknown == nil {
			help(cmd, said)
		}
	})
	cmd, err := root.ExecuteContextC(ctx)
	if err = cmp.Or(err, unknown); err == nil {
		return exitDone
	}
	if errors.Is(err, errDenied) {
		return exitDenied
	}
	fmt.Fprintf(stderr, "headgate: %s\n", sentence(err))
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return printVersion(cmd.OutOrStdout())
			}
			return cmd.Help()
		},
	}
	root.Flags().BoolVar(&version, "version", false, "say what this program is made of, as the verb version does")
	root.AddCommand(newInit(), newServe(), newProxy(), newValidate(), newTake(), newPeek(), newExplain(), newMode(), newDenials(), newSubject(), newPolicy(), newPlans(), newToken(), newAudit(), newUsage(), newStatus(), newTop(), newBackup(), newRestore(), newConvert(), newSchema(), newVersion())
	root.SetHelpCommand(newHelp())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Long = completionHelp
			onlyVerbs(cmd)
		}
	}
	onlyVerbs(root)
	return root
}

const completionHelp = `Print a script with which a shell completes verbs and flags at the Tab key.

  source <(headgate completion bash)        in this shell
  headgate completion bash --help           in every new one`

// newHelp is the verb that prints the help of others.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Say how a command is used",
		Long: `Say how a command is used, as --help behind it does.

  headgate help subject reset`,
		RunE: func(cmd *cobra.Command, names []string) error {
			about, rest, err := cmd.Root().Find(names)
			if err == nil && about.HasSubCommands() {
				err = about.ValidateArgs(rest)
			}
			if err != nil {
				return err
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// args makes a wrong number of arguments wrong usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) != nil {
			return usageError{fmt.Errorf("usage: %s", cmd.UseLine())}
		}
		return nil
	}
}
