package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/gate/envoy"
	"github.com/headgate/headgate/gate/policy"
)

func newConvert() *cobra.Command {
	return group(&cobra.Command{
		Use:   "convert",
		Short: "Make a policy of what another system reads",
		Long: `Make a policy of what another system reads.

  headgate convert envoy ratelimit.yaml -o policy.yaml`,
	}, newConvertEnvoy())
}

func newConvertEnvoy() *cobra.Command {
	var options envoy.Options
	var output string
	cmd := &cobra.Command{
		Use:   "envoy FILE|DIR...",
		Short: "Write the policy that configuration of envoyproxy/ratelimit amounts to",
		Long: `Write the policy that configuration of envoyproxy/ratelimit amounts to, which
gives the same answers for the domains that it knows. Another domain is an error
with a policy; hits after the fact take envoy.after_the_fact in the configuration.

  headgate convert envoy ratelimit.yaml -o policy.yaml
  headgate serve --policy policy.yaml

'headgate serve --envoy-config DIR' serves such configuration as it is.`,
		Args: args(cobra.MinimumNArgs(1)),
	}
	cmd.Flags().BoolVar(&options.MergeDomains, "merge-domains", false, "let several files add to one domain, as MERGE_DOMAIN_CONFIG does")
	cmd.Flags().BoolVar(&options.Calendar, "calendar", false, "make quotas by the calendar of limits per hour and longer, in UTC, instead of windows of 3,600 s, 86,400 s, 7, 30 and 365 days")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to `FILE`, which must not exist (default standard output)")
	cmd.Flags().SortFlags = false
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		files, err := readEnvoyFiles(names)
		if err != nil {
			return err
		}
		data, warnings, err := envoy.Convert(files, options)
		for _, w := range warnings {
			w.Message = "warning: " + w.Message
			fmt.Fprintln(cmd.ErrOrStderr(), plain(w.String()))
		}
		if faults, ok := errors.AsType[policy.Faults](err); ok {
			for _, f := range faults {
				fmt.Fprintln(cmd.ErrOrStderr(), plain(f.Error()))
			}
			return errors.New(count(len(faults), "fault"))
		}
		if err != nil {
			return err
		}
		if output == "" || output == "-" {
			return writeText(cmd.OutOrStdout(), string(data))
		}
		if err := writeNew(output, data); err != nil {
			return err
		}
		sum, err := contents(output, data)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s: %s\n", output, sum)
		return err
	}
	return cmd
}

// readEnvoyFiles reads files, and all of directories.
func readEnvoyFiles(names []string) (files []envoy.File, err error) {
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			more, err := envoy.ReadDir(name)
			if err != nil {
				return nil, err
			}
			files = append(files, more...)
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, envoy.File{Name: name, Data: data})
	}
	return files, nil
}
