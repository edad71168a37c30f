package records

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/store/pgstore/pgtest"

	"github.com/headgate/headgate/internal/racetest"
)

// kinds opens a new database of each kind.
var kinds = map[string]func(t testing.TB) string{
	"postgres": func(t testing.TB) string { return pgtest.Shared(t).Schema(t) },
	"sqlite": func(t testing.TB) string {
		return "sqlite:" + filepath.Join(t.TempDir(), "in a %2f?#dir", "records.db")
	},
}

func open(t testing.TB, url string) *DB {
	t.Helper()
	d, err := Open(t.Context(), Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// each runs a test over every kind of database.
func each(t *testing.T, test func(t *testing.T, d *DB)) {
	for kind, url := range kinds {
		t.Run(kind, func(t *testing.T) { test(t, open(t, url(t))) })
	}
}

func by(name, action string) Entry {
	return Entry{Actor: Actor{Name: name, Via: "api", Address: "192.0.2.1"}, Action: action}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(x T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
}

func want(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

func TestPolicies(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		if _, err := d.Policy(ctx, 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("newest of none: %v", err)
		}
		for i, base := range []int64{0, 1, Whatever} {
			p := must[Policy](t)(d.AppendPolicy(ctx, base, Policy{Note: "n", Document: fmt.Sprint("document ", i+1)}, by("ann", "policy.put")))
			if p.Revision != int64(i+1) || p.Author != "ann" || p.Via != "api" || time.Since(p.At) > time.Minute {
				t.Errorf("%+v", p)
			}
			want(t, "read again", must[Policy](t)(d.Policy(ctx, p.Revision)), p)
			want(t, "the newest", must[Policy](t)(d.Policy(ctx, 0)), p)
		}
		for _, base := range []int64{0, 2, 4} {
			if _, err := d.AppendPolicy(ctx, base, Policy{}, by("ann", "policy.put")); !errors.Is(err, ErrStale) {
				t.Errorf("on %d: %v", base, err)
			}
		}
		list, more, err := d.Policies(ctx, 0, 2)
		if err != nil || !more || len(list) != 2 || list[0].Revision != 3 || list[1].Revision != 2 || list[0].Document != "" {
			t.Errorf("%+v, %v, %v", list, more, err)
		}
		list, more, err = d.Policies(ctx, 2, 2)
		if err != nil || more || len(list) != 1 || list[0].Revision != 1 {
			t.Errorf("%+v, %v, %v", list, more, err)
		}
		if audits, _, err := d.Audits(ctx, AuditQuery{Limit: 10}); err != nil || len(audits) != 3 {
			t.Errorf("what was refused is in the audit log, or what was done is not: %+v, %v", audits, err)
		}
	})
}

func TestSubject(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		if _, err := d.Subject(ctx, "email", "alice"); !errors.Is(err, ErrNotFound) {
			t.Errorf("nobody: %v", err)
		}
		until := now().Add(time.Hour)
		full := Subject{
			Known: true, Plan: "premium", Timezone: "Asia/Kathmandu", Anchor: 31, Note: `a "note" of Æ`,
			Overrides: json.RawMessage(`[{"limit":"plan/daily","rate":"5000/day","until":"2026-12-27T00:00:00Z"},{"limit":"x/slots","max":"unlimited"}]`),
			Ban:       Ban{Until: until, Reason: "spam"},
		}
		edit := func(version int64, to Subject) (was, is Subject, err error) {
			return d.EditSubject(ctx, "email", "alice", version, by("ann", "subject.put"), func(s *Subject) error { *s = to; return nil })
		}
		if _, _, err := edit(7, full); !errors.Is(err, ErrStale) {
			t.Errorf("a version of nobody: %v", err)
		}
		was, is, err := edit(0, full)
		if err != nil || was.Version != 0 || is.Version == 0 || is.Author != "ann" {
			t.Fatalf("%+v, %+v, %v", was, is, err)
		}
		got := must[Subject](t)(d.Subject(ctx, "email", "alice"))
		want(t, "read again", got, is)
		full.Application, full.Name, full.Version, full.Changed, full.Author = "email", "alice", is.Version, is.Changed, "ann"
		want(t, "as written", got, full)
		for _, version := range []int64{0, is.Version + 1, is.Version - 1} {
			if _, _, err := edit(version, Subject{}); !errors.Is(err, ErrStale) {
				t.Errorf("version %d: %v", version, err)
			}
		}
		if _, _, err := edit(is.Version, Subject{Known: true, Overrides: json.RawMessage(`[{`)}); err == nil {
			t.Error("half of an override was written")
		}
		refuse := errors.New("no")
		if _, _, err := d.EditSubject(ctx, "email", "alice", Whatever, by("ann", "x"), func(s *Subject) error { s.Plan = "free"; return refuse }); err != refuse {
			t.Errorf("refused: %v", err)
		}
		want(t, "after a refusal", must[Subject](t)(d.Subject(ctx, "email", "alice")), is)
		if _, after, err := edit(is.Version, Subject{Ban: full.Ban}); err != nil || after.Known || after.Plan != "" {
			t.Errorf("a mere ban: %+v, %v", after, err)
		}
		if _, after, err := edit(Whatever, Subject{}); err != nil || !after.gone() {
			t.Errorf("deleted: %+v, %v", after, err)
		}
		if _, err := d.Subject(ctx, "email", "alice"); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleted: %v", err)
		}
		if _, _, err := edit(Whatever, Subject{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleted twice: %v", err)
		}
		if _, again, err := edit(0, Subject{Known: true}); err != nil || again.Plan != "" {
			t.Errorf("anew: %+v, %v", again, err)
		}
	})
}

