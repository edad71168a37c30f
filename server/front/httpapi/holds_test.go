package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

const holdsPolicy = `
version: 1
applications:
  a:
    rules:
      - {name: slots, match: {operation: slots}, limits: [{name: inflight, algorithm: concurrency, max: 1, ttl: 30s}]}
      - {name: tokens, match: {operation: tokens}, limits: [{name: tokens, unit: tokens, rate: 10/h}]}
      - {name: once, match: {operation: once}, limits: [{name: burst, rate: 2/h}]}
      - {name: trial, match: {operation: trial}, limits: [{name: burst, rate: 2/h}], candidate: {limits: [{name: strict, rate: 1/h}]}}
      - {name: strict, match: {operation: strict}, limits: [{name: burst, rate: 1/min}], ban: {after: 2, within: 1min, for: 15min}}
`

// holds is a door on a real gate with limits that hold.
type holds struct {
	t   *testing.T
	url string
}

func openHolds(t *testing.T) holds {
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(holdsPolicy), Store: memstore.New(memstore.Config{MaxBytes: 1 << 20})})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := serve(t, Config{Gate: g})
	return holds{t, s.URL}
}

// ask posts members of an object and returns the decision.
func (h holds) ask(path, members string) *answer {
	h.t.Helper()
	resp, body := send(h.t, post1(h.t, h.url+path, "{"+members+"}"))
	a := new(answer)
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(a); err != nil || resp.StatusCode != http.StatusOK {
		h.t.Fatalf("%s {%s}: %d %s %v", path, members, resp.StatusCode, body, err)
	}
	return a
}

func (h holds) take(operation, more string) *answer {
	h.t.Helper()
	return h.ask("/v1/take", `"application":"a","operation":"`+operation+`","subject":"alice"`+more)
}

func ticket(t *testing.T, a *answer) string {
	t.Helper()
	if a.Ticket == nil || *a.Ticket == "" || len(*a.Ticket) > gate.MaxTicket {
		t.Fatalf("no ticket in %+v", a)
	}
	text, err := json.Marshal(*a.Ticket)
	if err != nil {
		t.Fatal(err)
	}
	return `"ticket":` + string(text)
}

