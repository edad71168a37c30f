package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
)

func newToken() *cobra.Command {
	return group(&cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the tokens of people and programs",
		Long: `Make, list and revoke the tokens of people and programs. A token may do what its
scopes say: decide (ask for decisions), read (see everything but secrets),
operate (change subjects and modes, reset, ban), admin (and policies and
tokens). Each but decide includes read.

  headgate token create support --scope operate --application default
  headgate token revoke $ID`,
	}, newTokenCreate(), newTokenList(), newTokenRevoke())
}

var tokenScopes = []string{"decide", "read", "operate", "admin"}

func newTokenCreate() *cobra.Command {
	var scopes, applications []string
	var life string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token, and print it this once",
		Long: `Make a token, and print it this once: only its digest is kept. Standard output
has the token alone, and standard error what it is for. NAME stands in the audit
log beside what is done with it.

  TOKEN=$(headgate token create grafana --scope read --for 720h)
  HEADGATE_TOKEN=$TOKEN headgate denials`,
		Args: args(cobra.ExactArgs(1)),
	}
	cmd.Flags().StringSliceVar(&scopes, "scope", nil, "what it may do: `S[,S]` of "+strings.Join(tokenScopes, ", "))
	cmd.Flags().StringSliceVar(&applications, "application", nil, "only for this `APPLICATION`; may be repeated (default all)")
	cmd.Flags().StringVar(&life, "for", "", "how long it holds: a `TIME` such as 720h (default for good)")
	reach := adminCommand(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkToken(args[0], scopes, applications, life); err != nil {
			return usageError{err}
		}
		wish := map[string]any{"name": args[0], "scopes": scopes, "for": life}
		if len(applications) > 0 {
			wish["applications"] = applications
		}
		body, err := json.Marshal(wish)
		if err != nil {
			return err
		}
		server, err := reach()
		if err != nil {
			return err
		}
		got, err := server.call(cmd.Context(), http.MethodPost, "/v1/tokens", body, patient)
		if *asJSON {
			cmd.OutOrStdout().Write(got)
			return err
		}
		if err != nil {
			return err
		}
		var made struct {
			tokenLine
			Token string
		}
		if err := json.Unmarshal(got, &made); err != nil {
			return notOurs(err)
		}
		now := time.Now()
		fmt.Fprintf(cmd.ErrOrStderr(), "token %s of %s: %s on %s, ends %s. It is shown this once:\n",
			plain(made.ID), plain(made.Name), plain(strings.Join(made.Scopes, ", ")), plain(made.where()), made.ends(now))
		_, err = fmt.Fprintln(cmd.OutOrStdout(), plain(made.Token))
		return err
	}
	return cmd
}

// maxTokenLife is the longest time that the server lets a token hold.
const maxTokenLife = 10 * 365 * 24 * time.Hour

// checkToken says what is wrong with what is said of a new token.
func checkToken(name string, scopes, applications []string, life string) error {
	switch {
	case name == "" || !utf8.ValidString(name) || plain(name) != name:
		return errors.New("NAME: must be a text without control characters: whose token it is")
	case len(scopes) == 0:
		return fmt.Errorf("--scope is required: some of %s", strings.Join(tokenScopes, ", "))
	}
	for _, s := range scopes {
		if !slices.Contains(tokenScopes, s) {
			return fmt.Errorf("--scope %q: must be some of %s", s, strings.Join(tokenScopes, ", "))
		}
	}
	for _, a := range applications {
		if a == "*" {
			continue
		}
		if err := headgate.CheckName(a); err != nil {
			return fmt.Errorf("--application: %w", err)
		}
	}
	if life == "" {
		return nil
	}
	if d, err := time.ParseDuration(life); err != nil || d < time.Minute || d > maxTokenLife {
		return fmt.Errorf("--for %q: must be a time from 1m to %.0fh, such as 720h", life, maxTokenLife.Hours())
	}
	return nil
}

// tokenLine is what is printed of a token.
type tokenLine struct {
	ID, Name             string
	Scopes, Applications []string
	CreatedAt            time.Time `json:"created_at"`
	CreatedBy            string    `json:"created_by"`
	ExpiresAt            time.Time `json:"expires_at"`
	RevokedAt            time.Time `json:"revoked_at"`
}

// where says for which applications a token is.
func (t *tokenLine) where() string {
	if slices.Equal(t.Applications, []string{"*"}) {
		return "all applications"
	}
	return strings.Join(t.Applications, ", ")
}

// ends says when a token ends or has ended.
func (t *tokenLine) ends(now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return "revoked " + whenSoon(t.RevokedAt, now)
	case t.ExpiresAt.IsZero():
		return "never"
	case !now.Before(t.ExpiresAt):
		return "over " + whenSoon(t.ExpiresAt, now)
	default:
		return "in " + coarse(t.ExpiresAt.Sub(now).Milliseconds())
	}
}

func newTokenList() *cobra.Command {
	return pages(&cobra.Command{
		Use:   "ls",
		Short: "List tokens: whose they are, what they may do, when they end",
		Long: `List tokens: whose they are, what they may do, when they end. The tokens
themselves are not known to anybody. The one that the server was started with is
not on the list.

  headgate token ls`,
		Args: args(cobra.NoArgs),
	}, "/v1/tokens", showTokens)
}

func showTokens(w io.Writer, body []byte, now time.Time) error {
	var answer struct {
		Items []tokenLine
		Next  string
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return notOurs(err)
	}
	if len(answer.Items) == 0 {
		fmt.Fprintln(w, "no token was made yet, but the one that the server was started with")
		return nil
	}
	rows := [][]string{{"ID", "NAME", "SCOPES", "ON", "ENDS"}}
	for i := range answer.Items {
		t := &answer.Items[i]
		rows = append(rows, []string{t.ID, t.Name, strings.Join(t.Scopes, ", "), t.where(), t.ends(now)})
	}
	writeTable(w, rows, []int{1, 3}, 2)
	writeNext(w, answer.Next)
	return nil
}

func newTokenRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "End a token at once",
		Long: `End a token at once; on other nodes within two seconds. 'headgate token ls' says
the ID.

  headgate token revoke $ID`,
		Args: args(cobra.ExactArgs(1)),
	}
	reach := adminCommand(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case args[0] == "":
			return usageError{errors.New("ID is empty: name a token as 'headgate token ls' lists it")}
		case strings.HasPrefix(args[0], "hgt_") || strings.HasPrefix(args[0], "hga_"):
			return usageError{errors.New("that is a token and not its ID, which 'headgate token ls' lists")}
		}
		server, err := reach()
		if err != nil {
			return err
		}
		got, err := server.call(cmd.Context(), http.MethodDelete, "/v1/tokens?"+url.Values{"id": {args[0]}}.Encode(), nil, patient)
		if p, ok := errors.AsType[*serverProblem](err); ok && p.Detail == nothingOnRecord {
			p.Detail = fmt.Sprintf("no token with the ID %q is in force: 'headgate token ls' lists them", args[0])
		}
		if *asJSON {
			cmd.OutOrStdout().Write(got)
			return err
		}
		if err != nil {
			return err
		}
		var t tokenLine
		if err := json.Unmarshal(got, &t); err != nil {
			return notOurs(err)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "token %s of %s: revoked\n", plain(t.ID), plain(t.Name))
		return err
	}
	return cmd
}
