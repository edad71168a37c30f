//go:build !unix || solaris || aix

package sqlitestore

import (
	"errors"
	"os"
)

// lockFile locks f, which the end of the process undoes. It does not wait.
func lockFile(*os.File) error {
	return errors.New("this system has no locks that end with their process: use a store on the network")
}

// inode tells files of one file system apart. 0 is unknown.
func inode(os.FileInfo) int64 { return 0 }

// syncDir makes names in dir durable.
func syncDir(string) error { return nil }
