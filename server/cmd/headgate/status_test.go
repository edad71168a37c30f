package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/records"
)

func TestStatus(t *testing.T) {
	o := newOffice(t)
	wants(t, 0, `^NODE     UP       SEEN  VERSION  POLICY  STORE  BREAKER  LEASES  PER S\nnode-1\*  2 d 2 h  now   v1.0.0   7       redis  closed   3       12.3\n\nno override is in force: .*\n\nnothing needs attention\n$`, "status")
	if err := o.gate.SetMode(gate.Mode{Application: "email", Shadow: true, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	other := o.node
	other.PolicyRevision, other.Breaker, other.Store = 6, "", "memory"
	detail, err := json.Marshal(&other)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.records.PutNode(t.Context(), records.Node{Name: "node-0", Started: time.Now().Add(-90 * time.Second), Detail: string(detail)}); err != nil {
		t.Fatal(err)
	}
	o.node.UsageFailures, o.node.UsageRows = 3, 12
	wants(t, 0, `^node-0 .* 6 +memory  -  `, "status")
	wants(t, 0, `^email        \(all\)  shadow  \d\d-\d\d `, "status")
	wants(t, 0, `^Needs attention:\n  - node-1: usage could not be put on record 3 times in a row; 12 rows wait\.\n  - The nodes are on different revisions of the policy: 6 on node-0; 7 on\n    node-1\. A change takes 2 s`, "status")
	out, _ := runVerb(t, 0, "status", "--json")
	var got struct {
		Nodes, Modes []map[string]any
		Attention    []string
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Nodes) != 2 || len(got.Modes) != 1 || len(got.Attention) != 2 || got.Nodes[1]["policy_revision"] != 7.0 {
		t.Errorf("%s, %v", out, err)
	}
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, `{"nodes":[{"name":"node-0",`) {
			t.Error(line)
		}
	}
	o.records.Close()
	wants(t, 0, `node-1: cannot reach its records \(sqlite\)\. Decisions go on`, "status")
	wants(t, 64, `^headgate: usage: headgate status`, "status", "node-1")
	t.Setenv("HEADGATE_SERVER", "127.0.0.1:1")
	wants(t, 1, `^headgate: no server at 127.0.0.1:1`, "status", "--json")
}

func TestUp(t *testing.T) {
	now := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)
	for since, want := range map[time.Duration]string{
		-time.Hour: "0 ms", 999 * time.Millisecond: "999 ms", 59*time.Second + 1: "59 s", 59*time.Minute + 59*time.Second: "59 min",
		23*time.Hour + 59*time.Minute: "23 h", 50*time.Hour + time.Minute: "2 d 2 h",
	} {
		n := nodeLine{Started: now.Add(-since)}
		if got := n.up(now); got != want {
			t.Errorf("%v: %s, want %s", since, got, want)
		}
	}
}

// What a node says that is not as it should be is told, and nothing else.
func TestComplaints(t *testing.T) {
	now := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)
	well := func() *nodeLine {
		return &nodeLine{Name: "a\x1b", Alive: true, Seen: now, NodeState: admin.NodeState{
			Ready: true, PolicyOK: true, PolicyRevision: 7, Store: "redis", StoreUp: true, Breaker: "closed", Records: "postgres", RecordsOK: true,
			MemoryBytes: 94 << 20, MemoryLimit: 100 << 20, UsageRows: 100,
		}}
	}
	if list := well().complaints(now); list != nil {
		t.Errorf("of a node that is well: %q", list)
	}
	for want, change := range map[string]func(*nodeLine){
		"a?: was not heard of for 3 min. It has ended":                 func(n *nodeLine) { n.Alive, n.StoreUp, n.Seen = false, false, now.Add(-3*time.Minute) },
		"a?: its store (redis) is away. Limits do":                     func(n *nodeLine) { n.StoreUp, n.Breaker = false, "half_open" },
		"a?: its store (redis) was away, and is tried again.":          func(n *nodeLine) { n.Breaker = "half_open" },
		"a?: is not ready.":                                            func(n *nodeLine) { n.Ready = false },
		"a?: the last policy that it was given has faults; revision 7": func(n *nodeLine) { n.PolicyOK = false },
		"a?: cannot reach its records (postgres).":                     func(n *nodeLine) { n.RecordsOK = false },
		"a?: usage could not be put on record once; 1 row waits.":      func(n *nodeLine) { n.UsageFailures, n.UsageRows = 1, 1 },
		"a?: its memory for state is full to 95 % of 100.0 MiB.":       func(n *nodeLine) { n.MemoryBytes = 95 << 20 },
	} {
		n := well()
		change(n)
		if list := n.complaints(now); len(list) != 1 || !strings.HasPrefix(list[0], want) {
			t.Errorf("%q, want %q", list, want)
		}
	}
}

// Nodes that have ended may have had another policy.
func TestStatusRevisions(t *testing.T) {
	for alive, want := range map[string]int{"true": 1, "false": 0} {
		s := status{nodes: []byte(`{"items":[{"name":"a","alive":true,"policy_revision":3},{"name":"b","alive":` + alive + `,"policy_revision":2}]}`)}
		if err := s.read(time.Now()); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, a := range s.attention {
			if strings.HasPrefix(a, "The nodes are on different revisions of the policy: 2 on b; 3 on a.") {
				n++
			}
		}
		if n != want {
			t.Errorf("alive %s: %q", alive, s.attention)
		}
	}
}
