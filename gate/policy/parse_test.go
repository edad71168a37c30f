package policy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

const divider = "\n--------\n"

// fakeCheck knows one wrong expression of each kind, so that the tests of this
// package need no expression language.
func fakeCheck(source string, kind ExprKind) error {
	if strings.HasPrefix(source, "bad") {
		return fmt.Errorf("expression %q of kind %d\nis wrong", source, kind)
	}
	return nil
}

// report is what a golden file expects of its input.
func report(data []byte) string {
	p, warnings, err := Parse("policy.yaml", data, fakeCheck)
	var b strings.Builder
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	for _, w := range warnings {
		fmt.Fprintln(&b, "warning:", w)
	}
	if err == nil && len(warnings) == 0 {
		fmt.Fprintln(&b, "ok")
	}
	if (p == nil) != (err != nil) {
		fmt.Fprintln(&b, "a policy and an error, or neither")
	}
	return b.String()
}

// TestGolden reads testdata: each file is named by its fault and holds the
// policy, a line of dashes and what Parse says.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 40 {
		t.Fatalf("found %d golden files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(raw), divider)
			got := report([]byte(input + "\n"))
			if *update {
				if err := os.WriteFile(file, []byte(input+divider+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}