func TestSubjects(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		names := []string{"a", "a%", "a_", "ab", "abc", "b", "B", "Ä", "ä", "\U0010ffff", "\U0010ffffx", "\ud7ff", "\ue000", strings.Repeat("x", 512)}
		for i, name := range names {
			s := Subject{Application: "email", Name: name, Known: i%3 != 0, Plan: []string{"", "free", "premium"}[i%3]}
			if !s.Known {
				s.Ban.Until = now().Add(time.Duration(i+1) * time.Hour)
			}
			if err := d.PutSubjects(ctx, []Subject{s, {Application: "web", Name: name, Known: true}}, by("ann", "subject.import")); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(names)
		all := func(q SubjectQuery) (found []string) {
			q.Application = "email"
			for range 100 {
				list, more, err := d.Subjects(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range list {
					found = append(found, s.Name)
				}
				if !more {
					return found
				}
				q.After = found[len(found)-1]
			}
			t.Fatal("no end")
			return nil
		}
		for limit := 1; limit < 5; limit++ {
			want(t, "all", all(SubjectQuery{Limit: limit}), names)
			for _, prefix := range []string{"a", "ab", "a%", "a_", "A", "ä", "\U0010ffff", "\ud7ff"} {
				expected := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, prefix) })
				want(t, fmt.Sprintf("prefix %q", prefix), all(SubjectQuery{Prefix: prefix, Limit: limit}), expected)
			}
		}
		if n := len(all(SubjectQuery{Plan: "premium", Limit: 2})); n != 4 {
			t.Errorf("%d on premium", n)
		}
		if n := len(all(SubjectQuery{Banned: now().Add(5 * time.Hour), Limit: 2})); n != 3 {
			t.Errorf("%d banned", n)
		}
		for _, tt := range []struct {
			application, plan string
			want              int64
		}{{"", "", 28}, {"email", "", 14}, {"", "premium", 4}, {"email", "premium", 4}, {"web", "premium", 0}, {"web", "", 14}, {"nope", "", 0}, {"", "nope", 0}} {
			if n, err := d.CountSubjects(ctx, tt.application, tt.plan); err != nil || n != tt.want {
				t.Errorf("%d of %q on %q, %v: want %d", n, tt.application, tt.plan, err, tt.want)
			}
		}
		// Who is forgiven, or was deleted, is not counted.
		mallory := []Subject{{Application: "gone", Name: "mallory", Plan: "free", Ban: Ban{Until: now().Add(time.Hour)}}}
		if err := d.PutSubjects(ctx, mallory, by("ann", "subject.import")); err != nil {
			t.Fatal(err)
		}
		if n, err := d.CountSubjects(ctx, "gone", "free"); err != nil || n != 0 {
			t.Errorf("%d who are banned have a plan, %v", n, err)
		}
		if _, _, err := d.EditSubject(ctx, "gone", "mallory", Whatever, by("ann", "subject.unban"), func(s *Subject) error { *s = Subject{}; return nil }); err != nil {
			t.Fatal(err)
		}
		if n, err := d.CountSubjects(ctx, "gone", ""); err != nil || n != 0 {
			t.Errorf("%d are on record, %v", n, err)
		}
		if err := d.PutSubjects(ctx, []Subject{{Application: "web", Name: "new", Known: true}, {Application: "web", Name: "nothing"}}, by("ann", "x")); !errors.Is(err, ErrNotFound) {
			t.Errorf("nothing: %v", err)
		}
		if _, err := d.Subject(ctx, "web", "new"); !errors.Is(err, ErrNotFound) {
			t.Errorf("half of a batch was written: %v", err)
		}
	})
}

