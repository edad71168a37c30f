package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func newUsageExport() *cobra.Command {
	var format, file string
	var force bool
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write all usage as CSV or JSON lines",
		Long: `Write all usage as CSV or JSON lines, to standard output or to a file, which is
whole or not there. It can be made again: a row of which nothing has changed has
the same revision, and is the same but for "final", which says that it does not
change any more.

  headgate usage export --period month --from 2026-03 --to 2026-04 -o march.csv

In CSV, texts that a spreadsheet would run have a ' in front.`,
		Args: args(cobra.NoArgs),
	}
	filter := usageFlags(cmd)
	cmd.Flags().StringVar(&format, "format", "csv", "csv, or jsonl for a JSON object a line: `FORMAT`")
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to `FILE`, which must not exist (default standard output)")
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE if it exists")
	reach := adminCommand(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := filter()
		switch {
		case err != nil:
			return err
		case usageTypes[format] == "":
			return usageError{fmt.Errorf("--format %q: must be csv or jsonl", format)}
		case file == "" && cmd.Flags().Changed("output"):
			return usageError{errors.New("--output is empty: name a file, or leave the flag out for standard output")}
		case force && file == "":
			return usageError{errors.New("--force needs --output: the file that it may replace")}
		}
		server, err := reach()
		if err != nil {
			return err
		}
		e := &usageExport{remote: server, q: q, format: format, screen: cmd.ErrOrStderr()}
		if file == "" || file == "-" {
			to := cmd.OutOrStdout()
			if isTerminal(to) {
				e.screen = io.Discard // the rows are there already
				to = &plainWriter{to: to}
			}
			_, err := e.write(cmd.Context(), to)
			return err
		}
		n, err := e.writeFile(cmd.Context(), file, force)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", file, count(n, "row"))
		return err
	}
	return cmd
}

// usageTypes are the media types of the formats.
var usageTypes = map[string]string{"csv": "text/csv", "jsonl": "application/x-ndjson"}

// usageExport is an export of usage.
type usageExport struct {
	*remote
	q      url.Values
	format string
	screen io.Writer // for the progress
}

// writeFile makes a file of all rows, or none. It returns how many there were.
func (e *usageExport) writeFile(ctx context.Context, file string, force bool) (n int, err error) {
	open := newPart
	if info, err := os.Stat(file); force && err == nil {
		if !info.Mode().IsRegular() {
			return 0, fmt.Errorf("%s is not replaced: it is no file", file)
		}
		open = partBeside
	}
	part, err := open(file)
	if err != nil {
		return 0, err
	}
	defer func() {
		part.Close()
		os.Remove(part.Name())
	}()
	if n, err = e.write(ctx, part); err != nil {
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			err = notMade(file, err)
		}
		return 0, err
	}
	if err := part.Sync(); err != nil {
		return 0, notMade(file, err)
	}
	finish := os.Link
	if force {
		finish = os.Rename
	}
	if err := finish(part.Name(), file); errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("%s exists: name a file that does not", file)
	} else if err != nil {
		return 0, notMade(file, err)
	}
	return n, nil
}

// write writes all rows and returns how many there were.
func (e *usageExport) write(ctx context.Context, to io.Writer) (rows int, err error) {
	base, client, err := e.dial()
	if err != nil {
		return 0, err
	}
	bar := newProgress(e.screen, func() int64 { return e.total(ctx) })
	defer bar.end()
	e.q.Set("format", e.format)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/usage?"+e.q.Encode(), http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+e.token)
	resp, err := client.Do(req)
	if err != nil {
		return 0, e.unreachable(err, patient)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), usageTypes[e.format]) {
		got, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return 0, fmt.Errorf("the answer of %s broke off: %w", e.address, err)
		}
		return 0, e.refused(resp, got)
	}
	w := &rowWriter{to: to, quotes: e.format == "csv", bar: bar}
	_, err = io.Copy(w, resp.Body)
	if rows = w.lines; w.quotes && rows > 0 {
		rows-- // the headings
	}
	switch {
	case w.err != nil:
		return rows, w.err
	case err != nil:
		return rows, fmt.Errorf("the export broke off after %s, it is not whole: %w", count(rows, "row"), err)
	}
	return rows, nil
}

// total returns how many rows there will be; -1 if nobody says it in time.
func (e *usageExport) total(ctx context.Context) int64 {
	q := url.Values{"limit": {"1"}, "total": {"true"}}
	maps.Copy(q, e.q)
	var answer struct{ Total *int64 }
	got, err := e.call(ctx, http.MethodGet, "/v1/usage?"+q.Encode(), nil, patient)
	if err != nil || json.Unmarshal(got, &answer) != nil || answer.Total == nil {
		return -1 // what is wrong, the export itself says
	}
	return *answer.Total
}

// rowWriter counts the lines that are written, and shows them.
type rowWriter struct {
	to     io.Writer
	quotes bool // a line goes on within quotes
	bar    *progress

	lines  int
	within bool // quotes
	err    error
}

func (w *rowWriter) Write(p []byte) (n int, err error) {
	n, err = w.to.Write(p)
	before := w.lines
	for _, c := range p[:n] {
		switch {
		case c == '"' && w.quotes:
			w.within = !w.within
		case c == '\n' && !w.within:
			w.lines++
		}
	}
	w.bar.add(w.lines - before)
	w.err = err // nobody writes on after one
	return n, err
}

// plainWriter writes whole lines to a terminal, without what could move its cursor.
type plainWriter struct {
	to   io.Writer
	rest []byte // of a line that has not ended
}

func (w *plainWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	end := bytes.LastIndexByte(w.rest, '\n') + 1
	_, err := io.WriteString(w.to, plainLines(string(w.rest[:end])))
	w.rest = append(w.rest[:0], w.rest[end:]...)
	return len(p), err
}
