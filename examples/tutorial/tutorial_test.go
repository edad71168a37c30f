// Package tutorial runs the commands of docs/tutorial.md and compares what they print.
package tutorial

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/examples/stage"
	"github.com/headgate/headgate/examples/stage/stagetest"
)

// page is what is run.
const page = "../../docs/tutorial.md"

// address is where the page has the server; the test has it elsewhere.
const address = "127.0.0.1:8080"

// command is one of the page, with what it prints.
type command struct {
	line int // of the page
	text string
	want []string
}

// commands reads those of a page: in blocks of console, lines behind "$ ", which go on
// behind "> ".
func commands(t *testing.T, file string) (all []command) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for i, line := range strings.Split(string(data), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			all = append(all, command{line: i + 1, text: line[2:]})
		case len(all) == 0:
			t.Fatalf("%s:%d: output of no command", file, i+1)
		case strings.HasPrefix(line, "> ") && len(all[len(all)-1].want) == 0:
			all[len(all)-1].text += "\n" + line[2:]
		default:
			c := &all[len(all)-1]
			c.want = append(c.want, line)
		}
	}
	return all
}

// pattern is what the lines match: … stands for anything in a line, and a line of it alone
// for any lines.
func pattern(want []string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`\A`)
	for _, line := range want {
		if line == "…" {
			b.WriteString(`(?:.*\n)*?`)
			continue
		}
		parts := strings.Split(strings.TrimRight(line, " "), "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		b.WriteString(strings.Join(parts, `.*`) + ` *\n`)
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

// shell is a bash that runs one command after the other.
type shell struct {
	in   io.WriteCloser
	pipe *os.File
	out  *bufio.Reader
}

// patience is how long a command may take.
const patience = time.Minute

const sentinel = "=== that was it ==="

// do runs a command and returns all that it prints.
func (s *shell) do(text string) (string, error) {
	if err := s.pipe.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(s.in, "%s\necho '%s'\n", text, sentinel); err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if before, ok := strings.CutSuffix(line, sentinel+"\n"); ok {
			out.WriteString(before)
			break
		}
		if out.WriteString(line); err != nil {
			return out.String(), err
		}
	}
	if got := out.String(); got != "" && !strings.HasSuffix(got, "\n") {
		out.WriteByte('\n')
	}
	return out.String(), nil
}

func TestTutorial(t *testing.T) {
	path := t.TempDir()
	if err := os.Symlink(stagetest.Headgate(t), filepath.Join(path, "headgate")); err != nil {
		t.Fatal(err)
	}
	ports, err := stage.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	here := ports[0]
	cmd := exec.Command("bash", "--norc", "--noprofile")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the server ends with it
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + path + ":" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "HEADGATE_HTTP=" + here, "HEADGATE_GRPC=", "HEADGATE_RESP=", "HEADGATE_SERVER=" + here}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s := &shell{in, r, bufio.NewReader(r)}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // an error says that all have ended
		_ = cmd.Wait()
		r.Close()
	})
	all := commands(t, page)
	if len(all) < 30 {
		t.Fatalf("only %d commands on the page", len(all))
	}
	for _, c := range all {
		got, err := s.do(strings.ReplaceAll(c.text, address, here))
		if err != nil {
			t.Fatalf("%s:%d: %s: %v, after\n%s", page, c.line, c.text, err, got)
		}
		if got = strings.ReplaceAll(got, here, address); !pattern(c.want).MatchString(got) {
			t.Fatalf("%s:%d: %s\nprinted\n%s\nthe page says\n%s", page, c.line, c.text, got, strings.Join(c.want, "\n"))
		}
	}
}