func TestTokens(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		first := Token{ID: "t1", Name: "CI", Scopes: []Scope{Decide, Read}, Applications: []string{"email", "web"}, Digest: [32]byte{1, 2, 31: 3}, Expires: now().Add(time.Hour)}
		first = must[Token](t)(d.CreateToken(ctx, first, by("ann", "token.create")))
		second := must[Token](t)(d.CreateToken(ctx, Token{ID: "t2", Scopes: []Scope{Admin}, Digest: [32]byte{9}}, by("ann", "token.create")))
		if _, err := d.CreateToken(ctx, Token{ID: "t3", Digest: first.Digest}, by("ann", "token.create")); err == nil {
			t.Error("two tokens have one digest")
		}
		want(t, "t1", must[Token](t)(d.Token(ctx, "t1")), first)
		list, more, err := d.Tokens(ctx, "", 1)
		want(t, "page 1", fmt.Sprint(list, more, err), fmt.Sprint([]Token{first}, true, nil))
		list, more, err = d.Tokens(ctx, "t1", 1)
		want(t, "page 2", fmt.Sprint(list, more, err), fmt.Sprint([]Token{second}, false, nil))
		revoked := must[Token](t)(d.RevokeToken(ctx, "t1", by("bob", "token.revoke")))
		if revoked.Revoked.IsZero() || revoked.Author != "ann" || revoked.Version <= second.Version {
			t.Errorf("%+v", revoked)
		}
		want(t, "revoked", must[Token](t)(d.Token(ctx, "t1")), revoked)
		for _, id := range []string{"t1", "t9"} {
			if _, err := d.RevokeToken(ctx, id, by("bob", "token.revoke")); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", id, err)
			}
		}
	})
}

func TestAudits(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		start := now()
		for i, e := range []Entry{
			{Actor: Actor{"ann", "cli", "192.0.2.1"}, Action: "subject.put", Application: "email", Subject: "alice", Detail: `{"plan":["free","premium"]}`},
			{Actor: Actor{"bob", "api", ""}, Action: "subject.ban", Application: "email", Subject: "mallory"},
			{Actor: Actor{"", "api", "192.0.2.9"}, Action: "login", Refused: "wrong token"},
			{Actor: Actor{"ann", "file", ""}, Action: "policy.put", Target: "revision 2"},
		} {
			if err := d.Audit(ctx, e); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
		}
		if err := d.Audit(ctx, Entry{Detail: `{"half":`}); err == nil {
			t.Error("a detail that is no JSON was written")
		}
		for _, tt := range []struct {
			query AuditQuery
			want  []int64
		}{
			{AuditQuery{}, []int64{4, 3, 2, 1}},
			{AuditQuery{Application: "email"}, []int64{2, 1}},
			{AuditQuery{Subject: "alice"}, []int64{1}},
			{AuditQuery{Actor: "ann"}, []int64{4, 1}},
			{AuditQuery{Action: "subject."}, []int64{2, 1}},
			{AuditQuery{Action: "subject"}, nil},
			{AuditQuery{Action: "login"}, []int64{3}},
			{AuditQuery{Before: 3}, []int64{2, 1}},
			{AuditQuery{Since: start}, []int64{4, 3, 2, 1}},
			{AuditQuery{Since: now().Add(time.Second)}, nil},
		} {
			tt.query.Limit = 10
			list, more, err := d.Audits(ctx, tt.query)
			var ids []int64
			for _, e := range list {
				ids = append(ids, e.ID)
			}
			if !slices.Equal(ids, tt.want) || more || err != nil {
				t.Errorf("%+v: %v, %v, %v", tt.query, ids, more, err)
			}
		}
		list, more, err := d.Audits(ctx, AuditQuery{Before: 2, Limit: 1})
		if err != nil || more || len(list) != 1 {
			t.Fatalf("%+v, %v, %v", list, more, err)
		}
		e := list[0]
		if e.At.Before(start) || e.Name != "ann" || e.Via != "cli" || e.Address != "192.0.2.1" || e.Detail != `{"plan":["free","premium"]}` {
			t.Errorf("%+v", e)
		}
		if _, more, _ = d.Audits(ctx, AuditQuery{Limit: 3}); !more {
			t.Error("there are four")
		}
	})
}

