package fronttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
)

// OverRESP asks on a connection to a door in front of g that speaks the Redis protocol in
// version "2" or "3".
func OverRESP(g *Gate, conn net.Conn, version string) (*RESP, error) {
	o := &RESP{Holder: gatetest.Local(g.Gate), More: localMore{g}, gate: g, conn: conn, in: bufio.NewReader(conn)}
	hello, err := o.do("HELLO", version)
	if err != nil {
		return nil, err
	}
	if _, pairs := hello.(dict); pairs != (version == "3") {
		return nil, fmt.Errorf("HELLO %s: %T %v", version, hello, hello)
	}
	return o, nil
}

// RESP is the way of [OverRESP]. Explanations and batches do not exist there: the gate
// answers them.
type RESP struct {
	gatetest.Holder
	More
	gate *Gate
	conn net.Conn
	in   *bufio.Reader
}

func (o *RESP) Decide(_ context.Context, c gatetest.Call) (gatetest.Answer, error) {
	name := "HG.TAKE"
	if c.Peek {
		name = "hg.Peek"
	}
	return o.ask(c.At, append([]string{name}, spelled(&c.Request)...))
}

func (o *RESP) Reserve(_ context.Context, c gatetest.Call, ttl time.Duration) (gatetest.Answer, error) {
	args := append([]string{"HG.RESERVE"}, spelled(&c.Request)...)
	if ttl != 0 {
		args = append(args, "TTL", millis(ttl))
	}
	return o.ask(c.At, args)
}

func (o *RESP) Claim(_ context.Context, c gatetest.ClaimCall) (gatetest.Answer, error) {
	q := &c.Claim
	args := []string{"HG." + strings.ToUpper(c.Op.String()), q.Ticket}
	if q.Application != "" {
		args = append(args, "APPLICATION", q.Application)
	}
	if q.CostSaid {
		args = append(args, "COST", strconv.FormatInt(q.Cost, 10))
	}
	for unit, n := range q.Costs {
		args = append(args, "COSTS", unit, strconv.FormatInt(n, 10))
	}
	if q.TTL != 0 {
		args = append(args, "TTL", millis(q.TTL))
	}
	return o.ask(c.At, args)
}

