package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/store/sqlitestore"
)

func newBackup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the state of limits of a running server to a file",
		Long: `Copy the state of limits of a running server, whose store is embedded, to FILE,
which must not exist. The server goes on deciding. 'headgate restore' reads it.

  headgate backup monday.backup`,
		Args: args(cobra.ExactArgs(1)),
	}
	reach := adminCommand(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch args[0] {
		case "":
			return usageError{errors.New("the name of FILE is empty: name a file that does not exist")}
		case "-":
			return usageError{errors.New("a backup is not printed, as half of one would pass for a file: name a file that does not exist (./- for one of that name)")}
		}
		server, err := reach()
		if err != nil {
			return err
		}
		n, err := server.fetchBackup(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], size(n))
		return err
	}
	return cmd
}

// size says a number of bytes.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
	}
}

// newPart makes an empty file beside the one that is to be made, which must not exist.
func newPart(file string) (*os.File, error) {
	if _, err := os.Lstat(file); err == nil {
		return nil, fmt.Errorf("%s exists: name a file that does not", file)
	}
	return partBeside(file)
}

// partBeside makes an empty file beside another one, the name of which it is to take.
func partBeside(file string) (*os.File, error) {
	dir := filepath.Dir(file)
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, noDirectory(file)
	case err == nil && !info.IsDir():
		return nil, fmt.Errorf("%s cannot be made: %s is not a directory", file, dir)
	}
	part, err := os.CreateTemp(dir, filepath.Base(file)+".part*") // for the owner only
	if err != nil {
		return nil, notMade(file, err)
	}
	return part, nil
}

// noDirectory is the error for a file in a directory that does not exist.
func noDirectory(file string) error {
	return fmt.Errorf("%s cannot be made: there is no directory %s", file, filepath.Dir(file))
}

// notMade says why file was not made, and not what it was called meanwhile.
func notMade(file string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		err = e.Err
	}
	return fmt.Errorf("%s cannot be made: %w", file, err)
}

// fetchBackup writes the server's backup to file, all of it or nothing.
func (r *remote) fetchBackup(ctx context.Context, file string) (n int64, err error) {
	part, err := newPart(file)
	if err != nil {
		return 0, err
	}
	defer func() {
		part.Close()
		os.Remove(part.Name())
	}()
	base, client, err := r.dial()
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/backup", http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	resp, err := client.Do(req)
	if err != nil {
		return 0, r.unreachable(err, patient)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != admin.BackupType || resp.ContentLength < 0 {
		got, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return 0, fmt.Errorf("the answer of %s broke off: %w", r.address, err)
		}
		return 0, r.refused(resp, got)
	}
	n, err = io.Copy(part, resp.Body)
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return 0, notMade(file, err)
	} else if err != nil {
		return 0, fmt.Errorf("the backup broke off after %s: %w", size(n), err)
	}
	if err := part.Sync(); err != nil {
		return 0, notMade(file, err)
	}
	if err := os.Link(part.Name(), file); errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("%s exists: name a file that does not", file)
	} else if err != nil {
		return 0, notMade(file, err)
	}
	return n, nil
}

func newRestore() *cobra.Command {
	var data string
	var trust bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a backup the state of limits of a server that is not running",
		Long: `Make a backup the state of limits of a server that is not running. Its data
directory must not have a state of its own.

What was admitted after the backup was made is not in it. So that nothing is
admitted twice, every limit starts empty: buckets fill at their rate, windows and
quotas open when the next one begins. --nothing-since says that nothing was
admitted after the backup, as when a server was stopped in order to be moved: the
limits then go on as they were.

  headgate restore monday.backup --data headgate-data`,
		Args: args(cobra.ExactArgs(1)),
	}
	cmd.Flags().StringVar(&data, "data", "", "data `DIR` of the server (default "+defaultData+") [HEADGATE_DATA]")
	cmd.Flags().BoolVar(&trust, "nothing-since", false, "nothing was admitted after the backup was made")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir := cmp.Or(data, os.Getenv("HEADGATE_DATA"), defaultData)
		if err := sqlitestore.Restore(cmd.Context(), args[0], dir, trust); err != nil {
			return err
		}
		how := "every limit starts empty"
		if trust {
			how = "limits go on as it has them" // empty, where it is of a directory that was restored only
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s restored to %s: %s\n", args[0], dir, how)
		return err
	}
	return cmd
}
