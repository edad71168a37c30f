package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/admin"
)

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the nodes, which modes hold, and what needs attention",
		Long: `Show the nodes that share the records, which modes hold, and what needs
attention. The node that was asked has a * behind its name.

  headgate status
  headgate status --json`,
		Args: args(cobra.NoArgs),
	}
	reach := adminCommand(cmd)
	asJSON := cmd.Flags().Bool("json", false, `print one object with "nodes", "modes" and "attention"`)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		server, err := reach()
		if err != nil {
			return err
		}
		var s status
		if s.nodes, err = server.call(cmd.Context(), http.MethodGet, "/v1/nodes", nil, patient); err != nil {
			return err
		}
		if s.modes, err = server.call(cmd.Context(), http.MethodGet, "/v1/mode", nil, patient); err != nil {
			return err
		}
		if err := s.read(time.Now()); err != nil {
			return err
		}
		if *asJSON {
			return s.writeJSON(cmd.OutOrStdout())
		}
		return s.show(cmd.OutOrStdout())
	}
	return cmd
}

// status is what is printed of a server and those beside it.
type status struct {
	nodes, modes []byte // as the server says them
	now          time.Time
	list         []nodeLine
	attention    []string
}

// nodeLine is what is printed of a node.
type nodeLine struct {
	Name          string
	Self, Alive   bool
	Started, Seen time.Time
	admin.NodeState
}

// read understands what the server says.
func (s *status) read(now time.Time) error {
	var nodes struct{ Items []nodeLine }
	if err := json.Unmarshal(s.nodes, &nodes); err != nil {
		return notOurs(err)
	}
	s.now, s.list = now, nodes.Items
	alive := make(map[uint64][]string) // by the revision of their policy
	for i := range s.list {
		n := &s.list[i]
		s.attention = append(s.attention, n.complaints(now)...)
		if n.Alive {
			alive[n.PolicyRevision] = append(alive[n.PolicyRevision], plain(n.Name))
		}
	}
	if len(alive) > 1 {
		var parts []string
		for _, revision := range slices.Sorted(maps.Keys(alive)) {
			parts = append(parts, fmt.Sprintf("%d on %s", revision, strings.Join(alive[revision], ", ")))
		}
		s.attention = append(s.attention, "The nodes are on different revisions of the policy: "+strings.Join(parts, "; ")+". A change takes 2 s; after that, see what their logs say of records and policy.")
	}
	return nil
}

// complaints says what of a node needs attention.
func (n *nodeLine) complaints(now time.Time) (list []string) {
	say := func(format string, args ...any) { list = append(list, plain(n.Name)+": "+fmt.Sprintf(format, args...)) }
	if !n.Alive {
		say("was not heard of for %s. It has ended without a stop, or cannot reach the records.", coarse(now.Sub(n.Seen).Milliseconds()))
		return list
	}
	switch {
	case !n.StoreUp:
		say("its store (%s) is away. Limits do what their on_store_error says.", plain(n.Store))
	case n.Breaker == "half_open":
		say("its store (%s) was away, and is tried again.", plain(n.Store))
	}
	if !n.Ready {
		say("is not ready. /readyz there says why.")
	}
	if !n.PolicyOK {
		say("the last policy that it was given has faults; revision %d stays in force. Its log names them.", n.PolicyRevision)
	}
	if !n.RecordsOK {
		say("cannot reach its records (%s). Decisions go on; changes, and other nodes, are not seen.", plain(n.Records))
	}
	if n.UsageFailures > 0 {
		say("usage could not be put on record %s; %s.", times(n.UsageFailures), waiting(n.UsageRows))
	}
	if n.MemoryLimit > 0 && n.MemoryBytes >= n.MemoryLimit/100*95 {
		say("its memory for state is full to %d %% of %s. Beyond that new keys share budgets: raise --memory.", n.MemoryBytes*100/n.MemoryLimit, size(n.MemoryLimit))
	}
	return list
}

// times says how often.
func times(n int64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times in a row", n)
}

func waiting(rows int64) string {
	if rows == 1 {
		return "1 row waits"
	}
	return fmt.Sprintf("%d rows wait", rows)
}

func (s *status) show(w io.Writer) error {
	if len(s.list) == 0 {
		fmt.Fprintln(w, "no node was heard of")
	} else {
		rows := [][]string{{"NODE", "UP", "SEEN", "VERSION", "POLICY", "STORE", "BREAKER", "LEASES", "PER S"}}
		for i := range s.list {
			rows = append(rows, s.list[i].cells(s.now))
		}
		writeTable(w, rows, []int{0, 3}, 5)
	}
	fmt.Fprintln(w)
	if err := showModes(w, s.modes, s.now); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if len(s.attention) == 0 {
		_, err := fmt.Fprintln(w, "nothing needs attention")
		return err
	}
	fmt.Fprintln(w, "Needs attention:")
	for _, a := range s.attention {
		fmt.Fprintln(w, "  - "+wrap(a, 4))
	}
	return nil
}

func (n *nodeLine) cells(now time.Time) []string {
	name, seen := n.Name, "now"
	if n.Self {
		name += "*"
	} else if ago := now.Sub(n.Seen); ago >= time.Second {
		seen = coarse(ago.Milliseconds())
	}
	store := n.Store
	if !n.StoreUp {
		store += " (away)"
	}
	breaker := strings.ReplaceAll(n.Breaker, "_", " ")
	if breaker == "" {
		breaker = "-"
	}
	return []string{
		name, n.up(now), seen, n.Version, strconv.FormatUint(n.PolicyRevision, 10), store, breaker,
		strconv.FormatInt(n.Leases, 10), strconv.FormatFloat(n.DecisionsPerSecond, 'f', 1, 64),
	}
}

// up says since when a node is there, in whole units of what is told.
func (n *nodeLine) up(now time.Time) string {
	d := max(now.Sub(n.Started), 0)
	for _, unit := range []time.Duration{time.Hour, time.Minute, time.Second} {
		if d >= unit {
			d = d.Truncate(unit)
			break
		}
	}
	return span(d.Milliseconds())
}

// writeJSON writes what the server says, and what needs attention.
func (s *status) writeJSON(w io.Writer) error {
	var nodes, modes struct{ Items json.RawMessage }
	if err := errors.Join(json.Unmarshal(s.nodes, &nodes), json.Unmarshal(s.modes, &modes)); err != nil {
		return notOurs(err)
	}
	attention := s.attention
	if attention == nil {
		attention = []string{}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		Nodes     json.RawMessage `json:"nodes"`
		Modes     json.RawMessage `json:"modes"`
		Attention []string        `json:"attention"`
	}{nodes.Items, modes.Items, attention})
}
