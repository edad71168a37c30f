package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/records"
)

// question is the body of /v1/take, /v1/peek and /v1/explain.
type question struct {
	Application    string            `json:"application"`
	Operation      string            `json:"operation"`
	Subject        string            `json:"subject"`
	Cost           *int64            `json:"cost,omitempty"`
	Costs          map[string]int64  `json:"costs,omitempty"`
	Plan           string            `json:"plan,omitempty"`
	Attributes     map[string]string `json:"attributes,omitempty"`
	Request        httpRequest       `json:"request,omitzero"`
	IdempotencyKey string            `json:"idempotency_key,omitempty"`
	MaxWaitMS      *int64            `json:"max_wait_ms,omitempty"`
}

// httpRequest is the HTTP request that is asked about.
type httpRequest struct {
	Method  string              `json:"method,omitempty"`
	Path    string              `json:"path,omitempty"`
	IP      string              `json:"ip,omitempty"`
	Headers map[string][]string `json:"headers,omitempty"`
}

func (r httpRequest) IsZero() bool {
	return r.Method == "" && r.Path == "" && r.IP == "" && len(r.Headers) == 0
}

// questionFlags are what the flags say of a question.
type questionFlags struct {
	plan, method, path, ip, key string
	attributes, costs, headers  []string
	maxWait                     time.Duration
}

func (f *questionFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.plan, "plan", "", "the subject's `PLAN`, if its record names none")
	flags.StringArrayVar(&f.costs, "costs", nil, "cost in another unit, as `UNIT=N`; may be repeated")
	flags.StringArrayVar(&f.attributes, "attribute", nil, "a further fact, as `KEY=VALUE`; may be repeated")
	flags.StringVar(&f.ip, "ip", "", "`ADDRESS` of the client")
	flags.StringVar(&f.method, "method", "", "`METHOD` of the HTTP request")
	flags.StringVar(&f.path, "path", "", "`PATH` of the HTTP request, with its query; OPERATION may then be ''")
	flags.StringArrayVar(&f.headers, "header", nil, "header of the HTTP request, as `'NAME: VALUE'`; may be repeated")
	flags.StringVar(&f.key, "idempotency-key", "", "`KEY` under which the request is charged once")
	flags.DurationVar(&f.maxWait, "max-wait", 0, "`TIME` that the request may wait in line, such as 5s, instead of what its rule says")
	flags.SortFlags = false
}

// fill puts the flags into q.
func (f *questionFlags) fill(q *question, waitSaid bool) error {
	q.Plan, q.IdempotencyKey = f.plan, f.key
	q.Request = httpRequest{Method: f.method, Path: f.path, IP: f.ip}
	for _, pair := range f.costs {
		unit, number, ok := strings.Cut(pair, "=")
		n, err := strconv.ParseUint(number, 10, 64)
		if _, twice := q.Costs[unit]; !ok || unit == "" || twice || err != nil || n > headgate.MaxInt {
			return usageError{fmt.Errorf("--costs %q: must be UNIT=N with a whole number, each unit once", pair)}
		}
		if q.Costs == nil {
			q.Costs = make(map[string]int64)
		}
		q.Costs[unit] = int64(n)
	}
	for _, pair := range f.attributes {
		key, value, ok := strings.Cut(pair, "=")
		if _, twice := q.Attributes[key]; !ok || key == "" || twice {
			return usageError{fmt.Errorf("--attribute %q: must be KEY=VALUE, each key once", pair)}
		}
		if q.Attributes == nil {
			q.Attributes = make(map[string]string)
		}
		q.Attributes[key] = value
	}
	for _, line := range f.headers {
		name, value, ok := strings.Cut(line, ":")
		if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); !ok || name == "" {
			return usageError{fmt.Errorf("--header %q: must be 'NAME: VALUE'", line)}
		}
		if q.Request.Headers == nil {
			q.Request.Headers = make(map[string][]string)
		}
		q.Request.Headers[name] = append(q.Request.Headers[name], strings.TrimSpace(value))
	}
	if waitSaid {
		if f.maxWait < 0 || f.maxWait%time.Millisecond != 0 {
			return usageError{fmt.Errorf("--max-wait %v: must be whole milliseconds, not below 0", f.maxWait)}
		}
		q.MaxWaitMS = new(f.maxWait.Milliseconds())
	}
	return nil
}

// askCommand completes the verbs that ask a server at path. show prints an
// answer and returns whether the request may pass.
func askCommand(cmd *cobra.Command, path string, show func(w io.Writer, body []byte) (allowed bool, err error)) *cobra.Command {
	var flags questionFlags
	var asJSON bool
	flags.add(cmd)
	server := addServerFlag(cmd)
	tokenFile := cmd.Flags().String("token-file", "", "`FILE` with a token, where decisions need one (default: HEADGATE_TOKEN or HEADGATE_TOKEN_FILE)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the server's answer as it is")
	cmd.Args = args(cobra.RangeArgs(3, 4))
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		// -1 reads as a flag named 1.
		if e, ok := errors.AsType[interface {
			error
			GetSpecifiedShortnames() string
		}](err); ok {
			if _, number := strconv.ParseFloat(e.GetSpecifiedShortnames(), 64); number == nil {
				return badCost("-" + e.GetSpecifiedShortnames())
			}
		}
		return usageError{flagError(err)}
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q := question{Application: args[0], Operation: args[1], Subject: args[2]}
		if len(args) == 4 {
			cost, err := strconv.ParseUint(args[3], 10, 64)
			if err != nil || cost > headgate.MaxInt {
				return badCost(args[3])
			}
			q.Cost = new(int64(cost))
		}
		if err := flags.fill(&q, cmd.Flags().Changed("max-wait")); err != nil {
			return err
		}
		body, err := json.Marshal(&q)
		if err != nil {
			return err
		}
		r := server()
		if r.token, err = saidToken(*tokenFile); err != nil {
			return err
		}
		got, err := r.call(cmd.Context(), http.MethodPost, path, body, patient+flags.maxWait)
		out := cmd.OutOrStdout()
		if asJSON {
			out.Write(got)
			out = io.Discard
		}
		if r.token == "" && refusedAs(err, "unauthorized") {
			return fmt.Errorf("decisions of %s need a token with the scope %s: name its file with --token-file, or set HEADGATE_TOKEN", r.address, records.Decide)
		}
		if err != nil {
			return err
		}
		allowed, err := show(out, got)
		if err == nil && !allowed {
			return errDenied
		}
		return err
	}
	return cmd
}

func badCost(cost string) error {
	return usageError{fmt.Errorf("COST %q: must be a whole number of 0 to %d", cost, int64(headgate.MaxInt))}
}

// showAnswer returns what prints a decision with the verb's words for it.
func showAnswer(words outcome) func(io.Writer, []byte) (bool, error) {
	return func(w io.Writer, body []byte) (bool, error) {
		var a answer
		if err := json.Unmarshal(body, &a); err != nil {
			return false, notOurs(err)
		}
		a.print(w, words, time.Now())
		return a.Allowed, nil
	}
}
