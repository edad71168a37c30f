package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestAdministration runs the verbs of the administration. Each script finds a server
// of its own in $HEADGATE_SERVER, with its data directory where it would be: of the
// file pinned.yaml where the script has one, else of the built-in policy.
func TestAdministration(t *testing.T) {
	scripts, err := filepath.Abs("testdata/administration") // as the verbs change the directory
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: scripts,
		Setup: func(env *testscript.Env) error {
			args := []string{"serve", "--http", "127.0.0.1:0", "--data", filepath.Join(env.WorkDir, defaultData)}
			if file := filepath.Join(env.WorkDir, "pinned.yaml"); exists(file) {
				args = append(args, "--policy", file)
			}
			r, w := io.Pipe()
			ctx, stop := context.WithCancel(context.Background())
			ended := make(chan int)
			go func() {
				code := run(ctx, args, io.Discard, w)
				w.Close()
				ended <- code
			}()
			env.Defer(func() {
				stop()
				if code := <-ended; code != exitDone {
					t.Errorf("serve: exit code %d", code)
				}
			})
			address := ""
			lines := bufio.NewScanner(r)
			for address == "" && lines.Scan() {
				if line := lines.Text(); strings.Contains(line, "msg=listening") {
					_, address, _ = strings.Cut(line, "address=")
				}
			}
			go io.Copy(io.Discard, r)
			if address == "" {
				return errors.New("serve does not listen")
			}
			env.Setenv("HEADGATE_SERVER", address)
			env.Setenv("TZ", "UTC")
			env.Setenv("ESCAPE", "red\x1b[31m")
			env.Setenv("LINES", "a\nb")
			env.Setenv("LONG", strings.Repeat("long", 25))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": codeHere, "id": id},
	})
}

// codeHere is the command code for headgate alone, without a process for each verb:
// under the race detector they take long to start.
func codeHere(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if neg || args[1] != "headgate" {
		ts.Fatalf("usage: code N headgate ARG...")
	}
	if got := runHere(ts, args[2:], ts.Stdout(), ts.Stderr()); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// here is held by the script whose directory and environment are those of the process.
var here sync.Mutex

// runHere runs a verb in the directory of a script, with its server.
func runHere(ts *testscript.TestScript, args []string, stdout, stderr io.Writer) int {
	here.Lock()
	defer here.Unlock()
	before, err := os.Getwd()
	ts.Check(err)
	ts.Check(os.Chdir(ts.MkAbs(".")))
	defer os.Chdir(before)
	ts.Check(os.Setenv("HEADGATE_SERVER", ts.Getenv("HEADGATE_SERVER")))
	defer os.Unsetenv("HEADGATE_SERVER")
	return run(context.Background(), args, stdout, stderr)
}

// id NAME puts the ID of the token of that name into $ID.
func id(ts *testscript.TestScript, neg bool, args []string) {
	var out bytes.Buffer
	if code := runHere(ts, []string{"token", "ls", "--json"}, &out, ts.Stderr()); code != exitDone {
		ts.Fatalf("token ls: exit code %d", code)
	}
	var list struct{ Items []tokenLine }
	ts.Check(json.Unmarshal(out.Bytes(), &list))
	for _, t := range list.Items {
		if t.Name == args[0] && !neg {
			ts.Setenv("ID", t.ID)
			return
		}
	}
	ts.Fatalf("no token of %s", args[0])
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func TestWriteNext(t *testing.T) {
	for next, want := range map[string]string{
		"":           "",
		"bob@x.org":  "\nThere are more: --after=bob@x.org goes on.\n",
		"-x y;z":     "\nThere are more: --after='-x y;z' goes on.\n",
		"o'neill":    "\nThere are more: --after goes on behind the next that --json prints.\n",
		"\x1b[31m":   "\nThere are more: --after goes on behind the next that --json prints.\n",
		"a\u202eb c": "\nThere are more: --after goes on behind the next that --json prints.\n",
	} {
		var b strings.Builder
		writeNext(&b, next)
		if b.String() != want {
			t.Errorf("%q: got %s", next, b.String())
		}
	}
}

func TestShowAudit(t *testing.T) {
	body := `{"items":[
		{"at":"` + now.Format(time.RFC3339) + `","actor":"bootstrap","action":"policy.put","target":"p.yaml","detail":{"lines_added":3,"lines_removed":1,"note":""}},
		{"at":"` + now.Add(-time.Second).Format(time.RFC3339) + `","actor":"sup\u001bport","action":"subject.put","application":"email","subject":"alice","refused":"","target":"",
			"detail":{"plan":"premium","anchor":15,"overrides":[{"limit":"daily","rate":"6/day","note":"n"},{"limit":"slots","max":3,"until":"` + now.Add(time.Hour).Format(time.RFC3339) + `"}],"other":{"a":[1]}}},
		{"at":"` + now.Add(-400*24*time.Hour).Format(time.RFC3339) + `","actor":"support","action":"subject.ban","application":"email","subject":"mallory","target":"15m","refused":"no","detail":null}],
		"next":"3"}`
	var b strings.Builder
	if err := showAudit(&b, []byte(body), now); err != nil {
		t.Fatal(err)
	}
	const want = `AT                WHO        ACTION       ON
03-09 12:00       bootstrap  policy.put   p.yaml
                  lines added 3, lines removed 1
03-09 11:59:59    sup?port   subject.put  email alice
                  plan premium, anchor 15, override daily 6/day always n,
                  override slots max 3 until 03-09 13:00, other {"a":[1]}
2025-02-02 12:00  support    subject.ban  email mallory
                  refused: no, 15m

There are more: --after=3 goes on.
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestPlainLines(t *testing.T) {
	if got, want := plainLines("a:\t1\r\nb: \x1b[31m\u202e2\n"), "a:\t1\nb: ?[31m?2\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestServerProblem(t *testing.T) {
	for in, want := range map[string]string{
		`{"detail":"a: wrong\u001b","errors":[{"pointer":"/a","detail":"wrong"}]}`:                                          "a: wrong?",
		`{"detail":"a: wrong, and 1 more","errors":[{"pointer":"/a/0","detail":"wrong"},{"pointer":"","detail":"\u0007"}]}`: "2 faults\n  a/0: wrong\n  ?",
	} {
		var p serverProblem
		if err := json.Unmarshal([]byte(in), &p); err != nil {
			t.Fatal(err)
		}
		if got := p.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
