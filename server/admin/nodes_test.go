package admin

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/server/journal"
	"github.com/headgate/headgate/server/records"
)

// full says something in every field.
func full(t *testing.T) NodeState {
	t.Helper()
	s := NodeState{
		Name: "b", Started: began, Version: "v1.2", Commit: "abc", HTTP: "127.0.0.1:8080", GRPC: "127.0.0.1:8081", RESP: "127.0.0.1:6380", Ready: true, PolicyRevision: 42, PolicyOK: true,
		Store: "redis", StoreUp: true, Breaker: "closed", Peers: 2, Leases: 3, LeaseTokens: 4, LeaseDecisions: 5, Keys: 6, MemoryBytes: 7, MemoryLimit: 8,
		Waiting: 9, Modes: 10, Records: "sqlite", RecordsOK: true, UsageRows: 11, UsageFailures: 12, DecisionsPerSecond: 13.5,
	}
	for i := range reflect.ValueOf(s).NumField() {
		if reflect.ValueOf(s).Field(i).IsZero() {
			t.Fatalf("%s says nothing", reflect.TypeFor[NodeState]().Field(i).Name)
		}
	}
	return s
}

const fullState = `"version":"v1.2","commit":"abc","http":"127.0.0.1:8080","grpc":"127.0.0.1:8081","resp":"127.0.0.1:6380","ready":true,"policy_revision":42,"policy_ok":true,"store":"redis","store_up":true,` +
	`"breaker":"closed","peers":2,"leases":3,"lease_tokens":4,"lease_decisions":5,"keys":6,"memory_bytes":7,"memory_limit":8,"waiting":9,"modes":10,` +
	`"records":"sqlite","records_ok":true,"usage_rows":11,"usage_failures":12,"decisions_per_second":13.5}`

// serveNodes makes the routes those of a node.
func (s *site) serveNodes(db *records.DB, node func() NodeState) {
	mux := http.NewServeMux()
	for pattern, h := range Routes(Config{Gate: s.gate, Journal: journal.New(journal.Config{}), Guard: s.guard, Records: db, Node: node}) {
		mux.Handle(pattern, h)
	}
	s.handler = mux
}

func TestNodes(t *testing.T) {
	s := newSite(t)
	state := full(t)
	detail, err := json.Marshal(&state)
	if err != nil {
		t.Fatal(err)
	}
	if want := "{" + fullState; string(detail) != want {
		t.Errorf("the detail of a node:\n got %s\nwant %s", detail, want)
	}
	for _, n := range []records.Node{
		{Name: "a", Started: began.Add(time.Hour), Detail: string(detail)}, {Name: "b", Started: began, Detail: `{"version":"old"}`},
		{Name: "c", Started: began, Detail: `{"version":3,"commit":"later","colour":"red"}`},
	} {
		if err := s.records.PutNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	s.serveNodes(s.records, nil)
	names := func(want string) {
		t.Helper()
		var list struct {
			Items []struct {
				Name        string
				Self, Alive bool
				Seen        time.Time
			}
		}
		w := s.as("emailer", "GET", "/v1/nodes", "")
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != 200 {
			t.Fatalf("%d, %v: %s", w.Code, err, w.Body)
		}
		var got []string
		for _, n := range list.Items {
			if !n.Alive || time.Since(n.Seen).Abs() > time.Minute {
				t.Errorf("%+v", n)
			}
			if n.Self {
				n.Name += "*"
			}
			got = append(got, n.Name)
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("nodes %s, want %s", got, want)
		}
	}
	names("a b c")
	s.do("GET", "/v1/nodes", "", 200, `{"items":[{"name":"a","self":false,"started":"2026-03-01T01:00:00Z","seen":"`, `"alive":true,`+fullState,
		`"version":"old"`, `"commit":"later"`, `],"next":null}`)
	s.serveNodes(s.records, func() NodeState { return state })
	names("a b* c")
	w := s.do("GET", "/v1/nodes", "", 200, `{"name":"b","self":true,"started":"2026-03-01T00:00:00Z","seen":"`)
	if strings.Contains(w.Body.String(), `"old"`) || strings.Count(w.Body.String(), fullState) != 2 {
		t.Error(w.Body)
	}
	if err := s.records.DeleteNode(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	names("a b* c") // it has only begun
	s.do("GET", "/v1/nodes?name=a", "", 400, `"field":"name"`, "unknown parameter")
	s.do("PUT", "/v1/nodes", "{}", 405, "use GET, HEAD")
	wantAnswer(t, s.as("nobody", "GET", "/v1/nodes", ""), 401)

	s.records.Close()
	names("b*")
	s.do("GET", "/v1/nodes", "", 200, `"records_ok":false`)
	s.serveNodes(nil, func() NodeState { return state })
	names("b*")
	s.do("GET", "/v1/nodes", "", 200, `"records_ok":true`)
	s.serveNodes(s.records, nil)
	s.do("GET", "/v1/nodes", "", 503, "records_unavailable")
}

// A node that was not heard of for long is not alive.
func TestNodeAlive(t *testing.T) {
	now := began
	for _, tt := range []struct {
		seen time.Duration
		want bool
	}{{0, true}, {time.Minute, true}, {-NodeAlive, true}, {-NodeAlive - time.Microsecond, false}} {
		n := records.Node{Name: "a", Seen: now.Add(tt.seen)}
		if got := nodeOf(&n, now).Alive; got != tt.want {
			t.Errorf("seen at %v: alive %v", tt.seen, got)
		}
	}
}