func TestTakeAndRelease(t *testing.T) {
	h := openHolds(t)
	first := h.take("slots", "")
	open := ticket(t, first)
	if first.Held != nil {
		t.Errorf("held is told of a take: %+v", first)
	}
	if a := h.take("slots", ""); a.Allowed || a.Reason != "concurrency_exceeded" || a.Ticket != nil {
		t.Errorf("%+v", a)
	}
	if a := h.ask("/v1/renew", open+`,"ttl_ms":60000,"application":"a"`); !or(a.Held) || a.Subject != "alice" {
		t.Errorf("renew: %+v", a)
	}
	for _, want := range []bool{true, false} {
		if a := h.ask("/v1/release", open); a.Held == nil || *a.Held != want {
			t.Errorf("release: %+v, want held %v", a, want)
		}
	}
	if a := h.take("slots", ""); !a.Allowed {
		t.Errorf("%+v", a)
	}
	resp, body := send(t, post1(t, h.url+"/v1/release", `{"ticket":"nonsense"}`))
	if resp.StatusCode != 400 || !strings.Contains(body, `"pointer":"/ticket"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestReserveAndSettle(t *testing.T) {
	h := openHolds(t)
	tokens := func(n int) string {
		return fmt.Sprintf(`"application":"a","operation":"tokens","subject":"alice","costs":{"tokens":%d}`, n)
	}
	a := h.ask("/v1/reserve", tokens(8)+`,"ttl_ms":30000`)
	open := ticket(t, a)
	if a.Costs["tokens"] != 8 || len(a.Limits) != 1 || a.Limits[0].Unit != "tokens" || a.Limits[0].Remaining != 2 {
		t.Errorf("%+v", a)
	}
	if a := h.ask("/v1/peek", tokens(3)); a.Allowed || a.Ticket != nil {
		t.Errorf("%+v", a)
	}
	if a := h.ask("/v1/settle", open+`,"costs":{"tokens":5}`); !or(a.Held) || a.Limits[0].Remaining != 5 {
		t.Errorf("%+v", a)
	}
	if a := h.ask("/v1/settle", open+`,"costs":{"tokens":0}`); or(a.Held) {
		t.Errorf("settled twice: %+v", a)
	}
	if a := h.ask("/v1/take", tokens(5)); !a.Allowed || a.Limits[0].Remaining != 0 {
		t.Errorf("%+v", a)
	}
}

func TestIdempotency(t *testing.T) {
	h := openHolds(t)
	const key = `,"idempotency_key":"k"`
	if a := h.take("once", key); !a.Allowed || a.Replayed || or(a.Remaining) != 1 {
		t.Errorf("%+v", a)
	}
	r := post1(t, h.url+"/v1/take", `{"application":"a","operation":"once","subject":"alice"}`)
	r.Header.Set("Idempotency-Key", "k")
	if resp, body := send(t, r); resp.StatusCode != 200 || !strings.Contains(body, `"replayed":true`) || !strings.Contains(body, `"remaining":1,`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	resp, body := send(t, post1(t, h.url+"/v1/take", `{"application":"a","operation":"once","subject":"alice","cost":2`+key+`}`))
	if resp.StatusCode != 422 || !strings.Contains(body, `"type":"urn:headgate:problem:idempotency_key_reused"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	resp, body = send(t, post1(t, h.url+"/v1/take/batch", `{"items":[{"application":"a","operation":"once","subject":"alice"`+key+`},{"application":"a","operation":"once","subject":"alice","cost":2`+key+`}]}`))
	list := results(t, resp, body)
	if len(list) != 2 || list[0] != "alice ok" || !strings.HasPrefix(list[1], "422 /items/1") {
		t.Errorf("%v", list)
	}
}

func TestTicketOfBatch(t *testing.T) {
	h := openHolds(t)
	const slots = `{"application":"a","operation":"slots","subject":"alice"}`
	resp, body := send(t, post1(t, h.url+"/v1/take/batch", `{"items":[`+slots+`]}`))
	var m struct{ Results []result }
	if err := json.Unmarshal([]byte(body), &m); err != nil || resp.StatusCode != 200 || len(m.Results) != 1 {
		t.Fatalf("%d %s %v", resp.StatusCode, body, err)
	}
	if a := h.ask("/v1/release", ticket(t, m.Results[0].Decision)); !or(a.Held) {
		t.Errorf("%+v", a)
	}
	// Nobody could release what an atomic batch took.
	resp, body = send(t, post1(t, h.url+"/v1/take/batch", `{"atomic":true,"items":[`+slots+`]}`))
	if resp.StatusCode != 400 || !strings.Contains(body, `"pointer":"/items/0/`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestCandidateAndBan(t *testing.T) {
	h := openHolds(t)
	if a := h.take("trial", ""); a.Candidate == nil || !a.Candidate.Allowed || len(a.Candidate.Limits) != 1 || a.Candidate.Limits[0].Remaining != 0 {
		t.Errorf("%+v", a.Candidate)
	}
	if a := h.take("trial", ""); !a.Allowed || a.Candidate == nil || a.Candidate.Allowed || a.Candidate.Reason != "rate_limited" || or(a.Candidate.RetryAfterMS) == 0 {
		t.Errorf("%+v", a.Candidate)
	}
	for i, want := range []string{"ok", "rate_limited", "banned"} {
		a := h.take("strict", "")
		if a.Reason != want || a.Candidate != nil || len(a.Limits) != 2 || a.Limits[1].Algorithm != "ban" || !strings.HasSuffix(a.Limits[1].ID, "/ban") {
			t.Errorf("%d: %+v", i, a)
		}
	}
}
