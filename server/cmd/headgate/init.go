package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/gate/policy"
)

func newInit() *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a commented policy to start from (policy.yaml, or - for the output)",
		Long: `Write a commented policy to start from, to policy.yaml or to FILE, which must not
exist; - is standard output.

  headgate init
  headgate init - | less`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := "policy.yaml"
			if len(args) == 1 {
				file = args[0]
			}
			if file == "-" {
				_, err := cmd.OutOrStdout().Write(policy.Starter())
				return err
			}
			if err := writeNew(file, policy.Starter()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s\n\n  headgate validate %[1]s\n  headgate serve --policy %[1]s\n", file)
			return nil
		},
	}
}

// writeNew writes a file that must not exist.
func writeNew(file string, data []byte) error {
	if file == "" {
		return usageError{errors.New("the name of the file is empty: name one that does not exist")}
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s exists and is left as it is; name another file", file)
	case errors.Is(err, fs.ErrNotExist):
		return noDirectory(file)
	case err != nil:
		return notMade(file, err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return notMade(file, err)
	}
	return nil
}
