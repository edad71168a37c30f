package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newExplain() *cobra.Command {
	return askCommand(&cobra.Command{
		Use:   "explain APPLICATION OPERATION SUBJECT [COST]",
		Short: "Say in sentences what a server would decide, and why",
		Long: `Say in sentences what a server would decide on a request, and why. Nothing is
charged.

Exits with 0 if it would pass, with 2 if it would be refused, with 1 if nobody
could say.

  headgate explain email sendEmail alice --plan premium`,
	}, "/v1/explain", showExplanation)
}

// explained is the answer of /v1/explain.
type explained struct {
	Decision    answer
	Explanation struct {
		Verdict string
		Steps   []struct{ About, Text string }
	}
}

func showExplanation(w io.Writer, body []byte) (allowed bool, err error) {
	var e explained
	if err := json.Unmarshal(body, &e); err != nil {
		return false, notOurs(err)
	}
	e.print(w, time.Now())
	return e.Decision.Allowed, nil
}

// print writes what can be read out to the one who asks: the verdict, how it
// came about, and the figures.
func (e *explained) print(w io.Writer, now time.Time) {
	fmt.Fprintln(w, wrap(e.Explanation.Verdict, 0))
	if len(e.Explanation.Steps) > 0 {
		fmt.Fprintln(w)
	}
	for i, s := range e.Explanation.Steps {
		number, text := fmt.Sprintf("%2d. ", i+1), s.Text
		if limit, ok := strings.CutPrefix(s.About, "limit:"); ok {
			text = limit + ": " + text // its text does not name it
		}
		fmt.Fprintln(w, number+wrap(text, len(number)))
	}
	e.Decision.table(w, now)
}