// mirror is what a reader of the feed knows.
type mirror struct {
	cursor   Cursor
	revision int64
	subjects map[string]Subject
	tokens   map[string]Token
	modes    map[string]Mode
	views    int // that were not empty
}

// follow reads until there is nothing new.
func (m *mirror) follow(t testing.TB, d *DB) {
	t.Helper()
	for {
		v := must[View](t)(d.Next(t.Context(), &m.cursor))
		if v.Whole {
			*m = mirror{cursor: m.cursor, views: m.views, subjects: map[string]Subject{}, tokens: map[string]Token{}, modes: map[string]Mode{}}
		}
		if v.Policy != nil {
			m.revision = v.Policy.Revision
		}
		for _, s := range v.Subjects {
			if delete(m.subjects, s.Name); !s.gone() {
				m.subjects[s.Name] = s
			}
		}
		for _, k := range v.Tokens {
			m.tokens[k.ID] = k
		}
		for _, x := range v.Modes {
			m.modes[x.Application+"/"+x.Rule] = x
		}
		if v.Policy != nil || len(v.Subjects)+len(v.Tokens)+len(v.Modes) > 0 {
			m.views++
		}
		if !v.More {
			return
		}
	}
}

func TestFeed(t *testing.T) {
	racetest.Alone(t)
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		var m mirror
		m.follow(t, d)
		put := func(from, to int, plan string) {
			var list []Subject
			for i := from; i < to; i++ {
				list = append(list, Subject{Application: "email", Name: fmt.Sprintf("s%06d", i), Known: plan != "", Plan: plan})
				if plan == "" {
					list[len(list)-1].Ban.Until = now().Add(time.Hour)
				}
			}
			if err := d.PutSubjects(ctx, list, by("ann", "subject.import")); err != nil {
				t.Fatal(err)
			}
		}
		put(0, viewPage+3, "free")
		must[Policy](t)(d.AppendPolicy(ctx, 0, Policy{Document: "a"}, by("ann", "policy.put")))
		must[Token](t)(d.CreateToken(ctx, Token{ID: "t1"}, by("ann", "token.create")))
		if err := d.PutMode(ctx, Mode{Application: "email", Shadow: true, Until: now()}, by("ann", "mode.put")); err != nil {
			t.Fatal(err)
		}
		check := func(what string, m *mirror, subjects int, revision int64) {
			t.Helper()
			if len(m.subjects) != subjects || m.revision != revision || len(m.tokens) != 1 || len(m.modes) != 1 {
				t.Errorf("%s: %d subjects, revision %d, %d tokens, %d modes", what, len(m.subjects), m.revision, len(m.tokens), len(m.modes))
			}
		}
		m.follow(t, d)
		check("changes", &m, viewPage+3, 1)
		var late mirror
		late.follow(t, d)
		check("all there is", &late, viewPage+3, 1)
		views := m.views
		m.follow(t, d)
		if m.views != views {
			t.Error("nothing was written, and a view tells of something")
		}

		put(5, 10, "premium")
		must[Policy](t)(d.AppendPolicy(ctx, 1, Policy{Document: "b"}, by("ann", "policy.put")))
		if _, _, err := d.EditSubject(ctx, "email", "s000000", Whatever, by("ann", "subject.delete"), func(s *Subject) error { *s = Subject{}; return nil }); err != nil {
			t.Fatal(err)
		}
		revoked := must[Token](t)(d.RevokeToken(ctx, "t1", by("ann", "token.revoke")))
		m.follow(t, d)
		check("more changes", &m, viewPage+2, 2)
		if m.views != views+1 {
			t.Errorf("%d views for a few changes", m.views-views)
		}
		want(t, "the token", m.tokens["t1"], revoked)
		if m.subjects["s000005"].Plan != "premium" || m.subjects["s000011"].Plan != "free" {
			t.Error("a change is not as it was written")
		}
	})
}

