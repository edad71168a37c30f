package sqlitestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// databaseName is the file in a directory that has the states.
	databaseName = "limits.db"
	// placeName is the file that has the place of the database of this directory,
	// which changes at every start and at every stop in order: a database that was put
	// there from elsewhere, or from before, has another one. It has the database's inode, too.
	placeName = "place"
	walSuffix = "-wal"
)

func fileOf(dir string) string { return filepath.Join(dir, databaseName) }

// readPlace returns what file place says: nil and 0 if there is none or it is damaged.
func readPlace(dir string) (place []byte, inode int64, err error) {
	text, err := os.ReadFile(filepath.Join(dir, placeName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if _, err := fmt.Sscanf(string(text), "%x %d\n", &place, &inode); err != nil || len(place) != 16 {
		return nil, 0, nil
	}
	return place, inode, nil
}

// writePlace replaces file place, durably.
func writePlace(dir string, place [16]byte, inode int64) error {
	return replace(dir, placeName, func(f *os.File) error {
		_, err := fmt.Fprintf(f, "%x %d\n", place, inode)
		return err
	})
}

// replace makes a file in dir what fill writes, durably, or leaves it as it is.
func replace(dir, name string, fill func(*os.File) error) error {
	next := filepath.Join(dir, name+".new")
	f, err := os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(next, filepath.Join(dir, name))
	}
	if err != nil {
		os.Remove(next)
		return err
	}
	return syncDir(dir)
}

// header is the beginning of a database file.
const (
	headerBytes = 100
	headerMagic = "SQLite format 3\x00"
	headerApp   = 68
)

// inspect looks at what is in dir before SQLite does, which would take an empty
// file for a new database. found says that there is a database.
func inspect(dir string) (found bool, err error) {
	file := fileOf(dir)
	if to, err := os.Readlink(file); err == nil {
		return false, fmt.Errorf("%s is a symbolic link to %s, beside which its write-ahead log would be: put that file here instead, with its log if it has one, or make the data directory the link", file, to)
	}
	head, err := readHead(file)
	if errors.Is(err, fs.ErrNotExist) {
		for _, name := range [...]string{databaseName + walSuffix, placeName} {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				return false, fmt.Errorf("%s is missing, though %s says that it was there: restore a backup, or delete %s to begin anew with every limit full",
					file, name, filepath.Join(dir, name))
			}
		}
		return false, nil
	}
	if err != nil {
		return false, explainFile(dir, err)
	}
	return true, checkHead(file, head)
}

// readHead returns the header of a file, or all of a shorter one.
func readHead(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, headerBytes)
	n, err := io.ReadFull(f, head)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return head[:n], err
}

// checkHead fails if head is not the header of a database of ours.
func checkHead(file string, head []byte) error {
	if what, advice := faultOf(head); what != "" {
		return fmt.Errorf("%s %s: %s", file, what, advice)
	}
	return nil
}

// faultOf says what is wrong with the header of a database, and what helps; "" if
// nothing is.
func faultOf(head []byte) (what, advice string) {
	switch {
	case len(head) == 0:
		return "is empty: it was cut off", "restore a backup"
	case len(head) >= len(headerMagic) && string(head[:len(headerMagic)]) != headerMagic:
		return "is not a database", "restore a backup, or name another --data"
	case len(head) < headerBytes:
		return fmt.Sprintf("has only %d bytes: it was cut off", len(head)), "restore a backup"
	}
	if app := binary.BigEndian.Uint32(head[headerApp:]); app != application {
		return fmt.Sprintf("is the database of another application (its application_id is %#x)", app), "name another --data"
	}
	return "", ""
}
