package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

func newValidate() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a policy file and name every fault in it",
		Long: `Check a policy file and name every fault in it by line and column, and with
"warning" what is allowed and seldom meant. Exits with 0 if there is no fault.

  headgate validate policy.yaml`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := args[0]
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			warnings, err := checkPolicy(out, file, data)
			if err != nil {
				return err
			}
			sum, err := contents(file, data)
			if err != nil {
				return err
			}
			if warnings > 0 {
				sum += "; " + count(warnings, "warning")
			}
			fmt.Fprintf(out, "%s: ok: %s\n", file, sum)
			return nil
		},
	}
}

// checkPolicy writes what is wrong with a policy, a line for each warning and fault,
// and returns how many warnings there are. The error says that there are faults.
func checkPolicy(w io.Writer, file string, data []byte) (warnings int, err error) {
	list, err := gate.Validate(file, data)
	for _, warning := range list {
		warning.Message = "warning: " + warning.Message
		fmt.Fprintln(w, warning)
	}
	faults, ok := errors.AsType[policy.Faults](err)
	if !ok {
		return len(list), err
	}
	for _, f := range faults {
		fmt.Fprintln(w, f)
	}
	return len(list), fmt.Errorf("%s: %s", file, count(len(faults), "fault"))
}

// contents says what a policy without faults holds.
func contents(file string, data []byte) (string, error) {
	p, _, err := policy.Parse(file, data, func(string, policy.ExprKind) error { return nil })
	if err != nil {
		return "", err
	}
	rules := 0
	for i := range p.Applications {
		rules += len(p.Applications[i].Rules)
	}
	return fmt.Sprintf("%s, %s, %s", count(len(p.Plans), "plan"), count(len(p.Applications), "application"), count(rules, "rule")), nil
}

// count says how many things there are.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
