package main

import (
	"github.com/spf13/cobra"

	"github.com/headgate/headgate/gate/policy"
)

func newSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of policy files, for editors",
		Long: `Print the JSON Schema of policy files. Editors with a YAML language server use
it from the first line of a policy:

  # yaml-language-server: $schema=policy.schema.json

  headgate schema > policy.schema.json

A running server has it at /v1/policy/schema.json.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(policy.Schema())
			return err
		},
	}
}
