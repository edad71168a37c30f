package records

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// killed is the variable that makes this test's binary write until it is killed.
const killed = "HEADGATE_TEST_WRITES_TO"

// TestWriter is no test but the process that TestKill kills.
func TestWriter(t *testing.T) {
	url := os.Getenv(killed)
	if url == "" {
		return
	}
	d, err := Open(t.Context(), Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	reporter := fmt.Sprint("process ", os.Getpid())
	for i := 1; ; i++ {
		name := fmt.Sprintf("s%d", i)
		_, s, err := d.EditSubject(t.Context(), "email", name, Whatever, by("writer", "subject.put"), func(s *Subject) error {
			s.Known, s.Plan = true, "premium"
			return nil
		})
		if err == nil {
			_, err = d.AppendPolicy(t.Context(), Whatever, Policy{Document: name}, by("writer", "policy.put"))
		}
		rows := make([]Usage, 100) // whole or not at all
		for j := range rows {
			rows[j] = hourOf(fmt.Sprintf("u%d", j), 0, 1, 1)
		}
		if err == nil {
			err = d.Report(t.Context(), reporter, int64(i), rows)
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("done %d %d\n", i, s.Version)
	}
}

// kill runs the writer for some writes, kills it, and returns how many it has said to be
// done.
func kill(t *testing.T, url string, writes int) (done int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestWriter$")
	cmd.Env = append(os.Environ(), killed+"="+url)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "done "); ok {
			if _, err := fmt.Sscan(rest, &done); err != nil {
				t.Fatal(err)
			}
		} else {
			t.Errorf("the writer says %s", lines.Text())
		}
		if done == writes {
			cmd.Process.Kill() // lines go on until it is dead
		}
	}
	_ = cmd.Wait() // it was killed
	return done
}

// Nothing that was acknowledged is lost with kill -9, and nothing is half written.
func TestKill(t *testing.T) {
	for kind, url := range kinds {
		t.Run(kind, func(t *testing.T) {
			at := url(t)
			done, most, reports := 0, 0, int64(0)
			for life := range 3 {
				n := kill(t, at, 5+7*life)
				if n == 0 {
					t.Fatal("the writer has done nothing")
				}
				done += n
				d := open(t, at)
				ctx := t.Context()
				var half, audits, policies, subjects int
				count := func(n *int, query string) {
					t.Helper()
					if err := d.read.QueryRowContext(ctx, query).Scan(n); err != nil {
						t.Fatal(err)
					}
				}
				count(&half, `select count(*) from headgate_policy p where not exists (select 1 from headgate_audit a where a.id = p.seq and a.action = 'policy.put')`)
				count(&audits, `select count(*) from headgate_audit where action = 'policy.put'`)
				count(&policies, `select count(*) from headgate_policy`)
				count(&subjects, `select count(*) from headgate_subject s where exists (select 1 from headgate_audit a where a.id = s.seq)`)
				// The last write of each life may be there without its acknowledgement.
				if half != 0 || audits != policies || policies < done || policies > done+life+1 {
					t.Errorf("after life %d: %d policies, %d of them without their entries, %d entries, %d acknowledged", life, policies, half, audits, done)
				}
				if most = max(most, n); subjects < most {
					t.Errorf("%d subjects, %d acknowledged", subjects, most)
				}
				list, _, err := d.Usage(ctx, UsageQuery{Limit: 500})
				if err != nil || len(list) != 100 {
					t.Fatalf("%d rows, %v", len(list), err)
				}
				for _, u := range list {
					if u.Allowed != list[0].Allowed {
						t.Fatalf("half a report: %+v and %+v", u, list[0])
					}
				}
				if reports = list[0].Allowed; reports < int64(done) || reports > int64(done+life+1) {
					t.Errorf("%d reports are counted, %d acknowledged", reports, done)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A full disk refuses writes in a word, and leaves what there is.
func TestDiskFull(t *testing.T) {
	ctx := t.Context()
	d := open(t, kinds["sqlite"](t))
	if _, err := d.AppendPolicy(ctx, 0, Policy{Document: "kept"}, by("ann", "policy.put")); err != nil {
		t.Fatal(err)
	}
	var pages int
	if err := d.write.QueryRowContext(ctx, `pragma page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	limit := func(pages int) {
		t.Helper()
		if _, err := d.write.ExecContext(ctx, fmt.Sprintf(`pragma max_page_count = %d`, pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(pages + 2)
	big := strings.Repeat("x", 100_000)
	if _, err := d.AppendPolicy(ctx, 1, Policy{Document: big}, by("ann", "policy.put")); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("%v", err)
	}
	rows := make([]Usage, 900)
	for i := range rows {
		rows[i] = hourOf(fmt.Sprintf("%0500d", i), 0, 1, 1)
	}
	if err := d.Report(ctx, "a", 1, rows); err == nil {
		t.Error("reported onto a full disk")
	}
	if p, err := d.Policy(ctx, 0); err != nil || p.Document != "kept" {
		t.Errorf("%+v, %v", p, err)
	}
	if list, _, err := d.Audits(ctx, AuditQuery{Limit: 10}); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, _, err := d.Usage(ctx, UsageQuery{Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	limit(1 << 20)
	if _, err := d.AppendPolicy(ctx, 1, Policy{Document: big}, by("ann", "policy.put")); err != nil {
		t.Error(err)
	}
	if err := d.Report(ctx, "a", 1, rows); err != nil {
		t.Error(err)
	}
	if _, err := d.Subject(ctx, "email", "alice"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