// TestFeedWhileWritten reads page by page while what is read changes.
func TestFeedWhileWritten(t *testing.T) {
	racetest.Alone(t)
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		var list []Subject
		for i := range 2*viewPage + 5 {
			list = append(list, Subject{Application: "email", Name: fmt.Sprintf("s%06d", i), Known: true, Plan: "free"})
		}
		if err := d.PutSubjects(ctx, list, by("ann", "subject.import")); err != nil {
			t.Fatal(err)
		}
		m := mirror{subjects: map[string]Subject{}, tokens: map[string]Token{}, modes: map[string]Mode{}}
		v := must[View](t)(d.Next(ctx, &m.cursor))
		if !v.Whole || !v.More || len(v.Subjects) != viewPage {
			t.Fatalf("%v, %v, %d", v.Whole, v.More, len(v.Subjects))
		}
		for _, s := range v.Subjects {
			m.subjects[s.Name] = s
		}
		// Behind the page, on the last page, and one that goes before it comes.
		for name, to := range map[string]Subject{"s000001": {Known: true, Plan: "premium"}, fmt.Sprintf("s%06d", 2*viewPage+1): {Known: true, Plan: "premium"}, fmt.Sprintf("s%06d", 2*viewPage+2): {}} {
			if _, _, err := d.EditSubject(ctx, "email", name, Whatever, by("ann", "x"), func(s *Subject) error { *s = to; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		m.follow(t, d)
		m.follow(t, d)
		if len(m.subjects) != 2*viewPage+4 || m.subjects["s000001"].Plan != "premium" || m.subjects[fmt.Sprintf("s%06d", 2*viewPage+1)].Plan != "premium" {
			t.Errorf("%d subjects", len(m.subjects))
		}
	})
}

func TestSweep(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		ctx := t.Context()
		var early mirror
		early.follow(t, d)
		if err := d.PutSubjects(ctx, []Subject{{Application: "email", Name: "a", Known: true}, {Application: "email", Name: "b", Known: true}}, by("ann", "x")); err != nil {
			t.Fatal(err)
		}
		early.follow(t, d)
		if _, _, err := d.EditSubject(ctx, "email", "a", Whatever, by("ann", "x"), func(s *Subject) error { *s = Subject{}; return nil }); err != nil {
			t.Fatal(err)
		}
		if err := d.PutMode(ctx, Mode{Until: now().Add(-deadLife - time.Hour)}, by("ann", "x")); err != nil {
			t.Fatal(err)
		}
		old := must[Token](t)(d.CreateToken(ctx, Token{ID: "old", Expires: now().Add(-deadLife - time.Hour)}, by("ann", "x")))
		rows := func(what string) (n int) {
			if err := d.read.QueryRowContext(ctx, `select count(*) from `+what).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if err := d.Sweep(ctx, Retention{}); err != nil {
			t.Fatal(err)
		}
		if rows("headgate_subject") != 2 || rows("headgate_mode") != 0 || rows("headgate_token") != 0 || rows("headgate_audit") != 4 {
			t.Errorf("swept too much or too little; token %s", old.ID)
		}
		if _, err := d.write.ExecContext(ctx, `update headgate_subject set changed = $1 where name = 'a'`, micros(now().Add(-traceLife-time.Minute))); err != nil {
			t.Fatal(err)
		}
		if err := d.Sweep(ctx, Retention{Audit: time.Nanosecond}); err != nil {
			t.Fatal(err)
		}
		if rows("headgate_subject") != 1 || rows("headgate_audit") != 0 {
			t.Error("not swept")
		}
		if len(early.subjects) != 2 {
			t.Fatalf("%d subjects", len(early.subjects))
		}
		early.follow(t, d) // it has not heard of the deletion, whose trace is gone
		if len(early.subjects) != 1 {
			t.Errorf("who was deleted is still known: %v", early.subjects)
		}
	})
}

func TestWait(t *testing.T) {
	each(t, func(t *testing.T, d *DB) {
		heard := d.heard()
		if err := d.Audit(t.Context(), Entry{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
		default:
			t.Error("a write was not heard of")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		d.Wait(ctx)
	})
}
