package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/headgate/headgate/server/admin"
	"github.com/headgate/headgate/server/records"
)

const (
	// announceEvery is how often a node says in the records how it is.
	announceEvery = 5 * time.Second
	// paceOver is the time over which its decisions per second are a mean.
	paceOver = 10 * time.Second
)

// nodeName names a node after its machine and where it listens.
func nodeName(at net.Addr) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if tcp, ok := at.(*net.TCPAddr); ok {
		return fmt.Sprintf("%.200s:%d", host, tcp.Port)
	}
	return fmt.Sprintf("%.200s:%s", host, at)
}

// node is how this node is.
func (h *house) node() admin.NodeState {
	s := h.state()
	name, commit := buildVersion()
	n := admin.NodeState{
		Name: h.name, Started: h.started, Version: name, Commit: commit, HTTP: addressOf(h.at.http), GRPC: addressOf(h.at.grpc), RESP: addressOf(h.at.resp), Ready: h.gate.Ready() == nil,
		PolicyRevision: s.Revision, PolicyOK: s.ReloadOK, Store: h.settings.storeKind(), StoreUp: s.StoreUp,
		Waiting: int64(s.Waiting), Modes: len(s.Modes), Records: h.settings.recordsKind(),
	}
	if m := s.Memory; m != nil {
		n.Keys, n.MemoryBytes, n.MemoryLimit = m.Keys, m.Bytes, m.Limit
	}
	if sh := s.Shared; sh != nil {
		n.Breaker, n.Peers = [...]string{"closed", "half_open", "open"}[sh.Breaker], sh.Nodes
		n.Leases, n.LeaseTokens, n.LeaseDecisions = sh.Leases, sh.LeaseTokens, sh.LeaseDecisions
	}
	if r := s.Records; r != nil {
		n.RecordsOK, n.UsageRows, n.UsageFailures = r.Up, r.UsageRows, r.UsageFailures
	}
	var decided int64
	for _, second := range h.meter.Rates(paceOver).Seconds {
		decided += second.Allowed + second.Denied
	}
	n.DecisionsPerSecond = float64(decided) / paceOver.Seconds()
	return n
}

// storeKind names the kind of store without what a URL holds.
func (s *settings) storeKind() string {
	if k := kindOf(s.store); k != nil {
		return k.name
	}
	return s.store
}

// recordsKind names the kind of database of the records.
func (s *settings) recordsKind() string {
	if strings.HasPrefix(s.records, "postgres") {
		return "postgres"
	}
	return "sqlite"
}

// announce says in the records how this node is, until ctx ends, and then that it has
// gone.
func (h *house) announce(ctx context.Context, db *records.DB) {
	t := time.NewTicker(announceEvery)
	defer t.Stop()
	for failing := false; ; {
		n := h.node()
		detail, err := json.Marshal(n)
		if err == nil {
			within, cancel := context.WithTimeout(ctx, announceEvery)
			err = db.PutNode(within, records.Node{Name: n.Name, Started: n.Started, Detail: string(detail)})
			cancel()
		}
		if err != nil && !failing && ctx.Err() == nil {
			h.log.Warn("other nodes do not hear of this one: it could not be put on record", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = db.DeleteNode(end, h.name) // else it is forgotten in time
			return
		case <-t.C:
		}
	}
}
