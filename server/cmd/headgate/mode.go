package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/admin"
)

func newMode() *cobra.Command {
	var application, rule, span string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "mode [shadow|enforce]",
		Short: "Stop enforcing limits for a time, or enforce them all; or say what holds",
		Long: `Stop enforcing limits for a time (shadow: they go on counting and refuse
nobody), or enforce all of them, also those that the policy has in shadow. It
ends by itself. Without an argument: say which overrides are in force.

  headgate mode shadow --for 30m                      all applications
  headgate mode shadow --application email --rule sendEmail --for 2h
  headgate mode shadow --for 0s                       end it now`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	cmd.Flags().StringVar(&application, "application", "", "only this `APPLICATION`")
	cmd.Flags().StringVar(&rule, "rule", "", "only this `RULE` of the application")
	cmd.Flags().StringVar(&span, "for", "", "how long: a `TIME` of 1s to 24h, or 0s to end it now")
	reach := adminCommand(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the server's answer as it is")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		method, body := http.MethodGet, []byte(nil)
		switch {
		case len(args) == 0 && (application != "" || rule != "" || span != ""):
			return usageError{errors.New("say shadow or enforce: --application, --rule and --for are for setting a mode")}
		case len(args) == 0:
		case args[0] != "shadow" && args[0] != "enforce":
			return usageError{fmt.Errorf("mode %q: must be shadow or enforce", args[0])}
		case span == "":
			return usageError{errors.New("--for is required: how long, such as --for 30m")}
		default:
			if _, err := admin.ParseFor(span); err != nil {
				return usageError{fmt.Errorf("--%w", err)}
			}
			if rule != "" && application == "" {
				return usageError{errors.New("--rule needs --application: the one whose rule it is")}
			}
			method = http.MethodPut
			var err error
			if body, err = json.Marshal(map[string]string{"application": application, "rule": rule, "mode": args[0], "for": span}); err != nil {
				return err
			}
		}
		server, err := reach()
		if err != nil {
			return err
		}
		return server.list(cmd, method, "/v1/mode", body, asJSON, showModes)
	}
	return cmd
}

// list asks for a list and shows it, or prints it as it is.
func (r *remote) list(cmd *cobra.Command, method, path string, body []byte, asJSON bool, show func(io.Writer, []byte, time.Time) error) error {
	got, err := r.call(cmd.Context(), method, path, body, patient)
	if asJSON {
		cmd.OutOrStdout().Write(got)
		return err
	}
	if err != nil {
		return err
	}
	return show(cmd.OutOrStdout(), got, time.Now())
}

func showModes(w io.Writer, body []byte, now time.Time) error {
	var answer struct {
		Items []struct {
			Application, Rule, Mode string
			Until                   time.Time
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return notOurs(err)
	}
	if len(answer.Items) == 0 {
		fmt.Fprintln(w, "no override is in force: the policy says what is enforced")
		return nil
	}
	rows := [][]string{{"APPLICATION", "RULE", "MODE", "UNTIL"}}
	for _, m := range answer.Items {
		until := m.Until.Local().Format("01-02 15:04:05") + ", in " + span(max(m.Until.Sub(now), 0).Milliseconds())
		rows = append(rows, []string{orAll(m.Application), orAll(m.Rule), m.Mode, until})
	}
	writeTable(w, rows, []int{0, 1}, 3)
	return nil
}

func orAll(name string) string {
	if name == "" {
		return "(all)"
	}
	return name
}
