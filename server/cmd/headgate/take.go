package main

import "github.com/spf13/cobra"

func newTake() *cobra.Command {
	return askCommand(&cobra.Command{
		Use:   "take APPLICATION OPERATION SUBJECT [COST]",
		Short: "Ask a server whether a request may pass, and charge it",
		Long: `Ask a server whether a request may pass, and charge it.

Exits with 0 if it may, with 2 if it is refused, with 1 if nobody could say.

  headgate take email sendEmail alice
  headgate take default '' alice 5 --path /search --method GET`,
	}, "/v1/take", showAnswer(outcome{allowed: "allowed", denied: "denied"}))
}
