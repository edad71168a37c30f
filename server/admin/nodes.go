package admin

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/records"
)

// NodeState is what a node says of itself. As JSON it is the Detail of a [records.Node],
// without what that has fields for.
type NodeState struct {
	// Name is that of its [records.Node], and Started when it began.
	Name    string    `json:"-"`
	Started time.Time `json:"-"`

	Version string `json:"version"`
	Commit  string `json:"commit"`
	// HTTP, GRPC and RESP are the addresses of its doors, "" for those that are turned off.
	HTTP string `json:"http"`
	GRPC string `json:"grpc"`
	RESP string `json:"resp"`
	// Ready says that it decides as it should.
	Ready bool `json:"ready"`
	// PolicyRevision is the policy in force, and PolicyOK whether the last one that it was
	// given is.
	PolicyRevision uint64 `json:"policy_revision"`
	PolicyOK       bool   `json:"policy_ok"`
	// Store is the kind of its store, such as redis, and StoreUp whether it is asked.
	Store   string `json:"store"`
	StoreUp bool   `json:"store_up"`
	// Breaker is closed, half_open or open; "" where there is none.
	Breaker string `json:"breaker"`
	// Peers are the nodes that share the store, this one among them; 0 where it is not
	// shared.
	Peers int `json:"peers"`
	// Leases are held at present, LeaseTokens are in them, and LeaseDecisions were made
	// out of them since the start.
	Leases         int64  `json:"leases"`
	LeaseTokens    int64  `json:"lease_tokens"`
	LeaseDecisions uint64 `json:"lease_decisions"`
	// Keys are those whose state is in memory.
	Keys        int64 `json:"keys"`
	MemoryBytes int64 `json:"memory_bytes"`
	MemoryLimit int64 `json:"memory_limit"`
	// Waiting are requests that stand in line.
	Waiting int64 `json:"waiting"`
	// Modes is how many overrides of modes are in force.
	Modes int `json:"modes"`
	// Records is their kind, such as sqlite, and RecordsOK whether they can be read.
	Records   string `json:"records"`
	RecordsOK bool   `json:"records_ok"`
	// UsageRows wait to be put on record. UsageFailures are attempts that have failed since
	// the last that has not.
	UsageRows     int64 `json:"usage_rows"`
	UsageFailures int64 `json:"usage_failures"`
	// DecisionsPerSecond is the mean of the last seconds.
	DecisionsPerSecond float64 `json:"decisions_per_second"`
}

// NodeAlive is how long after it was last heard of a node counts as alive.
const NodeAlive = 15 * time.Second

// nodeItem is a node, on the wire.
type nodeItem struct {
	Name    string    `json:"name"`
	Self    bool      `json:"self"`
	Started time.Time `json:"started"`
	Seen    time.Time `json:"seen"`
	Alive   bool      `json:"alive"`
	NodeState
}

func nodeOf(n *records.Node, now time.Time) nodeItem {
	item := nodeItem{Name: n.Name, Started: n.Started, Seen: n.Seen, Alive: now.Sub(n.Seen) <= NodeAlive}
	json.Unmarshal([]byte(n.Detail), &item.NodeState) // what another version says otherwise stays zero
	return item
}

// nodes lists the nodes that were heard of lately, by name. Where the records cannot be
// read it is this one alone, which then says so.
func (a *api) nodes(w http.ResponseWriter, r *http.Request, _ *access.Identity) {
	if _, p := query(r.URL.RawQuery); p != nil {
		p.ServeHTTP(w, r)
		return
	}
	var list []records.Node
	var err error
	if a.Records != nil {
		if list, err = a.Records.Nodes(r.Context()); err != nil && a.Node == nil {
			a.lost(w, r, err)
			return
		}
	}
	now := time.Now().UTC()
	items := make([]nodeItem, 0, len(list)+1)
	for i := range list {
		items = append(items, nodeOf(&list[i], now))
	}
	if a.Node != nil {
		s := a.Node()
		if err != nil {
			a.Logger.Error("the records failed", "method", r.Method, "path", r.URL.Path, "error", err)
			s.RecordsOK = false
		}
		items = slices.DeleteFunc(items, func(n nodeItem) bool { return n.Name == s.Name })
		items = append(items, nodeItem{Name: s.Name, Self: true, Started: s.Started.UTC(), Seen: now, Alive: true, NodeState: s})
		slices.SortFunc(items, func(a, b nodeItem) int { return strings.Compare(a.Name, b.Name) })
	}
	writeList(w, items, "")
}

// self is what this node is called; "" where nobody says it.
func (a *api) self() string {
	if a.Node == nil {
		return ""
	}
	return a.Node().Name
}