// Throttle asks with HG.THROTTLE, which cannot only look: the gate does.
func (o *RESP) Throttle(ctx context.Context, at time.Time, t gate.Throttle) (gatetest.Answer, error) {
	if t.Peek {
		return o.More.Throttle(ctx, at, t)
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return o.ask(at, []string{"HG.THROTTLE", t.Key, number(t.Burst), number(t.Count), millis(t.Period), number(t.Cost)})
}

// Reset asks with HG.RESET.
func (o *RESP) Reset(_ context.Context, at time.Time, application, subject string, limits []string) (a gatetest.Answer, _ error) {
	args := []string{"HG.RESET", application, subject}
	for _, id := range limits {
		args = append(args, "LIMIT", id)
	}
	v, err := o.said(at, args)
	if err != nil {
		return a, err
	}
	e := entriesOf(v)
	a = gatetest.Answer{Subject: take[string](e, "subject"), Plan: take[string](e, "plan"), Limits: replyStates(e)}
	if n := take[int64](e, "reset"); n != int64(len(a.Limits)) {
		e.wrong("%d were reset, of %d", n, len(a.Limits))
	}
	if got := take[string](e, "application"); got != application {
		e.wrong("application %q", got)
	}
	take[int64](e, "policy_revision")
	return a, e.end()
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// spelled is r as arguments.
func spelled(r *gate.Request) []string {
	args := []string{r.Application, r.Operation, r.Subject}
	for _, o := range []struct{ word, value string }{
		{"PLAN", r.Plan}, {"ID", r.IdempotencyKey}, {"METHOD", r.Method}, {"PATH", r.Path}, {"HOST", r.Host},
	} {
		if o.value != "" {
			args = append(args, o.word, o.value)
		}
	}
	if r.CostSaid {
		args = append(args, "cost", strconv.FormatInt(r.Cost, 10))
	}
	for unit, n := range r.Costs {
		args = append(args, "COSTS", unit, strconv.FormatInt(n, 10))
	}
	for name, v := range r.Attributes {
		args = append(args, "Attr", name, v)
	}
	for name, lines := range r.Headers {
		for _, v := range lines {
			args = append(args, "HEADER", name, v)
		}
	}
	if r.IP.IsValid() {
		args = append(args, "IP", r.IP.String())
	}
	if r.MaxWaitSaid {
		args = append(args, "WAIT", millis(r.MaxWait))
	}
	return args
}

func (o *RESP) ask(at time.Time, args []string) (a gatetest.Answer, _ error) {
	v, err := o.said(at, args)
	if err != nil {
		return a, err
	}
	return replyOf(v)
}

// said is what the door replies to a command at an instant.
func (o *RESP) said(at time.Time, args []string) (any, error) {
	o.gate.At(at)
	// The door reads its clock once for what comes with one read: this brings another.
	if _, err := o.do("PING", "a new read"); err != nil {
		return nil, err
	}
	v, err := o.do(args...)
	if e, ok := v.(refusal); ok && err == nil {
		return nil, refusalOf(string(e))
	}
	return v, err
}

// do sends a command and reads its reply.
func (o *RESP) do(args ...string) (any, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(o.conn, b.String()); err != nil {
		return nil, err
	}
	return readReply(o.in)
}

// The replies that are no string, int64, nil or []any.
type (
	simple  string
	refusal string
	dict    []any // names and values by turns, as a map of RESP3
)

func readReply(r *bufio.Reader) (any, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	rest, ok := strings.CutSuffix(line[1:], "\r\n")
	if !ok {
		return nil, fmt.Errorf("line %q", line)
	}
	switch line[0] {
	case '+':
		return simple(rest), nil
	case '-':
		return refusal(rest), nil
	case '_':
		return nil, nil
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("line %q", line)
	}
	switch line[0] {
	case ':':
		return n, nil
	case '$':
		return readBulk(r, n)
	case '*':
		return readList(r, n)
	case '%':
		list, err := readList(r, 2*n)
		return dict(list), err
	}
	return nil, fmt.Errorf("line %q", line)
}

func readBulk(r *bufio.Reader, n int64) (any, error) {
	if n == -1 {
		return nil, nil
	}
	b := make([]byte, n+2)
	if _, err := io.ReadFull(r, b); err != nil || string(b[n:]) != "\r\n" {
		return nil, fmt.Errorf("bulk %q: %w", b, err)
	}
	return string(b[:n]), nil
}

func readList(r *bufio.Reader, n int64) (list []any, err error) {
	list = make([]any, n)
	for i := range list {
		if list[i], err = readReply(r); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// refusalOf is an error reply as the error that it was.
func refusalOf(s string) error {
	word, text, _ := strings.Cut(s, " ")
	code := map[string]headgate.Code{"ERR": headgate.InvalidRequest, "NOTFOUND": headgate.NotFound, "CONFLICT": headgate.Conflict, "UNAVAILABLE": headgate.Unavailable}[word]
	field, _, ok := strings.Cut(text, ": ")
	if !ok || strings.Contains(field, " ") {
		field = ""
	}
	return &headgate.Error{Code: code, Field: field, Err: errors.New(strings.TrimPrefix(text, field+": "))}
}

// entries are those of a reply, which all have to be read.
type entries struct {
	m   map[string]any
	err error
}

// entriesOf opens a map of either version.
func entriesOf(v any) *entries {
	list, ok := v.([]any)
	if d, is := v.(dict); is {
		list, ok = d, true
	}
	if !ok || len(list)%2 != 0 {
		return &entries{err: fmt.Errorf("%v is no map", v)}
	}
	e := &entries{m: make(map[string]any)}
	for i := 0; i < len(list); i += 2 {
		name, ok := list[i].(string)
		if _, twice := e.m[name]; !ok || twice {
			e.wrong("%v: entry %v", v, list[i])
		}
		e.m[name] = list[i+1]
	}
	return e
}

func (e *entries) wrong(format string, args ...any) {
	e.err = errors.Join(e.err, fmt.Errorf(format, args...))
}

func (e *entries) has(name string) bool {
	_, is := e.m[name]
	return is
}

// take returns an entry of a type, the zero value for null.
func take[T any](e *entries, name string) (v T) {
	raw, ok := e.m[name]
	delete(e.m, name)
	if raw == nil && ok {
		return v
	}
	v, is := raw.(T)
	if !ok || !is {
		e.wrong("%s is %T %v", name, raw, raw)
	}
	return v
}

func (e *entries) truth(name string) bool {
	n := take[int64](e, name)
	if n != 0 && n != 1 {
		e.wrong("%s is %d", name, n)
	}
	return n == 1
}

func (e *entries) span(name string) time.Duration { return ms(take[int64](e, name)) }

// skip reads entries that the contract does not speak of, if they are there.
func (e *entries) skip(names ...string) {
	for _, name := range names {
		delete(e.m, name)
	}
}

func (e *entries) end() error {
	if len(e.m) > 0 {
		e.wrong("left over: %v", e.m)
	}
	return e.err
}

// replyOf is a reply in the words of the contract.
func replyOf(v any) (got gatetest.Answer, err error) {
	e := entriesOf(v)
	if len(take[string](e, "decision_id")) != 32 {
		e.wrong("decision_id is too short")
	}
	got = gatetest.Answer{
		Allowed: e.truth("allowed"), Reason: take[string](e, "reason"), Retryable: e.truth("retryable"), BoundBy: take[string](e, "bound_by"),
		Rule: take[string](e, "rule"), Plan: take[string](e, "plan"), Subject: take[string](e, "subject"), Cost: take[int64](e, "cost"),
		Limit: take[int64](e, "limit"), Remaining: take[int64](e, "remaining"), RetryAfter: e.span("retry_after_ms"), ResetAfter: e.span("reset_after_ms"),
		Shadow: take[string](e, "mode") == "shadow", WouldDeny: take[string](e, "would_deny"), Degraded: take[string](e, "degraded"),
		Replayed: e.truth("replayed"), Ticket: take[string](e, "ticket"),
	}
	if e.has("held") {
		got.Held = e.truth("held")
	}
	take[string](e, "application")
	take[string](e, "operation")
	take[int64](e, "waited_ms")
	take[int64](e, "policy_revision")
	e.skip("delay_ms", "message")
	costs := entriesOf(e.m["costs"])
	e.skip("costs")
	for unit := range costs.m {
		if got.Costs == nil {
			got.Costs = make(map[string]int64)
		}
		got.Costs[unit] = take[int64](costs, unit)
	}
	e.err = errors.Join(e.err, costs.end())
	if v := e.m["candidate"]; v != nil {
		c := entriesOf(v)
		got.Candidate = &gatetest.Candidate{
			Allowed: c.truth("allowed"), Reason: take[string](c, "reason"), BoundBy: take[string](c, "bound_by"),
			RetryAfter: c.span("retry_after_ms"), Limits: replyStates(c),
		}
		e.err = errors.Join(e.err, c.end())
	}
	e.skip("candidate")
	got.Limits = replyStates(e)
	return got, e.end()
}

func replyStates(e *entries) (list []gatetest.State) {
	for _, v := range take[[]any](e, "limits") {
		l := entriesOf(v)
		s := gatetest.State{
			ID: take[string](l, "id"), Owner: take[string](l, "owner"), Unit: take[string](l, "unit"), Allowed: l.truth("allowed"),
			Limit: take[int64](l, "limit"), Used: take[int64](l, "used"), Remaining: take[int64](l, "remaining"), Overage: take[int64](l, "overage"),
			RetryAfter: l.span("retry_after_ms"), ResetAfter: l.span("reset_after_ms"), Shadow: take[string](l, "mode") == "shadow",
		}
		take[string](l, "algorithm")
		l.truth("exact")
		l.skip("rollover", "recovering")
		if at := take[string](l, "resets_at"); at != "" {
			t, err := time.Parse(time.RFC3339, at)
			l.err = errors.Join(l.err, err)
			s.ResetsAt = t.UTC()
		}
		e.err = errors.Join(e.err, l.end())
		list = append(list, s)
	}
	return list
}
