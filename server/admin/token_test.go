package admin

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestOpenToken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "data")
	token, created, err := OpenToken(dir)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	if !strings.HasPrefix(token, "hga_") || len(token) != 47 {
		t.Errorf("token of %d bytes", len(token))
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, dir + "/admin-token": 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("the directory holds %v, %v", names, err)
	}
	again, created, err := OpenToken(dir)
	if err != nil || created || again != token {
		t.Errorf("the second start: same %v, created %v, %v", again == token, created, err)
	}
	if other, _, err := OpenToken(t.TempDir()); err != nil || other == token {
		t.Errorf("two directories: same %v, %v", other == token, err)
	}
	if read, err := ReadToken(dir + "/admin-token"); err != nil || read != token {
		t.Errorf("read: %v, %v", read == token, err)
	}
}

// TestOpenTokenRace starts several servers on a new directory at once.
func TestOpenTokenRace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	tokens := make([]string, 8)
	made := make([]bool, len(tokens))
	var wg sync.WaitGroup
	for i := range tokens {
		wg.Go(func() {
			var err error
			if tokens[i], made[i], err = OpenToken(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	for i := range tokens {
		if tokens[i] != tokens[0] {
			t.Error("two servers have different tokens")
		}
		if made[i] {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d servers made a token, want 1", n)
	}
}

func TestOpenTokenFaults(t *testing.T) {
	good := strings.Repeat("x", 32)
	tests := []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"readable by the group", good, 0o640, "may be read or written by others (mode 0640): remove it"},
		{"readable by all", good, 0o604, "may be read or written by others (mode 0604): remove it"},
		{"empty", "", 0o600, "a token of 0 bytes: must be 32 to 512"},
		{"short", "secret", 0o600, "a token of 6 bytes"},
		{"long", strings.Repeat("x", 513), 0o600, "a token of 513 bytes"},
		{"lines", good + "\n" + good, 0o600, "printable ASCII"},
		{"operator's own", good + "\n", 0o600, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			file := dir + "/admin-token"
			if err := os.WriteFile(file, []byte(tt.content), tt.mode); err != nil {
				t.Fatal(err)
			}
			_, _, err := OpenToken(dir)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) || strings.Contains(got, "secret") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenToken(file); err == nil || !strings.HasPrefix(err.Error(), "data directory: ") {
		t.Errorf("a file as the directory: %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/admin-token", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenToken(dir); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a directory as the token: %v", err)
	}
}
