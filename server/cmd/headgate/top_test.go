package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
)

func TestTop(t *testing.T) {
	o := newOffice(t)
	wants(t, 0, `^nobody has made a request since \d\d-\d\d \d\d:\d\d on node-1$`, "top")
	wants(t, 0, `^nobody was refused since`, "top", "--by", "denied")
	for i := range 14 {
		var d gate.Decision
		name := []string{"alice", "bob\x1b"}[i/12]
		if err := o.gate.Take(t.Context(), &gate.Request{Application: "email", Operation: "sendEmail", Subject: name}, &d); err != nil {
			t.Fatal(err)
		}
		o.meter.Count(&d)
	}
	wants(t, 0, `^REQUESTS  WHO    APPLICATION\n12        alice  email\n2         bob\?   email\n\nsince \d\d-\d\d \d\d:\d\d on node-1\n$`, "top")
	wants(t, 0, `^DENIED  WHO    APPLICATION\n2       alice  email\n\nsince`, "top", "--by", "denied", "--application", "email")
	wants(t, 0, `^COST  WHO    APPLICATION\n10    alice  email\n\nsince`, "top", "--by", "cost", "--limit", "1")
	wants(t, 0, `^\{"items":\[\{"application":"email","subject":"alice","count":12,"over":0\},`, "top", "--json")
	wants(t, 1, `^headgate: application: "mail" is not in the policy$`, "top", "--application", "mail")
	wants(t, 64, `^headgate: --by "size": must be requests, denied or cost$`, "top", "--by", "size")
	wants(t, 64, `^headgate: --limit 501: must be 1 to 500$`, "top", "--limit", "501")
	wants(t, 64, `^headgate: --limit 0: must be 1 to 500$`, "top", "--limit", "0")
	wants(t, 64, `^headgate: --watch 999ms: must be 1s or more$`, "top", "--watch", "999ms")
	wants(t, 64, `^headgate: --watch 0s: must be 1s or more$`, "top", "--watch", "0s")
	wants(t, 64, `^headgate: usage: headgate top`, "top", "alice")

	// It goes on until it is told to stop.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"top", "--watch", "1s", "--json"}, w, io.Discard) }()
	lines := bufio.NewScanner(r)
	for range 2 {
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), `{"items":[{"application":"email"`) {
			t.Errorf("%s, %v", lines.Text(), lines.Err())
		}
	}
	stop()
	go io.Copy(io.Discard, r)
	if code := <-ended; code != exitDone {
		t.Errorf("exit code %d", code)
	}

	var rough bytes.Buffer
	body := `{"items":[{"application":"","subject":"alice","count":12,"over":5}],"since":"2026-03-09T12:00:00Z","node":""}`
	if err := showTop(&rough, []byte(body), "requests", time.Date(2026, 3, 9, 12, 5, 0, 0, time.UTC)); err != nil || !strings.Contains(rough.String(), "7 to 12   alice  -\n") || !strings.Contains(rough.String(), "in bounds") {
		t.Errorf("%s, %v", rough.String(), err)
	}
}
