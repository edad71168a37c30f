package sqlitestore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Names that are URIs for SQLite are names of files.
func TestNamesLikeURIs(t *testing.T) {
	t.Chdir(t.TempDir())
	const dir = "file:x?mode=ro#%20"
	j, records := filled(t, dir)
	for _, file := range []string{dir + "/backup", "file:backup?mode=memory", "plain"} {
		if err := j.backup(t.Context(), file, noon+1); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if err := Restore(t.Context(), file, file+"-restored", true); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		restored, _ := begin(t, file+"-restored", noon+1)
		if got := mustFind(t, restored, records[0].Key); !same(got, records[0]) {
			t.Errorf("%s: %+v, want %+v", file, got, records[0])
		}
		end(t, restored, noon+1, true)
	}
	end(t, j, noon+1, true)
}

// A path that SQLite cannot open is called too long, and the longest one will do for
// everything.
func TestLongPaths(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// below is a path of n bytes.
	below := func(n int) string {
		path := base
		for n-len(path) > 201 {
			path += "/" + strings.Repeat("d", 100)
		}
		return path + "/" + strings.Repeat("e", n-len(path)-1)
	}
	for n, want := range map[int]string{504: "", 505: "too long for SQLite"} {
		name := below(n)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if c, err := connect(name); want != "" {
			wantError(t, err, want)
		} else if err != nil {
			t.Errorf("%d bytes: %v", n, err)
		} else if err := errors.Join(c.exec(t.Context(), `create table x (y)`), c.Close()); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	const most = 440
	j, _ := filled(t, below(most))
	for name, want := range map[string]string{
		below(most) + "/.headgate-unfinished-backup-1234567890/copy": "", // as the daemon makes them
		below(504 - len(".part1234567890")):                          "",
		below(506):                                                   `is too long for SQLite: absolute and without symbolic links it has \d+ bytes, and at most 504 are possible$`,
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := j.backup(t.Context(), name, noon+1); want != "" {
			wantError(t, err, want)
		} else if err != nil {
			t.Error(err)
		}
	}
	end(t, j, noon+1, true)
	short := base + "/short"
	if err := os.Symlink(below(most), short); err != nil {
		t.Fatal(err)
	}
	good := below(most) + "/.headgate-unfinished-backup-1234567890/copy"
	for _, dir := range []string{below(most + 1), below(3000), short + "/e"} {
		const want = `the path \S+ is too long for SQLite: absolute and without symbolic links it has (441|442|3000) bytes, and at most 440 are possible$`
		_, err := Open(t.Context(), Config{Dir: dir})
		wantError(t, err, `^sqlitestore: `+want)
		wantError(t, Restore(t.Context(), good, dir, true), want)
		wantError(t, Check(t.Context(), dir), want)
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s was made", dir)
		}
	}
	j, past := begin(t, short, noon+2) // the name is short, and what it names not too long
	if past.Lost != 0 || !past.Clean {
		t.Errorf("%+v", past)
	}
	end(t, j, noon+2, true)
}
