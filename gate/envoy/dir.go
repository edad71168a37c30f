package envoy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Bounds of a directory of configurations.
const (
	// MaxFile is the largest file in bytes, MaxTotal all of them together.
	MaxFile  = 1 << 20
	MaxTotal = 16 << 20
	// MaxFiles is the largest number of files.
	MaxFiles  = 1000
	maxFolder = 8 // levels below the directory
)

// ReadDir reads the files *.yaml and *.yml of a directory and of those in it, in the order
// of their paths. Names that begin with a dot are passed over: a mounted ConfigMap keeps
// its versions there. Symbolic links are followed. A directory without a file is an error.
func ReadDir(dir string) ([]File, error) {
	d := folder{}
	if err := d.read(dir, 0); err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	if len(d.files) == 0 {
		return nil, fmt.Errorf("envoy: there is no *.yaml or *.yml in %s", dir)
	}
	return d.files, nil
}

type folder struct {
	files []File
	total int
	seen  int // entries
}

func (d *folder) read(dir string, level int) error {
	if level > maxFolder {
		return fmt.Errorf("%s is more than %d directories deep", dir, maxFolder)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		if d.seen++; d.seen > 10*MaxFiles {
			return fmt.Errorf("%s: more than %d files and directories", dir, 10*MaxFiles)
		}
		path := filepath.Join(dir, name)
		isYAML := strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
		info, err := os.Stat(path)
		switch {
		case err != nil && isYAML:
			return err
		case err != nil: // a link to nowhere that is none of ours
		case info.IsDir():
			if err := d.read(path, level+1); err != nil {
				return err
			}
		case isYAML:
			if !info.Mode().IsRegular() {
				return fmt.Errorf("%s is not a regular file", path)
			}
			if err := d.file(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *folder) file(path string) error {
	if len(d.files) == MaxFiles {
		return fmt.Errorf("more than %d files of configuration", MaxFiles)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if d.total += len(data); d.total > MaxTotal {
		return fmt.Errorf("the files have more than %d bytes together", MaxTotal)
	}
	d.files = append(d.files, File{Name: path, Data: data})
	return nil
}
