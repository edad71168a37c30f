package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"modernc.org/sqlite"

	"github.com/headgate/headgate"
)

// Primary result codes of SQLite.
const (
	codePerm     = 3
	codeBusy     = 5
	codeReadOnly = 8
	codeIO       = 10
	codeCorrupt  = 11
	codeFull     = 13
	codeCantOpen = 14
	codeNotADB   = 26
)

// codeOf returns the primary result code of an error of SQLite, 0 for others.
func codeOf(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// kindOf names a failure for those who count them.
func kindOf(err error) string {
	if err == nil {
		return ""
	}
	if _, ok := errors.AsType[*damage](err); ok {
		return "corrupt"
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "canceled"
	}
	switch codeOf(err) {
	case codeBusy:
		return "busy"
	case codeReadOnly, codePerm:
		return "read_only"
	case codeIO:
		return "io"
	case codeCorrupt, codeNotADB:
		return "corrupt"
	case codeFull:
		return "disk_full"
	default:
		return "other"
	}
}

// passing reports whether the same may succeed later: nothing was written, and what
// had been is intact.
func passing(err error) bool {
	switch codeOf(err) {
	case codeFull, codeBusy:
		return true
	default:
		return false
	}
}

// unavailable is the error of an act that failed.
func unavailable(act string, err error) error {
	if headgate.CodeOf(err) == headgate.Unknown {
		err = &headgate.Error{Code: headgate.Unavailable, Err: err}
	}
	return fmt.Errorf("sqlitestore: %s: %w", act, err)
}

// damage says what of a database is not as it was written.
type damage struct{ text string }

func (d *damage) Error() string { return d.text }

func damaged(format string, args ...any) error { return &damage{fmt.Sprintf(format, args...)} }

// plain takes the act and the path off an error of the file system.
func plain(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok {
		return e.Err
	}
	return err
}

// told is an error that says all that is to be said.
type told struct{ error }

func (t told) Unwrap() error { return t.error }

// blamed is the file in dir that an error is about, or dir where that is not there or
// cannot be looked at.
func blamed(dir string, err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		if _, err := os.Lstat(e.Path); err == nil {
			return e.Path
		}
	}
	return dir
}

// explainFile puts an error of the file system into words.
func explainFile(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return told{fmt.Errorf("cannot write to %s: %w: the data directory and the files in it must be writable, as limits are kept there", blamed(dir, err), plain(err))}
	case errors.Is(err, syscall.ENOSPC):
		return told{fmt.Errorf("cannot write to %s: the disk is full", dir)}
	case errors.Is(err, fs.ErrExist):
		if e, ok := errors.AsType[*fs.PathError](err); ok && e.Op == "mkdir" { // where there is something that is not there
			if to, err := os.Readlink(e.Path); err == nil {
				return told{fmt.Errorf("cannot use %s: %s is a symbolic link to %s, which is not there: make that directory, or name another --data", dir, e.Path, to)}
			}
		}
		fallthrough
	default:
		return told{fmt.Errorf("cannot use %s: %w", dir, err)}
	}
}

// explain puts an error of SQLite on opening the database in dir into words.
func explain(dir string, err error) error {
	if t, ok := errors.AsType[told](err); ok {
		return t
	}
	if _, ok := errors.AsType[*damage](err); ok {
		return fmt.Errorf("%s is damaged: %w: restore a backup, or move it, %s and %s away to begin anew with every limit full", fileOf(dir), err, databaseName+walSuffix, placeName)
	}
	switch codeOf(err) {
	case codeCorrupt:
		return explain(dir, damaged("%s", short(err)))
	case codeNotADB:
		return fmt.Errorf("%s is not a database: restore a backup, or name another --data", fileOf(dir))
	case codeReadOnly, codePerm, codeCantOpen:
		return fmt.Errorf("cannot write to %s: %s: the data directory and the files in it must be writable", fileOf(dir), short(err))
	case codeFull:
		return fmt.Errorf("cannot write to %s: the disk is full", fileOf(dir))
	case codeIO:
		return fmt.Errorf("cannot use %s: the disk failed: %s", fileOf(dir), short(err))
	case codeBusy:
		return fmt.Errorf("%s is locked by another program that has it open: end that first", fileOf(dir))
	}
	return fmt.Errorf("cannot use %s: %w", fileOf(dir), err)
}

// short is what an error of SQLite says, in one line.
func short(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
