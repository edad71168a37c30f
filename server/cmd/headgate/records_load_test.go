package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/store/pgstore/pgtest"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// heard is how soon every node must know what was written on one.
const heard = 2 * time.Second

// seenBy is what callers have seen of a node.
type seenBy struct {
	revision atomic.Int64 // the newest
	bans     atomic.Int64 // of mallory, one after the other
	expired  atomic.Int64 // answers to the token that is revoked, one after the other
	answers  atomic.Int64
}

// numbers is what a decision says of the policy that made it.
type numbers struct{ revision, rule, plan, app int64 }

// TestChangesUnderLoad: two nodes with records in PostgreSQL and limits in Redis, and 200
// requests in flight all the time. Changes of the policy, a rollback, a ban and the
// revocation of a token are in force on both within 2 s, and each request is decided by
// one revision as a whole.
func TestChangesUnderLoad(t *testing.T) {
	const master = "a-token-of-these-tests-long-enough"
	t.Setenv("HEADGATE_ADMIN_TOKEN", master)
	t.Setenv("HEADGATE_RECORDS", pgtest.Shared(t).Schema(t))
	store := redistest.Standalone(t).URL()
	nodes := []*process{
		startProcess(t, "--store", store, "--decision-auth", "token"),
		startProcess(t, "--store", store, "--decision-auth", "token"),
	}
	address := strings.TrimPrefix(nodes[0].url, "http://")
	// Revision n has n in every place where a request is limited.
	policyOf := func(n int64) string {
		rate := (1 + n) * 1_000_000
		return fmt.Sprintf(`{"version": 1, "plans": {"p": {"limits": [{"name": "plan", "rate": "%[1]d/h"}]}}, "applications": {"a": {"default_plan": "p",
			"limits": [{"name": "app", "rate": "%[1]d/h"}], "rules": [{"name": "r", "match": {"operation": "o"}, "limits": [{"name": "rule", "rate": "%[1]d/h"}]}]}}}`, rate)
	}
	of := map[int64]int64{} // the number in each revision
	put := func(n int64) (revision int64) {
		t.Helper()
		var made struct{ Revision int64 }
		answer := administer(t, address, master, "PUT", "/v1/policy", policyOf(n), 200)
		if err := json.Unmarshal([]byte(answer), &made); err != nil {
			t.Fatal(err)
		}
		of[made.Revision] = (1 + n) * 1_000_000
		return made.Revision
	}
	first := put(1)
	var spare struct{ ID, Token string }
	if err := json.Unmarshal([]byte(administer(t, address, master, "POST", "/v1/tokens", `{"name":"app","scopes":["decide"],"applications":["a"]}`, 201)), &spare); err != nil {
		t.Fatal(err)
	}

	var seen [2]seenBy
	var all sync.Map // numbers
	var over atomic.Bool
	ask := func(node int, token, subject string) {
		s := &seen[node]
		body := fmt.Sprintf(`{"application":"a","operation":"o","subject":%q}`, subject)
		r, err := http.NewRequest("POST", nodes[node].url+"/v1/take", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := nodes[node].http.Do(r)
		if err != nil {
			t.Error(err)
			over.Store(true)
			return
		}
		data, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		s.answers.Add(1)
		switch {
		case err != nil:
			t.Error(err)
		case token == spare.Token && answer.StatusCode != http.StatusOK: // wrong tokens are bounded: 401 or 429
			s.expired.Add(1)
			return
		case answer.StatusCode != http.StatusOK:
			t.Errorf("%s: %s", answer.Status, data)
			return
		case token == spare.Token:
			s.expired.Store(0)
		}
		var d struct {
			Revision int64  `json:"policy_revision"`
			Reason   string `json:"reason"`
			Degraded string `json:"degraded"`
			Limits   []struct {
				ID    string `json:"id"`
				Limit int64  `json:"limit"`
			} `json:"limits"`
		}
		if err := json.NewDecoder(bytes.NewReader(data)).Decode(&d); err != nil {
			t.Errorf("%v in %s", err, data)
			return
		}
		for old := s.revision.Load(); d.Revision > old && !s.revision.CompareAndSwap(old, d.Revision); old = s.revision.Load() {
		}
		switch {
		case d.Reason == "banned":
			s.bans.Add(1)
			return
		case subject == "mallory":
			s.bans.Store(0)
		}
		if d.Degraded != "" { // the machine is busy: a node's share has other numbers
			return
		}
		n := numbers{revision: d.Revision}
		for _, l := range d.Limits {
			switch l.ID {
			case "r/rule":
				n.rule = l.Limit
			case "plan/plan":
				n.plan = l.Limit
			case "app/app":
				n.app = l.Limit
			}
		}
		all.Store(n, true)
	}
	for _, p := range nodes {
		for start := time.Now(); ; <-time.After(time.Millisecond) {
			if p.seen("headgate_policy_revision", master) == fmt.Sprint(first) {
				break
			}
			if time.Since(start) > heard {
				t.Fatal("a node has not heard of the first policy")
			}
		}
	}
	var callers sync.WaitGroup
	for i := range 200 {
		callers.Go(func() {
			token, subject := master, fmt.Sprint("s", i)
			switch i / 2 % 10 {
			case 0:
				token = spare.Token
			case 1:
				subject = "mallory"
			}
			for !over.Load() {
				ask(i%2, token, subject)
			}
		})
	}
	defer callers.Wait()
	defer over.Store(true)
	// both waits until what was written when it was called is seen on both nodes.
	both := func(what string, is func(*seenBy) bool) {
		t.Helper()
		start := time.Now()
		for i := range seen {
			for !is(&seen[i]) {
				if time.Since(start) > heard || over.Load() {
					t.Fatalf("%s: not on node %d within %v", what, i+1, heard)
				}
				<-time.After(time.Millisecond)
			}
		}
		t.Logf("%s: on both nodes within %v", what, time.Since(start).Round(time.Millisecond))
	}
	both("the first policy", func(s *seenBy) bool { return s.revision.Load() == first })
	var newest int64
	for n := range int64(6) {
		newest = put(n + 2)
		both(fmt.Sprint("change ", n+1), func(s *seenBy) bool { return s.revision.Load() == newest })
	}
	administer(t, address, master, "POST", "/v1/policy/rollback", fmt.Sprintf(`{"revision":%d}`, first), 200)
	of[newest+1] = of[first]
	both("the rollback", func(s *seenBy) bool { return s.revision.Load() == newest+1 })
	// Those that were in flight are answered; from then on every one is refused.
	administer(t, address, master, "POST", "/v1/applications/a/subject/ban?subject=mallory", `{"for":"1h"}`, 200)
	both("the ban", func(s *seenBy) bool { return s.bans.Load() > 50 })
	administer(t, address, master, "DELETE", "/v1/tokens?id="+spare.ID, "", 200)
	both("the revocation", func(s *seenBy) bool { return s.expired.Load() > 50 })
	over.Store(true)
	callers.Wait()
	for i := range seen {
		if n := seen[i].answers.Load(); n < 1_000 {
			t.Errorf("node %d has answered only %d requests", i+1, n)
		}
	}
	revisions := map[int64]bool{}
	all.Range(func(k, _ any) bool {
		n := k.(numbers)
		revisions[n.revision] = true
		if want := of[n.revision]; n.rule != want || n.plan != want || n.app != want {
			t.Errorf("decided by half a policy: %+v, where all are %d", n, want)
		}
		return true
	})
	if len(revisions) < 2 { // each was seen on both nodes, but maybe decided by a node's share
		t.Errorf("only revisions %v have decided by the store", revisions)
	}
	for _, p := range nodes {
		p.stop()
	}
}
