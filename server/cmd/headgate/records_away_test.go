package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/store/pgstore/pgtest"
)

// Decisions go on while the records are away, by what was known of them; what cannot be
// written down is refused in words; and usage counts once, whatever became of the answers.
func TestRecordsAway(t *testing.T) {
	const master = "a-token-of-these-tests-long-enough"
	t.Setenv("HEADGATE_ADMIN_TOKEN", master)
	db := pgtest.Standalone(t)
	t.Setenv("HEADGATE_RECORDS", db.URL())
	p := startProcess(t, "--store", "memory")
	address := strings.TrimPrefix(p.url, "http://")
	administer(t, address, master, "PUT", "/v1/policy",
		`{"version": 1, "applications": {"a": {"rules": [{"name": "r", "match": {"operation": "o"}, "limits": [{"name": "w", "rate": "1000000/h"}]}]}}}`, 200)
	administer(t, address, master, "POST", "/v1/applications/a/subject/ban?subject=mallory", `{"for":"1h"}`, 200)

	var over atomic.Bool
	var asked atomic.Int64
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for n := 0; !over.Load(); n++ {
				a, err := p.take("o", fmt.Sprint("s", i), "")
				if err != nil || !a.Allowed || a.Degraded != "" {
					t.Errorf("%+v, %v", a, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	defer callers.Wait()
	defer over.Store(true)
	// more waits until so many more requests are answered.
	more := func(n int64) {
		t.Helper()
		from := asked.Load()
		for start := time.Now(); asked.Load() < from+n; <-time.After(time.Millisecond) {
			if time.Since(start) > patience || t.Failed() {
				t.Fatalf("%d of %d requests were answered", asked.Load()-from, n)
			}
		}
	}
	up := func(is string) {
		t.Helper()
		for start := time.Now(); p.metric("headgate_records_up") != is; <-time.After(10 * time.Millisecond) {
			if time.Since(start) > patience {
				t.Fatalf("headgate_records_up is not %s", is)
			}
		}
	}
	more(500)
	for range 2 {
		db.Stop(t)
		up("0")
		more(500)
		administer(t, address, master, "PUT", "/v1/applications/a/subject?subject=s1", `{"note":"x"}`, http.StatusServiceUnavailable, "records_unavailable")
		if a, err := p.take("o", "mallory", ""); err != nil || a.Allowed || a.Reason != "banned" {
			t.Errorf("a ban is forgotten: %+v, %v", a, err)
		}
		db.Start(t)
		up("1")
		more(500)
	}
	over.Store(true)
	callers.Wait()
	p.stop() // the last usage is written then
	p = startProcess(t, "--store", "memory")
	address = strings.TrimPrefix(p.url, "http://")
	var usage struct {
		Items []struct {
			Subject         string
			Allowed, Denied int64
		}
	}
	answer := administer(t, address, master, "GET", "/v1/usage?application=a&period=day", "", 200)
	if err := json.Unmarshal([]byte(answer), &usage); err != nil {
		t.Fatal(err)
	}
	var allowed, denied int64
	for _, u := range usage.Items {
		allowed, denied = allowed+u.Allowed, denied+u.Denied
		if u.Subject == "mallory" && u.Denied != 2 {
			t.Errorf("mallory was refused %d times", u.Denied)
		}
	}
	if allowed != asked.Load() || denied != 2 {
		t.Errorf("%d allowed and %d denied are on record, it was %d and 2", allowed, denied, asked.Load())
	}
	p.stop()
}
