package main

import "github.com/spf13/cobra"

func newPeek() *cobra.Command {
	return askCommand(&cobra.Command{
		Use:   "peek APPLICATION OPERATION SUBJECT [COST]",
		Short: "Ask a server whether a request would pass, and charge nothing",
		Long: `Ask a server whether a request would pass, and charge nothing.

Exits with 0 if it would, with 2 if it would be refused, with 1 if nobody could say.

  headgate peek email sendEmail alice --plan premium`,
	}, "/v1/peek", showAnswer(outcome{allowed: "would be allowed", denied: "would be denied"}))
}
