package follow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/records"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/pgstore/pgtest"
)

const text = `
version: 1
plans: {free: {limits: [{name: daily, algorithm: quota, rate: 10/day}]}, pro: {limits: [{name: daily, algorithm: quota, rate: 20/day}]}}
applications: {a: {default_plan: free, rules: [{name: r, match: {operation: x}}]}}
`

// node is one with a gate that follows records.
type node struct {
	t testing.TB
	*records.DB
	*gate.Gate
	*Follower
	log lines

	mu     sync.Mutex
	tokens map[string]bool // by id, whether it lives
}

type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newNode(t testing.TB, url string, pinned bool) *node {
	t.Helper()
	n := &node{t: t, tokens: make(map[string]bool)}
	log := slog.New(slog.NewTextHandler(&n.log, nil))
	var err error
	if n.DB, err = records.Open(t.Context(), records.Config{URL: url, Logger: log}); err != nil {
		t.Fatal(err)
	}
	if n.Gate, err = gate.Open(t.Context(), gate.Config{Policy: []byte(text), Store: memstore.New(memstore.Config{}), Logger: log}); err != nil {
		t.Fatal(err)
	}
	n.Follower = New(Config{Records: n.DB, Gate: n.Gate, Pinned: pinned, Logger: log, Tokens: func(list []records.Token, whole bool) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if whole {
			clear(n.tokens)
		}
		for _, k := range list {
			n.tokens[k.ID] = k.Revoked.IsZero()
		}
	}})
	if err := n.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var runs sync.WaitGroup
	runs.Go(func() { n.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		runs.Wait()
		if err := n.DB.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// says is what the gate answers for a subject, and what else the node knows.
func (n *node) says(subject string) string {
	var d gate.Decision
	if err := n.Peek(n.t.Context(), &gate.Request{Application: "a", Operation: "x", Subject: subject}, &d); err != nil {
		return err.Error()
	}
	limit := int64(0)
	for _, s := range d.Limits() {
		limit = s.Outcome.Limit
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("%v %s %d by %d, modes %d, tokens %v", d.Reason, d.Plan, limit, d.Revision, len(n.Modes()), n.tokens)
}

// comes waits until the node says so.
func (n *node) comes(subject, want string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	for n.says(subject) != want {
		if n.DB.Wait(ctx); ctx.Err() != nil {
			n.t.Fatalf("%s: %s, want %s\n%s", subject, n.says(subject), want, n.log.String())
		}
	}
}

var by = records.Entry{Actor: records.Actor{Name: "ann", Via: "api"}, Action: "x"}

func (n *node) put(s records.Subject) {
	n.t.Helper()
	s.Application = "a"
	if _, _, err := n.EditSubject(n.t.Context(), "a", s.Name, records.Whatever, by, func(x *records.Subject) error { *x = s; return nil }); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) revise(document string) int64 {
	n.t.Helper()
	p, err := n.AppendPolicy(n.t.Context(), records.Whatever, records.Policy{Document: document}, by)
	if err != nil {
		n.t.Fatal(err)
	}
	return p.Revision
}

// Two nodes see what is written on either.
func TestTwoNodes(t *testing.T) {
	for kind, url := range map[string]string{
		"sqlite":   "sqlite:" + filepath.Join(t.TempDir(), "records.db"),
		"postgres": pgtest.Shared(t).Schema(t),
	} {
		t.Run(kind, func(t *testing.T) {
			one, two := newNode(t, url, false), newNode(t, url, false)
			both := func(subject, want string) {
				t.Helper()
				one.comes(subject, want)
				two.comes(subject, want)
			}
			both("alice", "ok free 10 by 1, modes 0, tokens map[]")
			one.put(records.Subject{Name: "alice", Known: true, Plan: "pro"})
			both("alice", "ok pro 20 by 1, modes 0, tokens map[]")
			two.put(records.Subject{Name: "alice", Known: true, Overrides: json.RawMessage(`[{"limit":"plan/daily","rate":"77/day"}]`)})
			both("alice", "ok free 77 by 1, modes 0, tokens map[]")
			two.put(records.Subject{Name: "alice", Known: true, Ban: records.Ban{Until: time.Now().Add(time.Hour)}})
			both("alice", "banned  0 by 1, modes 0, tokens map[]")
			one.put(records.Subject{Name: "alice"})
			both("alice", "ok free 10 by 1, modes 0, tokens map[]")
			if _, err := one.CreateToken(t.Context(), records.Token{ID: "t1"}, by); err != nil {
				t.Fatal(err)
			}
			both("alice", "ok free 10 by 1, modes 0, tokens map[t1:true]")
			if _, err := two.RevokeToken(t.Context(), "t1", by); err != nil {
				t.Fatal(err)
			}
			if err := one.PutMode(t.Context(), records.Mode{Application: "a", Shadow: true, Until: time.Now().Add(time.Hour)}, by); err != nil {
				t.Fatal(err)
			}
			both("alice", "ok free 10 by 1, modes 1, tokens map[t1:false]")
			if n := one.revise(strings.Replace(text, "10/day", "30/day", 1)); n != 1 {
				t.Errorf("revision %d", n)
			}
			both("alice", "ok free 30 by 1, modes 1, tokens map[t1:false]")
			two.revise(strings.Replace(text, "10/day", "40/day", 1))
			both("alice", "ok free 40 by 2, modes 1, tokens map[t1:false]")

			// One that comes later, and one that has a policy of its own.
			newNode(t, url, false).comes("alice", "ok free 40 by 2, modes 1, tokens map[t1:false]")
			newNode(t, url, true).comes("alice", "ok free 10 by 1, modes 1, tokens map[t1:false]")
			if s := one.Follower.Status(); s.Err != nil || time.Since(s.At) > time.Minute {
				t.Errorf("%+v", s)
			}
		})
	}
}

// What cannot be understood is said, and the rest goes on.
func TestNotUnderstood(t *testing.T) {
	n := newNode(t, "sqlite:"+filepath.Join(t.TempDir(), "records.db"), false)
	n.revise("version: 2\n")
	n.put(records.Subject{Name: "alice", Known: true, Plan: "pro", Timezone: "Mars/Olympus", Overrides: json.RawMessage(`[{"limit":"plan/daily","rate":"77/fortnight"}]`)})
	if err := n.PutMode(t.Context(), records.Mode{Application: "gone", Until: time.Now().Add(time.Hour)}, by); err != nil {
		t.Fatal(err)
	}
	n.comes("alice", "ok pro 20 by 1, modes 0, tokens map[]")
	for _, want := range []string{"version 2 is not known here", "a policy on record cannot be put in force", "Mars/Olympus", "overrides on record cannot be read"} {
		if !strings.Contains(n.log.String(), want) {
			t.Errorf("no %q in\n%s", want, n.log.String())
		}
	}
}

// While the records are away decisions go on, and what changed meanwhile is seen after.
func TestAway(t *testing.T) {
	server := pgtest.Standalone(t)
	n := newNode(t, server.URL(), false)
	n.put(records.Subject{Name: "alice", Known: true, Plan: "pro"})
	n.comes("alice", "ok pro 20 by 1, modes 0, tokens map[]")
	server.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for n.Follower.Status().Err == nil {
		if n.DB.Wait(ctx); ctx.Err() != nil {
			t.Fatal("nobody has noticed")
		}
	}
	if got := n.says("alice"); got != "ok pro 20 by 1, modes 0, tokens map[]" {
		t.Errorf("while the records are away: %s", got)
	}
	server.Start(t)
	for ctx.Err() == nil {
		_, _, err := n.EditSubject(ctx, "a", "alice", records.Whatever, by, func(x *records.Subject) error { x.Plan = "free"; return nil })
		if err == nil {
			break
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	n.comes("alice", "ok free 10 by 1, modes 0, tokens map[]")
	for _, want := range []string{"records cannot be read", "records are read again"} {
		if strings.Count(n.log.String(), want) != 1 {
			t.Errorf("%q is said %d times in\n%s", want, strings.Count(n.log.String(), want), n.log.String())
		}
	}
}
