package records

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// A sweep that meets a write of the same subject waits for it, and leaves what it wrote.
func TestSweepMeetsWrite(t *testing.T) {
	server := pgtest.Shared(t)
	at := server.Schema(t)
	d := open(t, at)
	ctx := context.WithoutCancel(t.Context())
	edit := func(do func(*Subject)) error {
		_, _, err := d.EditSubject(ctx, "email", "bob", Whatever, by("ann", "subject.put"), func(s *Subject) error { do(s); return nil })
		return err
	}
	if err := errors.Join(edit(func(s *Subject) { s.Known = true }), edit(func(s *Subject) { *s = Subject{} })); err != nil {
		t.Fatal(err)
	}
	if _, err := d.write.ExecContext(ctx, `update headgate_subject set changed = $1`, micros(now().Add(-2*traceLife))); err != nil {
		t.Fatal(err)
	}
	reached, goOn := make(chan struct{}), make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		if err := edit(func(s *Subject) { s.Known = true; close(reached); <-goOn }); err != nil {
			t.Error(err)
		}
	})
	<-reached
	work.Go(func() {
		if err := d.Sweep(ctx, Retention{}); err != nil {
			t.Error(err)
		}
	})
	pgtest.Wait(t, "the sweep waits", func() error {
		if server.Int(t, at, `select count(*) from pg_locks where not granted`) == 0 {
			return errors.New("nobody waits")
		}
		return nil
	})
	close(goOn)
	work.Wait()
	if _, err := d.Subject(ctx, "email", "bob"); err != nil {
		t.Errorf("what was written is gone: %v", err)
	}
}

// A database that was restored, and has been written to as often since, is read anew.
func TestRestoredAndPassed(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		put := func(names ...string) {
			t.Helper()
			for _, name := range names {
				if _, _, err := d.EditSubject(ctx, "email", name, Whatever, by("ann", "subject.put"), func(s *Subject) error { s.Known = true; return nil }); err != nil {
					t.Fatal(err)
				}
			}
		}
		put("a", "b", "c", "d")
		at := new(Cursor)
		if v, err := d.Next(ctx, at); err != nil || len(v.Subjects) != 4 {
			t.Fatalf("%+v, %v", v, err)
		}
		if v, err := d.Next(ctx, at); err != nil || v.Whole || len(v.Subjects) != 0 {
			t.Fatalf("nothing has changed: %+v, %v", v, err)
		}
		for _, statement := range []string{`delete from headgate_subject where seq > 1`, `delete from headgate_audit where id > 1`, `update headgate_feed set seq = 1`} {
			if _, err := d.write.ExecContext(ctx, statement); err != nil {
				t.Fatal(err)
			}
		}
		put("w", "x", "y", "z")
		if v, err := d.Next(ctx, at); err != nil || !v.Whole || len(v.Subjects) != 5 {
			t.Errorf("whole %t, %d subjects, %v", v.Whole, len(v.Subjects), err)
		}
	})
}
